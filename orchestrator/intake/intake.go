// Package intake takes uploads in: from the bytes a client sent to checked
// settings and a stored archive.
//
// An upload is an archive or a single file. It is unpacked into a temporary
// folder under the archive package's limits, its function.yaml is read and the
// client's settings applied over it, the template is found, the handler looked
// for, and the tree stored as the canonical tar. The folder is gone when Receive
// returns, whatever happened.
//
// function.yaml itself is not stored: it is settings, which the function's
// record holds, and no code. So a deploy that changes settings only has the same
// archive, and nothing is built again.
package intake

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"strings"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/archive"
	"github.com/kilnfaas/kiln/orchestrator/manifest"
)

// Archives stores archives by digest. orchestrator.Store is one.
type Archives interface {
	// PutArchive stores what it reads and returns its digest and size.
	PutArchive(ctx context.Context, r io.Reader) (digest string, size int64, err error)
}

// Catalogue knows the templates.
type Catalogue interface {
	// Template returns one; ErrNotFound when there is none of the name.
	Template(name string) (orchestrator.Template, error)
	// Templates returns all, by name.
	Templates() []orchestrator.Template
}

// Upload is what a client sends.
type Upload struct {
	// Body is an archive, recognised by its content, or one source file. It is
	// read once and not closed.
	Body io.Reader
	// Filename is what the client calls it; may be empty. It names the function
	// when nothing else does, and tells what a single file is.
	Filename string
	// Overrides are applied over function.yaml, the last one winning.
	Overrides []manifest.Document
}

// Intake receives uploads. It is safe for concurrent use.
type Intake struct {
	// CheckTrigger says whether a trigger can be; the error is ErrInvalid. nil =
	// functions can have none. It is set before the first use.
	CheckTrigger func(orchestrator.Trigger) error

	archives  Archives
	templates Catalogue
	limits    archive.Limits
	tempDir   string
}

// New returns an Intake that unpacks into folders of its own below tempDir,
// which exists and belongs to the gateway.
func New(archives Archives, templates Catalogue, limits archive.Limits, tempDir string) *Intake {
	return &Intake{archives: archives, templates: templates, limits: limits, tempDir: tempDir}
}

// tempPattern names the temporary folders. What a crash leaves of them the
// gateway removes at its next start.
const tempPattern = "kiln-intake-"

// Receive takes one upload in and returns the function's settings, complete and
// checked, and the digest of the stored archive.
//
// Errors are those of the archive and manifest packages and of the store, and
// besides, all ErrInvalid: template-unknown, template-missing and
// template-ambiguous when it is not clear what the code is, handler-missing and
// others of its kind when the code is not what the template needs, name-missing.
func (in *Intake) Receive(ctx context.Context, upload Upload) (orchestrator.Spec, string, error) {
	dir, err := os.MkdirTemp(in.tempDir, tempPattern)
	if err != nil {
		return orchestrator.Spec{}, "", temporary(err)
	}
	spec, digest, err := in.receive(ctx, upload, dir)
	if removeErr := os.RemoveAll(dir); removeErr != nil && err == nil {
		err = temporary(removeErr)
	}
	if err != nil {
		return orchestrator.Spec{}, "", err
	}
	return spec, digest, nil
}

func temporary(err error) error {
	return &orchestrator.Error{Class: orchestrator.ErrUnavailable, Code: "intake-temp",
		Detail: "the server has no place for the upload", Hint: "look into the server's log", Cause: err}
}

func (in *Intake) receive(ctx context.Context, upload Upload, dir string) (orchestrator.Spec, string, error) {
	var none orchestrator.Spec
	root, err := os.OpenRoot(dir)
	if err != nil {
		return none, "", temporary(err)
	}
	defer root.Close() // nothing is written through it that matters
	body := bufio.NewReaderSize(upload.Body, archive.DetectLen)
	head, err := body.Peek(archive.DetectLen)
	// A body that failed fails again when it is read, and that error is classed.
	if err == nil || errors.Is(err, io.EOF) {
		if len(head) > 0 && archive.Detect(head) == archive.FormatUnknown {
			return in.single(ctx, upload, body, head, root)
		}
	}
	if _, err := archive.Unpack(ctx, body, root, in.limits); err != nil {
		return none, "", err
	}
	docs, err := documents(root, upload.Overrides)
	if err != nil {
		return none, "", err
	}
	return in.finish(ctx, upload, docs, root)
}

