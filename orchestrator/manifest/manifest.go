// Package manifest reads and writes function.yaml, the settings of a function.
//
// Reading is strict. An unknown key, a wrong type, a key that comes twice and a
// value out of range are errors with line and column. A Document may also be
// JSON, as the API sends it; both are read by the same rules:
//
//   - what a document does not mention stays as it was;
//   - env and build.args are merged key by key, and null removes a key (RFC
//     7396); null in place of the whole map empties it;
//   - a list replaces the list, and null empties it;
//   - a section such as resources may be left empty; other keys may not be null;
//   - values of env and build.args may be written as numbers and booleans and
//     are taken letter by letter: VERSION: 1.10 is "1.10".
//
// YAML's anchors, aliases, tags, merge keys and explicit keys are refused, as
// are several documents in one file.
//
// A new key is one line in the table in keys.go. Reading, checking, writing and
// the hints follow from it.
package manifest

import "github.com/kilnfaas/kiln/orchestrator"

// FileName is the name of the manifest at the root of a function's folder.
const FileName = "function.yaml"

// MaxSize bounds a document, in bytes: room for the longest environment that
// Validate allows.
const MaxSize = 64 << 10

// Document is settings in YAML or JSON.
type Document struct {
	Name string // says in messages where they came from: "function.yaml", "the form"
	Data []byte
}

// Defaults returns the settings of a function of a template that nothing else
// is said about.
func Defaults(template orchestrator.Template) orchestrator.Spec {
	spec := orchestrator.DefaultSpec()
	if template.Defaults.Concurrency != 0 {
		spec.Concurrency = template.Defaults.Concurrency
	}
	if template.Defaults.Memory != 0 {
		spec.Resources.Memory = template.Defaults.Memory
	}
	return spec
}

// Apply merges documents over base, the last one winning, and returns the
// result, which shares nothing with base. Each value is checked by itself;
// Validate checks them together. The error is ErrInvalid, or ErrTooLarge for a
// document over MaxSize.
func Apply(base orchestrator.Spec, docs ...Document) (orchestrator.Spec, error) {
	spec := base.Clone()
	for _, doc := range docs {
		root, err := read(doc)
		if err != nil {
			return orchestrator.Spec{}, err
		}
		if root.kind == kindNull {
			continue
		}
		if err := apply(&spec, root, "", keys); err != nil {
			return orchestrator.Spec{}, locate(doc.Name, err)
		}
	}
	return spec, nil
}

// read parses a document into nodes.
func read(doc Document) (*node, error) {
	if len(doc.Data) > MaxSize {
		return nil, orchestrator.Errorf(orchestrator.ErrTooLarge, "manifest-too-large", "%s has %d bytes, %d are allowed", doc.Name, len(doc.Data), MaxSize).
			WithHint("keep data in files beside the code")
	}
	root, err := parse(doc.Data)
	if err != nil {
		return nil, locate(doc.Name, err)
	}
	return root, nil
}

// apply takes the keys of a mapping into spec.
func apply(spec *orchestrator.Spec, n *node, path string, table []key) error {
	if n.kind != kindMap {
		what := "the document"
		if path != "" {
			what = path
		}
		return n.errorf("manifest-type", "%s must be %s, not %s", what, kindMap, n.kind).
			WithHint("allowed keys are %s", names(table))
	}
	for _, e := range n.entries {
		k, ok := find(table, e.key)
		if !ok {
			return unknown(e, path, table)
		}
		if err := k.apply(spec, e.value, join(path, k.name)); err != nil {
			return err
		}
	}
	return nil
}

func (k key) apply(spec *orchestrator.Spec, n *node, path string) error {
	if k.keys != nil {
		if n.kind == kindNull {
			return nil
		}
		return apply(spec, n, path, k.keys)
	}
	if err := k.read(spec, n, path); err != nil {
		return err
	}
	if err := k.check(*spec); err != nil {
		return n.wrap(path, err)
	}
	return nil
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}
