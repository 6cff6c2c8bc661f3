package archive

import (
	"archive/tar"
	"context"
	"errors"
	"io"
	"io/fs"
	"path"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/kilnfaas/kiln/orchestrator"
)

// packTime is the modification time of everything in a canonical tar. It is not
// the epoch because zips, and so Python wheels built from the files, cannot
// hold times before 1980.
var packTime = time.Date(1980, 1, 2, 0, 0, 0, 0, time.UTC)

// Pack writes fsys as the canonical tar: folders before what is in them, names
// in byte order within a folder, modes 0644 or 0755, no owner, one fixed time.
// The same tree always gives the same bytes. The root itself is not in it.
//
// What Unpack would refuse, Pack refuses: a link, a device, a name that clashes
// by case, a tree over the limits (Compressed is not one of Pack's).
func Pack(ctx context.Context, w io.Writer, fsys fs.FS, limits Limits) (Summary, error) {
	p := &packer{ctx: ctx, fsys: fsys, limits: limits, tree: newTree(limits), tw: tar.NewWriter(w)}
	if err := fs.WalkDir(fsys, ".", p.visit); err != nil {
		return Summary{}, p.classify(err)
	}
	if p.tree.files == 0 {
		return Summary{}, invalid("archive-empty", "the folder holds no file").WithHint("name the folder that holds the code")
	}
	if err := p.tw.Close(); err != nil {
		return Summary{}, p.classify(err)
	}
	return Summary{Format: FormatFolder, Files: p.tree.files, Folders: p.tree.folders, Unpacked: orchestrator.Bytes(p.size)}, nil
}

type packer struct {
	ctx    context.Context
	fsys   fs.FS
	limits Limits
	tree   *tree
	tw     *tar.Writer
	size   int64
}

// classify leaves errors of the context and of the writer recognisable.
func (p *packer) classify(err error) error {
	var classed *orchestrator.Error
	switch {
	case errors.As(err, &classed):
		return classed
	case p.ctx.Err() != nil:
		return ended(p.ctx.Err())
	case errors.Is(err, fs.ErrPermission):
		return invalid("archive-unreadable", "a file cannot be read: %w", err).WithHint("change its permissions, or leave it out (.kilnignore)")
	}
	return orchestrator.Errorf(orchestrator.ErrUnavailable, "archive-pack", "the folder could not be packed: %w", err)
}

func (p *packer) visit(name string, entry fs.DirEntry, err error) error {
	if err != nil {
		return err
	}
	if err := p.ctx.Err(); err != nil {
		return err
	}
	if name == "." {
		return nil
	}
	kind := kindOfMode(entry.Type())
	if kind != kindFile && kind != kindFolder {
		return refuse(kind, name)
	}
	if _, _, err := p.tree.add(name, kind == kindFolder); err != nil {
		return err
	}
	if kind == kindFolder {
		return p.tw.WriteHeader(folderHeader(name))
	}
	return p.file(name)
}

func (p *packer) file(name string) error {
	f, err := p.fsys.Open(name)
	if err != nil {
		return err
	}
	defer f.Close() // read only
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return changed(name)
	}
	if p.size += info.Size(); p.size > int64(p.limits.Unpacked) {
		return tooLarge("archive-unpacked-too-large", "the folder holds more than %s", p.limits.Unpacked).WithHint(hintSmaller)
	}
	if err := p.tw.WriteHeader(fileHeader(name, info.Mode(), info.Size())); err != nil {
		return err
	}
	n, err := io.Copy(p.tw, &contextReader{p.ctx, f})
	if errors.Is(err, tar.ErrWriteTooLong) || err == nil && n != info.Size() {
		return changed(name)
	}
	return err
}

func changed(name string) error {
	return orchestrator.Errorf(orchestrator.ErrConflict, "archive-changed", "%q changed while it was packed", show(name)).
		WithHint("try again when nothing writes to the folder")
}

// contextReader ends with its context.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c *contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

func folderHeader(name string) *tar.Header {
	return &tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: int64(modeFolder), ModTime: packTime}
}

func fileHeader(name string, mode fs.FileMode, size int64) *tar.Header {
	return &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: int64(normalMode(mode)), Size: size, ModTime: packTime}
}

// Zstd compresses what is written to it, for sending. Close finishes the frame and leaves w open.
func Zstd(w io.Writer) (io.WriteCloser, error) {
	zw, err := zstd.NewWriter(w, zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(true))
	if err != nil {
		return nil, orchestrator.Errorf(orchestrator.ErrUnavailable, "archive-pack", "start zstd: %w", err)
	}
	return zw, nil
}

// Copy writes the entries of a canonical tar to tw below prefix, a clean
// relative path or empty, for a build context. It does not close tw. An archive
// that is not canonical any more is ErrUnavailable: the store is damaged.
func Copy(tw *tar.Writer, canonical io.Reader, prefix string) error {
	if prefix != "" {
		if err := CheckPath(prefix); err != nil {
			return err
		}
		if err := tw.WriteHeader(folderHeader(prefix)); err != nil {
			return copyFailed(err)
		}
	}
	in := newTarReader(canonical)
	for {
		header, err := in.next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return copyFailed(err)
		}
		if err := copyEntry(tw, in.tr, header, prefix); err != nil {
			return copyFailed(err)
		}
	}
}

func copyEntry(tw *tar.Writer, r io.Reader, header *tar.Header, prefix string) error {
	if err := CheckPath(strings.TrimSuffix(header.Name, "/")); err != nil {
		return errors.New("not a canonical archive")
	}
	switch header.Typeflag {
	case tar.TypeDir:
		return tw.WriteHeader(folderHeader(path.Join(prefix, header.Name)))
	case tar.TypeReg:
		if err := tw.WriteHeader(fileHeader(path.Join(prefix, header.Name), header.FileInfo().Mode(), header.Size)); err != nil {
			return err
		}
		_, err := io.Copy(tw, r)
		return err
	}
	return errors.New("not a canonical archive")
}

// copyFailed blames the store: what it holds was canonical once.
func copyFailed(err error) error {
	if errors.Is(err, orchestrator.ErrUnavailable) || errors.Is(err, orchestrator.ErrNotFound) {
		return err
	}
	return &orchestrator.Error{Class: orchestrator.ErrUnavailable, Code: "archive-copy", Detail: "the stored code could not be copied",
		Hint: "deploy the function again", Cause: reason(err)}
}

// reason frees an error from its class, so that it has one class only.
func reason(err error) error {
	var classed *orchestrator.Error
	if errors.As(err, &classed) {
		return errors.New(classed.Error())
	}
	return err
}
