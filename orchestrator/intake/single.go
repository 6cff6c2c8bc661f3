package intake

import (
	"bytes"
	"context"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/archive"
	"github.com/kilnfaas/kiln/orchestrator/manifest"
)

// single takes one source file in as a tree that consists of it.
func (in *Intake) single(ctx context.Context, upload Upload, body io.Reader, head []byte, root *os.Root) (orchestrator.Spec, string, error) {
	said, err := manifest.Apply(orchestrator.DefaultSpec(), upload.Overrides...)
	if err != nil {
		return orchestrator.Spec{}, "", err
	}
	template, err := in.templateOfFile(said, upload.Filename, head)
	if err != nil {
		return orchestrator.Spec{}, "", err
	}
	name := nameInTree(template, said.Handler, upload.Filename)
	if _, err := archive.Single(ctx, body, root, name, modeOf(head), in.limits); err != nil {
		return orchestrator.Spec{}, "", err
	}
	docs := append([]manifest.Document{}, upload.Overrides...)
	docs = append(docs, manifest.Document{Name: "the file's template", Data: []byte("template: " + template.Name)})
	return in.finish(ctx, upload, docs, root)
}

// templateOfFile returns the template that the settings name, or the only one
// that has handlers of the file's kind.
func (in *Intake) templateOfFile(said orchestrator.Spec, filename string, head []byte) (orchestrator.Template, error) {
	if said.Template != "" {
		return in.named(said.Template)
	}
	var fits []orchestrator.Template
	for _, t := range in.templates.Templates() {
		if handlerFor(t, baseName(filename)) != "" {
			fits = append(fits, t)
		}
	}
	return in.only(fits, func() *orchestrator.Error {
		if !printable(head) {
			return invalid("archive-format-unknown", "this is neither an archive nor the source of a function")
		}
		return invalid("template-missing", "this is not an archive, and no template takes a single file %q", shorten(baseName(filename)))
	})
}

// nameInTree returns where a template looks for a single file: under the
// handler that the settings name, its own name if it is one of the template's,
// or the template's.
func nameInTree(t orchestrator.Template, handler, filename string) string {
	if file, _, _ := strings.Cut(handler, ":"); file != "" {
		return file
	}
	filename = baseName(filename)
	if name := handlerFor(t, filename); name != "" {
		return name
	}
	// The first handler that is a name of its own: "handler", "Dockerfile".
	for _, pattern := range t.Handlers {
		if !isPattern(pattern) {
			return pattern
		}
	}
	return filename
}

// handlerFor returns the handler of a template that a file stands for, or
// nothing: the one it matches, or the one with its extension that is called like
// the first.
func handlerFor(t orchestrator.Template, filename string) string {
	if filename == "" {
		return ""
	}
	for _, pattern := range t.Handlers {
		if ok, err := path.Match(pattern, filename); err == nil && ok {
			return filename
		}
	}
	extension := path.Ext(filename)
	if extension == "" || extension == filename || len(t.Handlers) == 0 {
		return ""
	}
	// Others, such as package.json, are not sources.
	if want := stem(t.Handlers[0]) + extension; slices.Contains(t.Handlers, want) {
		return want
	}
	return ""
}

func stem(name string) string { return strings.TrimSuffix(name, path.Ext(name)) }

func isPattern(pattern string) bool { return strings.ContainsAny(pattern, `*?[\`) }

// modeOf makes scripts and programs executable: a single file has no mode.
func modeOf(head []byte) fs.FileMode {
	if bytes.HasPrefix(head, []byte("#!")) || bytes.HasPrefix(head, []byte("\x7fELF")) {
		return 0o755
	}
	return 0o644
}

// printable says whether something looks like text.
func printable(head []byte) bool { return bytes.IndexByte(head, 0) < 0 }