// documents returns the folder's function.yaml, if there is one, and overrides.
func documents(root *os.Root, overrides []manifest.Document) ([]manifest.Document, error) {
	f, err := root.Open(manifest.FileName)
	if errors.Is(err, os.ErrNotExist) {
		if other := misnamed(root); other != "" {
			return nil, invalid("manifest-misnamed", "the settings are in %s", other).WithHint("rename it to %s", manifest.FileName)
		}
		return overrides, nil
	}
	if err != nil {
		return nil, temporary(err)
	}
	defer f.Close() // read only
	info, err := f.Stat()
	if err != nil {
		return nil, temporary(err)
	}
	if info.IsDir() {
		return nil, invalid("manifest-misnamed", "%s is a folder", manifest.FileName).WithHint("make it a file with the function's settings, or remove it")
	}
	data, err := io.ReadAll(io.LimitReader(f, manifest.MaxSize+1))
	if err != nil {
		return nil, temporary(err)
	}
	return append([]manifest.Document{{Name: manifest.FileName, Data: data}}, overrides...), nil
}

// misnamed finds settings under a name that is almost right.
func misnamed(root *os.Root) string {
	for _, name := range []string{"function.yml", "function.json", "Function.yaml", "kiln.yaml"} {
		if info, err := root.Lstat(name); err == nil && info.Mode().IsRegular() {
			return name
		}
	}
	return ""
}

// finish completes and checks the settings, checks the tree, and stores it.
func (in *Intake) finish(ctx context.Context, upload Upload, docs []manifest.Document, root *os.Root) (orchestrator.Spec, string, error) {
	var none orchestrator.Spec
	said, err := manifest.Apply(orchestrator.DefaultSpec(), docs...)
	if err != nil {
		return none, "", err
	}
	template, err := in.template(said, root.FS())
	if err != nil {
		return none, "", err
	}
	spec, err := complete(template, docs, upload.Filename)
	if err != nil {
		return none, "", err
	}
	if err := manifest.CheckTriggers(spec, in.CheckTrigger, docs...); err != nil {
		return none, "", err
	}
	if err := checkHandler(root.FS(), template, spec); err != nil {
		return none, "", err
	}
	if err := root.Remove(manifest.FileName); err != nil && !errors.Is(err, os.ErrNotExist) {
		return none, "", temporary(err)
	}
	digest, err := in.store(ctx, root)
	if err != nil {
		return none, "", err
	}
	return spec, digest, nil
}

// complete applies documents over the defaults of a template.
func complete(template orchestrator.Template, docs []manifest.Document, filename string) (orchestrator.Spec, error) {
	spec, err := manifest.Apply(manifest.Defaults(template), docs...)
	if err != nil {
		return orchestrator.Spec{}, err
	}
	spec.Template = template.Name
	if spec.Name == "" {
		spec.Name = nameFrom(filename)
	}
	if spec.Name == "" {
		return orchestrator.Spec{}, invalid("name-missing", "the function has no name").
			WithHint("set name in %s, or give it with --name or the form field name", manifest.FileName)
	}
	return spec, manifest.Validate(spec, template)
}

// store packs the tree into the store.
func (in *Intake) store(ctx context.Context, root *os.Root) (string, error) {
	r, w := io.Pipe()
	packed := make(chan error, 1)
	go func() {
		_, err := archive.Pack(ctx, w, root.FS(), in.limits)
		w.CloseWithError(err) // nil is an EOF
		packed <- err
	}()
	digest, _, err := in.archives.PutArchive(ctx, r)
	_ = r.Close() // a store that stopped reading must not leave the packer waiting
	packErr := <-packed
	if packErr != nil && !errors.Is(packErr, io.ErrClosedPipe) {
		return "", packErr // that is why the store failed, if it did
	}
	if err == nil && packErr != nil {
		err = orchestrator.Errorf(orchestrator.ErrUnavailable, "intake-store", "the store did not read the archive to its end")
	}
	return digest, err
}

// shorten keeps messages short whatever was sent.
func shorten(s string) string {
	const most = 80
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}

func invalid(code, format string, args ...any) *orchestrator.Error {
	return orchestrator.Errorf(orchestrator.ErrInvalid, code, format, args...)
}
