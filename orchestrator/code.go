package orchestrator

import (
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"time"
)

// CodePath is where an image keeps the function: handler and dependencies,
// self-contained, so that a tar of it is all that a cell needs.
const CodePath = "/function"

// CodeSource reads files out of images.
type CodeSource interface {
	// CopyFrom returns a file or folder of an image as a tar, which the caller
	// closes; ErrNotFound.
	CopyFrom(ctx context.Context, ref, path string) (io.ReadCloser, error)
}

// loadable says whether the code alone may make a cell an instance; the cell
// package decides, this saves keeping what it would refuse.
func (r Release) loadable() bool {
	return r.Template.Cells && len(r.Spec.Build.Packages) == 0
}

// code is where a revision's code for cells is kept.
type code struct {
	digest string
	size   Bytes // unpacked
}

// codeTimeout bounds reading the code of an image, some hundred MiB at most.
const codeTimeout = 2 * time.Minute

// keepCode stores the code of a release's image as a tar.gz; none when cells are
// not for it. A failure costs the fast start only, so it is logged and the
// deploy goes on.
func (s *Service) keepCode(ctx context.Context, r Release) code {
	if s.Code == nil || !r.loadable() {
		return code{}
	}
	if r.Revision.CodeDigest != "" {
		return code{r.Revision.CodeDigest, r.Revision.CodeSize}
	}
	ctx, cancel := context.WithTimeout(ctx, codeTimeout)
	defer cancel()
	kept, err := s.storeCode(ctx, r.Revision.Image)
	if err != nil {
		s.Logger.Warn("no code kept for cells", "function", r.Spec.Name, "revision", r.Revision.ID, "error", err)
		return code{}
	}
	return kept
}

func (s *Service) storeCode(ctx context.Context, image string) (kept code, err error) {
	files, err := s.Code.CopyFrom(ctx, image, CodePath)
	if err != nil {
		return code{}, fmt.Errorf("read %s of %s: %w", CodePath, image, err)
	}
	defer files.Close()
	reader, writer := io.Pipe()
	size := make(chan int64, 1)
	go func() {
		packed, _ := gzip.NewWriterLevel(writer, gzip.BestSpeed) // a valid level
		n, err := io.Copy(packed, files)
		if err == nil {
			err = packed.Close()
		}
		writer.CloseWithError(err)
		size <- n
	}()
	kept.digest, _, err = s.Store.PutArchive(ctx, reader)
	reader.Close() // ends the goroutine if the store gave up early
	kept.size = Bytes(<-size)
	if err != nil {
		return code{}, fmt.Errorf("store the code of %s: %w", image, err)
	}
	return kept, nil
}

// CellCode is the code that a Service kept for cells.
type CellCode struct{ Store Store }

// Size returns how large a revision's code is, unpacked, and false when none is
// kept. It does not wait.
func (c CellCode) Size(r Revision) (Bytes, bool) { return r.CodeSize, r.CodeDigest != "" }

// Open returns a revision's code as a tar with paths below "function/". The
// caller closes it. Errors are Store.Archive's.
func (c CellCode) Open(ctx context.Context, r Revision) (io.ReadCloser, error) {
	packed, err := c.Store.Archive(ctx, r.CodeDigest)
	if err != nil {
		return nil, err
	}
	files, err := gzip.NewReader(packed)
	if err != nil {
		packed.Close()
		return nil, fmt.Errorf("read the code of %s %s: %w", r.Function, r.ID, err)
	}
	return struct {
		io.Reader
		io.Closer
	}{files, packed}, nil
}
