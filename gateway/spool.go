package gateway

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"

	"github.com/kilnfaas/kiln/gateway/problem"
	"github.com/kilnfaas/kiln/orchestrator"
)

// spoolMemory is how much of an upload is kept in memory before a file is made:
// most functions are smaller.
const spoolMemory = 256 << 10

// spool is an upload kept aside, to be read once.
type spool struct {
	io.Reader
	file *os.File // nil when it fits into memory; has no name any more
}

// spoolError is a disk that does not take an upload.
type spoolError struct{ error }

func (e *spoolError) Unwrap() error { return e.error }

// newSpool reads r to its end. The file it may make is unlinked at once, so that
// nothing is left behind whatever happens.
func newSpool(r io.Reader, dir string) (*spool, error) {
	var head bytes.Buffer
	_, err := io.CopyN(&head, r, spoolMemory)
	if err == io.EOF {
		return &spool{Reader: &head}, nil
	}
	if err != nil {
		return nil, err
	}
	file, err := os.CreateTemp(dir, "kiln-upload-")
	if err != nil {
		return nil, diskError(err)
	}
	s := &spool{file: file, Reader: io.MultiReader(bytes.NewReader(head.Bytes()), file)}
	if err := s.fill(r); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

func (s *spool) fill(r io.Reader) error {
	if err := os.Remove(s.file.Name()); err != nil {
		return diskError(err)
	}
	if _, err := io.Copy(diskWriter{s.file}, r); err != nil {
		return err
	}
	if _, err := s.file.Seek(0, io.SeekStart); err != nil {
		return diskError(err)
	}
	return nil
}

// Close lets go of the upload.
func (s *spool) Close() error {
	if s.file == nil {
		return nil
	}
	return s.file.Close()
}

// diskWriter tells errors of the disk from those of the client.
type diskWriter struct{ file *os.File }

func (w diskWriter) Write(p []byte) (int, error) {
	n, err := w.file.Write(p)
	if err != nil {
		err = diskError(err)
	}
	return n, err
}

func diskError(err error) error {
	if errors.Is(err, syscall.ENOSPC) {
		return &orchestrator.Error{
			Class: orchestrator.ErrExhausted, Code: problem.CodeStoreFull, Cause: err,
			Detail: "there is no room to keep the upload", Hint: "free disk space on the gateway's machine",
		}
	}
	return &spoolError{fmt.Errorf("keep an upload aside: %w", err)}
}
