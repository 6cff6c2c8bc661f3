package templates

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/kilnfaas/kiln/orchestrator"
)

// FallbackPrefix begins the tag of every fallback base image.
const FallbackPrefix = "kiln-base/"

// File is one file of a template.
type File struct {
	Data []byte
	Mode fs.FileMode // permission bits: 0o755 for scripts, else 0o644
}

// Catalogue is a set of templates. It is immutable; what its methods return
// belongs to the caller, except File.Data, which must not be changed.
type Catalogue struct {
	byName map[string]*entry
}

type entry struct {
	template  orchestrator.Template
	context   map[string]File // by path in the build context
	scaffold  map[string]File // by path in the function's folder, not rendered
	fallbacks map[string]map[string]File
}

func loadEntry(fsys fs.FS, dir string) (*entry, error) {
	m, err := readManifest(fsys, dir)
	if err != nil {
		return nil, err
	}
	e := &entry{context: map[string]File{}, scaffold: map[string]File{}, fallbacks: map[string]map[string]File{}}
	all, err := readTree(fsys, dir)
	if err != nil {
		return nil, err
	}
	for name, file := range all {
		first, rest, _ := strings.Cut(name, "/")
		switch first {
		case manifestName, basesDir, conformanceDir:
		case scaffoldDir:
			e.scaffold[rest] = file
		default:
			e.context[name] = file
		}
	}
	for _, name := range m.Include {
		tree, err := readTree(fsys, sharedDir+"/"+name)
		if err != nil {
			return nil, err
		}
		for file, f := range tree {
			e.context[sharedDir+"/"+name+"/"+file] = f
		}
	}
	for _, base := range m.Bases {
		if base.Fallback == "" {
			continue
		}
		if e.fallbacks[base.Fallback], err = readFallback(fsys, dir, base.Fallback); err != nil {
			return nil, err
		}
	}
	if _, ok := e.context[ContextDockerfile]; !ok && m.CodeDir != "." {
		return nil, errors.New("it has no Dockerfile, which only code_dir: . may leave to the function")
	}
	e.template = m.template(dir, digest(m, e))
	return e, nil
}

// readFallback finds the Dockerfile of a fallback, "kiln-base/python:3.13" in
// bases/python-3.13/, in the template's own folder or the shared one.
func readFallback(fsys fs.FS, dir, tag string) (map[string]File, error) {
	name := strings.ReplaceAll(strings.TrimPrefix(tag, FallbackPrefix), ":", "-")
	for _, parent := range []string{dir, sharedDir} {
		tree, err := readTree(fsys, path.Join(parent, basesDir, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if _, ok := tree[ContextDockerfile]; err == nil && !ok {
			err = fmt.Errorf("the fallback %s has no Dockerfile", tag)
		}
		return tree, err
	}
	return nil, fmt.Errorf("the fallback %s needs a folder %s/%s with a Dockerfile", tag, basesDir, name)
}

// readTree reads the files under dir, by path relative to it. What interpreters
// leave behind when tests ran in the folder is no part of a template.
func readTree(fsys fs.FS, dir string) (map[string]File, error) {
	files := map[string]File{}
	err := fs.WalkDir(fsys, dir, func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == "__pycache__" || d.Name() == "node_modules"):
			return fs.SkipDir
		case d.IsDir():
			return nil
		}
		data, err := fs.ReadFile(fsys, name)
		if err != nil {
			return err
		}
		// Embedded files have no modes of their own: a script says so itself.
		mode := fs.FileMode(0o644)
		if strings.HasPrefix(string(data), "#!") {
			mode = 0o755
		}
		files[strings.TrimPrefix(name, dir+"/")] = File{Data: data, Mode: mode}
		return nil
	})
	return files, err
}

// digest identifies everything of a template that influences an image.
func digest(m manifest, e *entry) string {
	h := sha256.New()
	head, err := json.Marshal(struct {
		CodeDir string
		Bases   []manifestBase
	}{m.CodeDir, m.Bases})
	if err != nil {
		panic(fmt.Sprintf("templates: encode a manifest: %v", err)) // strings only
	}
	h.Write(head)
	add := func(prefix string, files map[string]File) {
		for _, name := range slices.Sorted(maps.Keys(files)) {
			sum := sha256.Sum256(files[name].Data)
			fmt.Fprintf(h, "%q %o %x\n", prefix+name, files[name].Mode, sum)
		}
	}
	add("", e.context)
	for _, tag := range slices.Sorted(maps.Keys(e.fallbacks)) {
		add(tag+"/", e.fallbacks[tag])
	}
	return "sha256:" + hex.EncodeToString(h.Sum(nil))
}

func (c *Catalogue) entry(name string) (*entry, error) {
	if e, ok := c.byName[name]; ok {
		return e, nil
	}
	names := slices.Sorted(maps.Keys(c.byName))
	return nil, orchestrator.Errorf(orchestrator.ErrNotFound, "template-unknown", "there is no template %q", name).
		WithHint("choose one of %s", strings.Join(names, ", "))
}

// Template returns one template; ErrNotFound when there is none of the name.
func (c *Catalogue) Template(name string) (orchestrator.Template, error) {
	e, err := c.entry(name)
	if err != nil {
		return orchestrator.Template{}, err
	}
	return e.template, nil
}

// Templates returns all, by name.
func (c *Catalogue) Templates() []orchestrator.Template {
	all := make([]orchestrator.Template, 0, len(c.byName))
	for _, name := range slices.Sorted(maps.Keys(c.byName)) {
		all = append(all, c.byName[name].template)
	}
	return all
}

// Context writes the template's part of a build context: its Dockerfile (none
// when CodeDir is ".") and runtime. Equal templates give equal bytes. The
// caller adds ContextCA and, under Template.CodeDir, the function's files, and
// closes w.
func (c *Catalogue) Context(name string, w *tar.Writer) error {
	e, err := c.entry(name)
	if err != nil {
		return err
	}
	return writeTar(w, e.context)
}

// Fallback returns the build context of a fallback base image, Base.Fallback,
// without ContextCA; ErrNotFound when no template names it.
func (c *Catalogue) Fallback(tag string) (map[string]File, error) {
	for _, name := range slices.Sorted(maps.Keys(c.byName)) {
		if files, ok := c.byName[name].fallbacks[tag]; ok {
			return maps.Clone(files), nil
		}
	}
	return nil, orchestrator.Errorf(orchestrator.ErrNotFound, "base-unknown", "no template has the base image %q", tag)
}

// WriteFallback writes Fallback's files as a build context.
func (c *Catalogue) WriteFallback(tag string, w *tar.Writer) error {
	files, err := c.Fallback(tag)
	if err != nil {
		return err
	}
	return writeTar(w, files)
}

// contextTime stamps every file of a context: build caches see content only.
var contextTime = time.Unix(1_700_000_000, 0)

func writeTar(w *tar.Writer, files map[string]File) error {
	for _, name := range slices.Sorted(maps.Keys(files)) {
		f := files[name]
		err := w.WriteHeader(&tar.Header{
			Typeflag: tar.TypeReg, Name: name, Size: int64(len(f.Data)),
			Mode: int64(f.Mode), ModTime: contextTime, Format: tar.FormatUSTAR,
		})
		if err != nil {
			return fmt.Errorf("write %s into the build context: %w", name, err)
		}
		if _, err := io.Writer(w).Write(f.Data); err != nil {
			return fmt.Errorf("write %s into the build context: %w", name, err)
		}
	}
	return nil
}
