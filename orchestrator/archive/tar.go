package archive

import (
	"archive/tar"
	"errors"
	"io"
	"strings"
)

// tar reads a tar stream to its very end.
func (u *unpacker) tar(r io.Reader) error {
	in := newTarReader(r)
	for {
		header, err := in.next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if err := u.tarEntry(header, in.tr); err != nil {
			return err
		}
	}
}

// tarReader is a tar.Reader that insists on the tar's end.
type tarReader struct {
	in *counter
	tr *tar.Reader
}

func newTarReader(r io.Reader) *tarReader {
	in := &counter{r: r}
	return &tarReader{in: in, tr: tar.NewReader(in)}
}

// next returns the header of the next entry, the contents of the one before
// having been read, or io.EOF once the input was read to its own end.
func (t *tarReader) next() (*tar.Header, error) {
	before := t.in.n
	header, err := t.tr.Next()
	switch {
	case err == io.EOF && t.in.n-before < tarBlock:
		// The end is a block of zeros. Without one, Next consumed at most the
		// padding of the last file: somebody cut the archive between two files.
		return nil, truncated()
	case err == io.EOF:
		if err := trailing(t.in); err != nil {
			return nil, err
		}
		return nil, io.EOF
	case errors.Is(err, tar.ErrInsecurePath): // names are checked here
		return header, nil
	}
	return header, err
}

func (u *unpacker) tarEntry(header *tar.Header, r io.Reader) error {
	kind := kindOfTar(header)
	switch kind {
	case kindSkip:
		return nil
	case kindFile, kindFolder:
	default:
		return refuse(kind, header.Name)
	}
	path, folders, err := u.tree.add(header.Name, kind == kindFolder)
	if err != nil {
		return err
	}
	if err := u.folders(folders); err != nil {
		return err
	}
	if kind == kindFolder {
		return nil
	}
	return u.write(path, header.FileInfo().Mode(), r)
}

// trailing reads what follows a tar's end, which may only be zeros: tar fills
// its last record with them. Reading it also makes gzip check its sum.
func trailing(r io.Reader) error {
	buffer := make([]byte, copyBuffer)
	for {
		n, err := r.Read(buffer)
		if !isZero(buffer[:n]) {
			return invalid("archive-trailing-data", "something follows the end of the archive").WithHint(hintRepack)
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// isSparse recognises the sparse files that PAX records describe.
func isSparse(header *tar.Header) bool {
	for key := range header.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return true
		}
	}
	return false
}

// counter counts what is read.
type counter struct {
	r io.Reader
	n int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}
