package orchestrator

import (
	"compress/gzip"
	"context"
	"fmt"
	"io"
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

// CellCode says why instances of a release cannot be made of cells; empty when
// they can.
func (r Release) CellCode() (reason string) {
	switch {
	case !r.Template.Cells:
		return "the template " + r.Template.Name + " has no cells"
	case len(r.Spec.Build.Packages) > 0:
		return "it has system packages of its own"
	case r.Revision.TemplateDigest != r.Template.Digest:
		return "it was built with another version of its template"
	}
	return ""
}

// keepCode stores the code of a release's image as a tar.gz and returns its
// digest, empty when cells are not for it. A failure costs the fast start only,
// so it is logged and the deploy goes on.
func (s *Service) keepCode(ctx context.Context, r Release) string {
	if s.Code == nil || r.CellCode() != "" {
		return ""
	}
	if r.Revision.CodeDigest != "" {
		return r.Revision.CodeDigest
	}
	digest, err := s.storeCode(ctx, r.Revision.Image)
	if err != nil {
		s.Logger.Warn("no code kept for cells", "function", r.Spec.Name, "revision", r.Revision.ID, "error", err)
		return ""
	}
	return digest
}

func (s *Service) storeCode(ctx context.Context, image string) (string, error) {
	files, err := s.Code.CopyFrom(ctx, image, CodePath)
	if err != nil {
		return "", fmt.Errorf("read %s of %s: %w", CodePath, image, err)
	}
	defer files.Close()
	reader, writer := io.Pipe()
	done := make(chan struct{})
	defer func() {
		reader.Close() // ends the goroutine if the store gave up early
		<-done
	}()
	go func() {
		defer close(done)
		packed, _ := gzip.NewWriterLevel(writer, gzip.BestSpeed) // a valid level
		_, err := io.Copy(packed, files)
		if err == nil {
			err = packed.Close()
		}
		writer.CloseWithError(err)
	}()
	digest, _, err := s.Store.PutArchive(ctx, reader)
	if err != nil {
		return "", fmt.Errorf("store the code of %s: %w", image, err)
	}
	return digest, nil
}
