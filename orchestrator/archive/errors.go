package archive

import (
	"archive/tar"
	"archive/zip"
	"context"
	"errors"
	"io"
	"io/fs"
	"syscall"

	"github.com/klauspost/compress/zstd"

	"github.com/kilnfaas/kiln/orchestrator"
)

// Hints that several errors share.
const (
	hintRepack  = "pack the archive again, for example with `tar -C DIR -czf code.tar.gz .`"
	hintRename  = "rename the file"
	hintShorten = "shorten the names or move the files up"
	hintSmaller = "leave out dependencies, data and generated files (.kilnignore)"
	hintResend  = "send it again; if it persists, pack the archive again"
)

// classify turns what a decoder or the machine said into an error for the
// client. Errors that already are such pass.
func classify(err error) error {
	var classed *orchestrator.Error
	var errno syscall.Errno
	switch {
	case err == nil:
		return nil
	case errors.As(err, &classed):
		return classed
	case errors.As(err, &errno):
		return machine(err)
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return truncated()
	case errors.Is(err, zstd.ErrWindowSizeExceeded), errors.Is(err, zstd.ErrDecoderSizeExceeded):
		return tooLarge("archive-zstd-window", "the archive needs a zstd window over %s", orchestrator.Bytes(maxZstdWindow)).
			WithHint("compress with a level up to 19 and without --long")
	case errors.Is(err, zip.ErrAlgorithm):
		return invalid("archive-zip-method", "the zip uses a compression other than deflate").WithHint("pack it with deflate, or send a tar.gz")
	}
	return corrupt("the archive is damaged: %w", err)
}

func truncated() error {
	return invalid("archive-truncated", "the archive ends too early").WithHint(hintResend)
}

func corrupt(format string, args ...any) error {
	return invalid("archive-corrupt", format, args...).WithHint(hintResend)
}

// machine is a failure of this machine's disk.
func machine(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) {
		return &orchestrator.Error{Class: orchestrator.ErrExhausted, Code: "archive-disk-full",
			Detail: "the server has no room to unpack the archive", Hint: "free disk space on the server, then send it again", Cause: err}
	}
	return &orchestrator.Error{Class: orchestrator.ErrUnavailable, Code: "archive-disk",
		Detail: "the server could not write the archive to its disk", Hint: "look into the server's log", Cause: err}
}

// interrupted is a failure of whoever sends the archive.
func interrupted(err error) error {
	var classed *orchestrator.Error
	if errors.As(err, &classed) {
		return classed
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return ended(err)
	}
	return &orchestrator.Error{Class: orchestrator.ErrInvalid, Code: "archive-interrupted",
		Detail: "the archive did not arrive whole", Hint: "send it again", Cause: err}
}

// ended is the error for a context that is over.
func ended(err error) error {
	return &orchestrator.Error{Class: orchestrator.ErrDeadline, Code: "archive-deadline",
		Detail: "the time for reading the archive is over", Hint: "send it again, or a smaller one", Cause: err}
}

// refuse names what kind of entry is not allowed.
func refuse(kind entryKind, name string) error {
	name = show(name)
	switch kind {
	case kindSymlink:
		return invalid("archive-symlink", "%q is a symbolic link", name).WithHint("put the file itself in its place (tar -h), or leave it out (.kilnignore)")
	case kindHardLink:
		return invalid("archive-hard-link", "%q is a hard link", name).WithHint("pack with `tar --hard-dereference`")
	case kindDevice:
		return invalid("archive-device", "%q is a device", name).WithHint("leave it out")
	case kindFifo:
		return invalid("archive-fifo", "%q is a named pipe", name).WithHint("leave it out")
	case kindSocket:
		return invalid("archive-socket", "%q is a socket", name).WithHint("leave it out")
	case kindSparse:
		return invalid("archive-sparse", "%q is a sparse file", name).WithHint("pack without --sparse")
	}
	return invalid("archive-entry-type", "%q is neither a file nor a folder", name).WithHint("leave it out")
}

// entryKind is what an entry claims to be.
type entryKind int

const (
	kindFile entryKind = iota
	kindFolder
	kindSkip // describes the archive, not a file
	kindSymlink
	kindHardLink
	kindDevice
	kindFifo
	kindSocket
	kindSparse
	kindOther
)

// kindOfMode reads a kind from a file mode.
func kindOfMode(mode fs.FileMode) entryKind {
	switch t := mode.Type(); {
	case t == 0:
		return kindFile
	case t == fs.ModeDir:
		return kindFolder
	case t&fs.ModeSymlink != 0:
		return kindSymlink
	case t&fs.ModeDevice != 0, t&fs.ModeCharDevice != 0:
		return kindDevice
	case t&fs.ModeNamedPipe != 0:
		return kindFifo
	case t&fs.ModeSocket != 0:
		return kindSocket
	}
	return kindOther
}

// kindOfTar reads the kind of a tar entry.
func kindOfTar(header *tar.Header) entryKind {
	switch header.Typeflag {
	case tar.TypeReg:
		if isSparse(header) {
			return kindSparse
		}
		return kindFile
	case tar.TypeDir:
		return kindFolder
	case tar.TypeXGlobalHeader:
		return kindSkip
	case tar.TypeSymlink:
		return kindSymlink
	case tar.TypeLink:
		return kindHardLink
	case tar.TypeChar, tar.TypeBlock:
		return kindDevice
	case tar.TypeFifo:
		return kindFifo
	case tar.TypeGNUSparse:
		return kindSparse
	}
	return kindOther
}
