package build

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"path"
	"time"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/archive"
	"github.com/kilnfaas/kiln/templates"
)

// ownDockerfile is where a function's Dockerfile stands in the context once it
// had to be changed; the function's own stays what it is.
const ownDockerfile = ".kiln/Dockerfile"

// contextTime stamps what the pipeline adds to a context. Build caches look at
// content only.
var contextTime = time.Date(1980, 1, 2, 0, 0, 0, 0, time.UTC)

// maxDockerfile bounds a Dockerfile: the largest in use have some 10 KiB.
const maxDockerfile = 1 << 20

// buildContext is what the engine gets to build: a template's files, the extra
// authorities and the function's files.
type buildContext struct {
	files      []byte // tar of the template's files, the Dockerfile among them; empty when it has none
	path       string // of the Dockerfile
	dockerfile []byte // what is to stand there
	original   []byte // what files have, or the function
	codeDir    string
}

// newContext takes a template's files from write.
func newContext(write func(*tar.Writer) error, dockerfile string) (*buildContext, error) {
	var files bytes.Buffer
	w := tar.NewWriter(&files)
	if err := write(w); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("write the build context: %w", err)
	}
	c := &buildContext{files: files.Bytes(), path: dockerfile}
	found, err := findFile(bytes.NewReader(c.files), dockerfile)
	if err != nil {
		return nil, err
	}
	c.original, c.dockerfile = found, found
	return c, nil
}

// findFile returns a file of a tar; nil when it is not there.
func findFile(r io.Reader, name string) ([]byte, error) {
	for in := tar.NewReader(r); ; {
		header, err := in.Next()
		switch {
		case err == io.EOF:
			return nil, nil
		case err != nil:
			return nil, unreadable(err)
		case header.Typeflag != tar.TypeReg || path.Clean(header.Name) != name:
			continue
		case header.Size > maxDockerfile:
			return nil, orchestrator.Errorf(orchestrator.ErrInvalid, "dockerfile-too-large", "%s has %d bytes, %d are allowed", name, header.Size, maxDockerfile)
		}
		data, err := io.ReadAll(in)
		if err != nil {
			return nil, unreadable(err)
		}
		return data, nil
	}
}

// unreadable classes an error of a stored archive; one that has a class keeps it.
func unreadable(err error) error {
	if classed := (*orchestrator.Error)(nil); errors.As(err, &classed) {
		return err
	}
	return orchestrator.Errorf(orchestrator.ErrUnavailable, "archive-damaged", "read the archive: %w", err).WithHint("deploy the function again")
}

// write writes the context as one tar. code is the function's archive, nil for
// none.
func (c *buildContext) write(w io.Writer, ca []byte, code io.Reader) error {
	tw := tar.NewWriter(w)
	if err := c.writeFiles(tw); err != nil {
		return err
	}
	if code != nil {
		prefix := c.codeDir
		if prefix == "." {
			prefix = ""
		}
		if err := archive.Copy(tw, code, prefix); err != nil {
			return err
		}
	}
	if err := addFile(tw, templates.ContextCA, ca); err != nil {
		return err
	}
	if c.dockerfilePath() == ownDockerfile {
		if err := addFile(tw, ownDockerfile, c.dockerfile); err != nil {
			return err
		}
	}
	if err := tw.Close(); err != nil {
		return fmt.Errorf("write the build context: %w", err)
	}
	return nil
}

// dockerfilePath is where the builder finds the Dockerfile.
func (c *buildContext) dockerfilePath() string {
	if len(c.files) == 0 && !bytes.Equal(c.dockerfile, c.original) {
		return ownDockerfile
	}
	return c.path
}

// writeFiles writes the template's files with the Dockerfile as it is to be.
func (c *buildContext) writeFiles(tw *tar.Writer) error {
	if len(c.files) == 0 {
		return nil
	}
	for in := tar.NewReader(bytes.NewReader(c.files)); ; {
		header, err := in.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read the template's files: %w", err)
		}
		var content io.Reader = in
		if header.Name == c.path {
			header.Size, content = int64(len(c.dockerfile)), bytes.NewReader(c.dockerfile)
		}
		if err := tw.WriteHeader(header); err != nil {
			return fmt.Errorf("write the build context: %w", err)
		}
		if _, err := io.Copy(tw, content); err != nil {
			return fmt.Errorf("write the build context: %w", err)
		}
	}
}

func addFile(tw *tar.Writer, name string, data []byte) error {
	header := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(data)), ModTime: contextTime, Format: tar.FormatUSTAR}
	if err := tw.WriteHeader(header); err != nil {
		return fmt.Errorf("write %s into the build context: %w", name, err)
	}
	if _, err := tw.Write(data); err != nil {
		return fmt.Errorf("write %s into the build context: %w", name, err)
	}
	return nil
}
