// Package orchestrator is Kiln's domain: functions, revisions and releases, the
// contracts its adapters fulfil (Engine, Images, Builder, Store), the error
// classes, and the use cases that tie them together.
//
// A Function is a name, its settings and the revision that is live. A Revision
// is immutable: archive digest, template digest and build options give one
// image. A Release is what the running side needs to serve one revision.
//
// The package imports the standard library and uuid only. Adapters live in
// subpackages named after what they adapt; cmd/kiln wires them.
package orchestrator
