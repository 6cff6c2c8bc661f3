package intake

import (
	"errors"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/manifest"
)

// template returns the one that the settings name, or the only one whose
// handler is in the tree.
func (in *Intake) template(said orchestrator.Spec, fsys fs.FS) (orchestrator.Template, error) {
	if said.Template != "" {
		return in.named(said.Template)
	}
	var fits []orchestrator.Template
	for _, t := range in.templates.Templates() {
		// Handlers only: a handler that the settings name would fit any template.
		found, err := handlerFiles(fsys, t.Handlers)
		if err != nil {
			return orchestrator.Template{}, err
		}
		if usable(fsys, t, found) {
			fits = append(fits, t)
		}
	}
	return in.only(fits, func() *orchestrator.Error {
		return invalid("template-missing", "no template is named and none has its handler in the archive, which holds %s", topLevel(fsys))
	})
}

// usable leaves out files that only look like a handler.
func usable(fsys fs.FS, t orchestrator.Template, found []string) bool {
	for _, name := range found {
		if verify(fsys, t, orchestrator.Spec{}, name) == nil {
			return true
		}
	}
	return false
}

func (in *Intake) named(name string) (orchestrator.Template, error) {
	t, err := in.templates.Template(name)
	if errors.Is(err, orchestrator.ErrNotFound) {
		// To the caller of a deploy an unknown template is bad input, not a page
		// that does not exist.
		return t, invalid("template-unknown", "there is no template %q", name).WithHint("choose one of %s", in.names(in.templates.Templates()))
	}
	return t, err
}

// only returns the one template of several that fit.
func (in *Intake) only(fits []orchestrator.Template, none func() *orchestrator.Error) (orchestrator.Template, error) {
	const hint = "name the template in " + manifest.FileName + ", or give it with --template or the form field template: %s"
	switch len(fits) {
	case 1:
		return fits[0], nil
	case 0:
		return orchestrator.Template{}, none().WithHint(hint, in.names(in.templates.Templates()))
	}
	return orchestrator.Template{}, invalid("template-ambiguous", "the code fits several templates: %s", in.names(fits)).WithHint(hint, "one of "+in.names(fits))
}

func (in *Intake) names(templates []orchestrator.Template) string {
	var all []string
	for _, t := range templates {
		all = append(all, t.Name)
	}
	return strings.Join(all, ", ")
}

// suffixes of archives, which are no part of a function's name; longest first.
var suffixes = []string{".tar.gz", ".tar.zst", ".tar", ".tgz", ".tzst", ".zip"}

// nameFrom makes a function's name of a file's: "hello.tar.gz" and "hello.py"
// give "hello". It is empty when that is no valid name.
func nameFrom(filename string) string {
	base := baseName(filename)
	lower := strings.ToLower(base)
	cut := len(base) - len(path.Ext(base))
	for _, suffix := range suffixes {
		if strings.HasSuffix(lower, suffix) {
			cut = len(base) - len(suffix)
			break
		}
	}
	name := base[:cut]
	if orchestrator.ValidateName(name) != nil {
		return ""
	}
	return name
}

// baseName returns the last component of a path of whatever system.
func baseName(filename string) string {
	return filename[strings.LastIndexAny(filename, `/\`)+1:]
}

// topLevel lists what is at the root of a tree, for messages.
func topLevel(fsys fs.FS) string {
	const most = 10
	entries, err := fs.ReadDir(fsys, ".")
	if err != nil || len(entries) == 0 {
		return "nothing"
	}
	var names []string
	for _, e := range entries[:min(most, len(entries))] {
		name := e.Name()
		if e.IsDir() {
			name += "/"
		}
		names = append(names, name)
	}
	if len(entries) > most {
		names = append(names, "…")
	}
	return strings.Join(names, ", ")
}

// topFolder returns the one folder that a tree consists of, as archives from
// code hosts do, or nothing.
func topFolder(fsys fs.FS) string {
	entries, err := fs.ReadDir(fsys, ".")
	if err != nil || len(entries) != 1 || !entries[0].IsDir() {
		return ""
	}
	return entries[0].Name()
}

// handlerFiles returns the files that match any of the patterns, in the order
// of the patterns.
func handlerFiles(fsys fs.FS, patterns []string) ([]string, error) {
	var found []string
	for _, pattern := range patterns {
		matches, err := fs.Glob(fsys, pattern)
		if err != nil {
			return nil, orchestrator.Errorf(orchestrator.ErrInvalid, "handler-invalid", "%q is not a pattern", pattern).WithHint("name the file")
		}
		for _, name := range matches {
			if isFile(fsys, name) && !slices.Contains(found, name) {
				found = append(found, name)
			}
		}
	}
	return found, nil
}

func isFile(fsys fs.FS, name string) bool {
	info, err := fs.Stat(fsys, name)
	return err == nil && info.Mode().IsRegular()
}
