package archive

import (
	"bufio"
	"compress/gzip"
	"context"
	"io"
	"io/fs"
	"os"

	"github.com/klauspost/compress/zstd"

	"github.com/kilnfaas/kiln/orchestrator"
)

const (
	// copyBuffer is how much of a file is in memory at once.
	copyBuffer = 64 << 10
	// maxZstdWindow bounds the decoder's memory; level 19 needs 8 MiB.
	maxZstdWindow = 32 << 20
	// tarOverhead is what a tar may hold beside contents for each entry: its
	// header, a long name's headers, and padding.
	tarOverhead = 4 << 10
	// modeFile and modeExecutable are the two modes that files have.
	modeFile       fs.FileMode = 0o644
	modeExecutable fs.FileMode = 0o755
	modeFolder     fs.FileMode = 0o755
)

// Unpack reads an archive into root, a folder that is empty and the caller's,
// and returns what it held. File modes become 0644, or 0755 when any executable
// bit was set; times and owners are dropped. A single top folder is kept.
//
// After an error root holds a part of the archive; the caller removes it.
// Nothing is ever written elsewhere. A zip, which cannot be read as a stream,
// is spooled to a file without a name on root's disk.
func Unpack(ctx context.Context, r io.Reader, root *os.Root, limits Limits) (Summary, error) {
	u := &unpacker{
		source: &source{ctx: ctx, r: r, limit: int64(limits.Compressed)},
		root:   root,
		limits: limits,
		tree:   newTree(limits),
		buffer: make([]byte, copyBuffer),
	}
	format, err := u.unpack()
	if err == nil && u.tree.files == 0 {
		err = empty()
	}
	if err != nil {
		return Summary{}, classify(err)
	}
	return Summary{
		Format:     format,
		Files:      u.tree.files,
		Folders:    u.tree.folders,
		Compressed: orchestrator.Bytes(u.source.n),
		Unpacked:   orchestrator.Bytes(u.written),
	}, nil
}

func empty() error {
	return invalid("archive-empty", "the archive holds no file").WithHint("pack the folder that holds the code")
}

// unpacker is the state of one Unpack.
type unpacker struct {
	source  *source
	root    *os.Root
	limits  Limits
	tree    *tree
	written int64 // contents, over all files
	buffer  []byte
}

func (u *unpacker) unpack() (Format, error) {
	in := bufio.NewReaderSize(u.source, copyBuffer)
	head, err := in.Peek(DetectLen)
	if err != nil && err != io.EOF {
		return FormatUnknown, err
	}
	format := Detect(head)
	switch format {
	case FormatTar:
		return format, u.tar(in)
	case FormatTarGzip:
		return format, u.gzip(in)
	case FormatTarZstd:
		return format, u.zstd(in)
	case FormatZip:
		return format, u.zip(in)
	case FormatUnsupported:
		return format, invalid("archive-format-unsupported", "the archive is %s", foreignName(head)).WithHint("send a zip, tar, tar.gz or tar.zst")
	}
	if len(head) == 0 {
		return format, invalid("archive-empty", "nothing was sent").WithHint("send a zip, tar, tar.gz or tar.zst")
	}
	return format, invalid("archive-format-unknown", "this is not an archive").WithHint("send a zip, tar, tar.gz or tar.zst")
}

func (u *unpacker) gzip(in *bufio.Reader) error {
	zr, err := gzip.NewReader(in)
	if err != nil {
		return err
	}
	return u.tar(u.expand(zr))
}

func (u *unpacker) zstd(in *bufio.Reader) error {
	zr, err := zstd.NewReader(in,
		zstd.WithDecoderConcurrency(1), // no goroutines
		zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxWindow(maxZstdWindow))
	if err != nil {
		return err
	}
	defer zr.Close()
	return u.tar(u.expand(zr))
}

// write puts one file below root. mode decides about the executable bit only.
func (u *unpacker) write(path string, mode fs.FileMode, r io.Reader) error {
	f, err := u.root.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return machine(err)
	}
	if err := u.copy(f, r); err != nil {
		_ = f.Close() // the first error counts
		return err
	}
	// Chmod, because the umask may have taken bits from the mode given to open.
	if err := f.Chmod(normalMode(mode)); err != nil {
		_ = f.Close()
		return machine(err)
	}
	if err := f.Close(); err != nil {
		return machine(err)
	}
	return nil
}

// copy is io.Copy with a fixed buffer that counts and tells reading from
// writing errors.
func (u *unpacker) copy(w io.Writer, r io.Reader) error {
	for {
		n, readErr := r.Read(u.buffer)
		if u.written += int64(n); u.written > int64(u.limits.Unpacked) {
			return u.tooLarge()
		}
		if _, err := w.Write(u.buffer[:n]); err != nil {
			return machine(err)
		}
		if readErr == io.EOF {
			return nil
		}
		if readErr != nil {
			return readErr
		}
	}
}

func (u *unpacker) tooLarge() error {
	return tooLarge("archive-unpacked-too-large", "the archive holds more than %s unpacked", u.limits.Unpacked).WithHint(hintSmaller)
}

// folders makes folders, outermost first.
func (u *unpacker) folders(paths []string) error {
	for _, path := range paths {
		if err := u.root.Mkdir(path, modeFolder); err != nil {
			return machine(err)
		}
	}
	return nil
}

// suspicious says whether out bytes are more than an honest archive gives for
// what was read so far.
func (u *unpacker) suspicious(out int64) error {
	if out <= int64(u.limits.RatioFloor) || out <= u.limits.Ratio*u.source.n {
		return nil
	}
	return tooLarge("archive-ratio", "the archive grows more than %d-fold when it is unpacked", u.limits.Ratio).
		WithHint("leave out files that are all alike, such as empty disk images")
}

func normalMode(mode fs.FileMode) fs.FileMode {
	if mode&0o111 != 0 {
		return modeExecutable
	}
	return modeFile
}

// source is what the client sends: bounded, cancellable, and remembering why it
// ended. Single use, one goroutine.
type source struct {
	ctx   context.Context
	r     io.Reader
	limit int64
	n     int64
	err   error // set once, not for EOF
}

func (s *source) Read(p []byte) (int, error) {
	if s.err != nil {
		return 0, s.err
	}
	if err := s.ctx.Err(); err != nil {
		s.err = ended(err)
		return 0, s.err
	}
	n, err := s.r.Read(p)
	if s.n += int64(n); s.n > s.limit {
		s.err = tooLarge("archive-too-large", "the archive is larger than %s", orchestrator.Bytes(s.limit)).
			WithHint("compress it, and " + hintSmaller)
		return 0, s.err
	}
	if err != nil && err != io.EOF {
		s.err = interrupted(err)
		return n, s.err
	}
	return n, err
}

// expand counts what a decompressor gives.
func (u *unpacker) expand(r io.Reader) io.Reader {
	limit := int64(u.limits.Unpacked) + int64(u.limits.Entries)*tarOverhead
	return &expansion{u: u, r: r, limit: limit}
}

type expansion struct {
	u     *unpacker
	r     io.Reader
	limit int64
	n     int64
}

func (e *expansion) Read(p []byte) (int, error) {
	n, err := e.r.Read(p)
	if e.n += int64(n); e.n > e.limit {
		return 0, e.u.tooLarge()
	}
	if err := e.u.suspicious(e.n); err != nil {
		return 0, err
	}
	if ctxErr := e.u.source.ctx.Err(); ctxErr != nil {
		return 0, ended(ctxErr)
	}
	return n, err
}
