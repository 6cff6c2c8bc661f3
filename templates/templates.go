// Package templates holds Kiln's languages, one folder each: a Dockerfile, the
// runtime that serves the function inside its container, a scaffold for
// `kiln new`, and template.yaml, which describes them.
//
// The folder is the whole template: one that is added beside the others is in
// the catalogue after the next build. What several templates share lives under
// shared/: shared/bases has the Dockerfiles of fallback base images, and every
// other folder of shared/ joins the build context of the templates that
// include it.
package templates

import (
	"embed"
	"fmt"
	"io/fs"
	"sync"
)

// all: keeps files that begin with a dot; the pattern needs no change for a new
// template.
//
//go:embed all:*/*
var embedded embed.FS

// Paths inside a build context.
const (
	// ContextDockerfile is the template's Dockerfile.
	ContextDockerfile = "Dockerfile"
	// ContextCA is a bundle of additional CA certificates in PEM. Whoever
	// composes a context always writes it, empty when there are none.
	ContextCA = ".kiln/ca.crt"
)

// Build arguments that every template's Dockerfile understands, beside the
// Args of its Bases.
const (
	ArgHandler  = "KILN_HANDLER"  // Spec.Handler
	ArgPackages = "KILN_PACKAGES" // Debian packages, separated by blanks
	ArgTest     = "KILN_TEST"     // "1" runs the function's own tests
)

// CodePath is where an image keeps the function: handler and dependencies. A
// tar of it is all that a cell of the template needs. Cells have a tmpfs there
// from which files may be executed.
const CodePath = "/function"

// Embedded returns the templates that are part of the binary, read once.
func Embedded() (*Catalogue, error) { return loadEmbedded() }

var loadEmbedded = sync.OnceValues(func() (*Catalogue, error) { return Load(embedded) })

// Load reads the templates of fsys: every folder with a template.yaml. An error
// names the template and, where it is about template.yaml, line and column.
func Load(fsys fs.FS) (*Catalogue, error) {
	entries, err := fs.ReadDir(fsys, ".")
	if err != nil {
		return nil, fmt.Errorf("read the templates: %w", err)
	}
	c := &Catalogue{byName: map[string]*entry{}}
	for _, dir := range entries {
		if !dir.IsDir() {
			continue
		}
		if _, err := fs.Stat(fsys, dir.Name()+"/"+manifestName); err != nil {
			continue
		}
		e, err := loadEntry(fsys, dir.Name())
		if err != nil {
			return nil, fmt.Errorf("template %s: %w", dir.Name(), err)
		}
		c.byName[dir.Name()] = e
	}
	return c, nil
}
