package archive

import (
	"archive/zip"
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"slices"
)

const (
	zipLocalLen = 30               // fixed part of a local header
	zipEndLen   = 22               // fixed part of the end record
	zipMaxName  = 1<<16 - 1        // names, extra fields and comments have 16-bit lengths
	zipLocal    = "PK\x03\x04"     // begins a local header
	zipEntry    = 320              // bytes of directory for each allowed entry, on average: 46 and a long name
	zipTail     = 2 * (zipMaxName) // what archive/zip reads to find the directory
	zipEncrypt  = 1 << 0           // flag: the contents are encrypted
	zipSpool    = ".kiln-spool"
)

// zip spools the archive, because its directory is at its end, and reads it.
func (u *unpacker) zip(in io.Reader) error {
	spool, err := u.spool(in)
	if err != nil {
		return err
	}
	defer spool.Close() // read only from here, and already without a name
	size := u.source.n
	if err := checkZipEnd(spool, size); err != nil {
		return err
	}
	// The number of entries in the end record may lie, and archive/zip keeps
	// every entry it finds in memory: bound what it reads to find them.
	bounded := &boundedReaderAt{r: spool, left: int64(u.limits.Entries)*zipEntry + zipTail}
	zr, err := zip.NewReader(bounded, size)
	switch {
	case errors.Is(err, zip.ErrFormat), errors.Is(err, io.ErrUnexpectedEOF):
		return corrupt("the directory of the zip is damaged") // its end is there: it is not cut off
	case err != nil && !errors.Is(err, zip.ErrInsecurePath): // names are checked here
		return err
	}
	bounded.left = -1
	if len(zr.File) == 0 {
		return empty()
	}
	if err := checkZipLocals(spool, size, zr.File); err != nil {
		return err
	}
	for _, f := range zr.File {
		if err := u.zipEntry(f); err != nil {
			return err
		}
	}
	return nil
}

// spool copies the archive to a file that has no name any more when it returns.
func (u *unpacker) spool(in io.Reader) (*os.File, error) {
	f, err := u.root.OpenFile(zipSpool, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, machine(err)
	}
	if err := u.root.Remove(zipSpool); err != nil {
		_ = f.Close()
		return nil, machine(err)
	}
	for {
		n, readErr := in.Read(u.buffer)
		if _, err := f.Write(u.buffer[:n]); err != nil {
			_ = f.Close()
			return nil, machine(err)
		}
		if readErr == io.EOF {
			return f, nil
		}
		if readErr != nil {
			_ = f.Close()
			return nil, readErr
		}
	}
}

func (u *unpacker) zipEntry(f *zip.File) error {
	if f.Flags&zipEncrypt != 0 {
		return invalid("archive-zip-encrypted", "%q is encrypted", show(f.Name)).WithHint("pack the zip without a password; keep secrets out of the archive")
	}
	kind := kindOfMode(f.Mode())
	if kind != kindFile && kind != kindFolder {
		return refuse(kind, f.Name)
	}
	path, folders, err := u.tree.add(f.Name, kind == kindFolder)
	if err != nil {
		return err
	}
	if err := u.folders(folders); err != nil {
		return err
	}
	if kind == kindFolder {
		return nil
	}
	r, err := f.Open()
	if err != nil {
		return err
	}
	defer r.Close() // nothing is written through it
	return u.write(path, f.Mode(), &zipContent{u: u, r: r})
}

// zipContent counts what one entry gives towards the ratio of all.
type zipContent struct {
	u *unpacker
	r io.Reader
}

func (c *zipContent) Read(p []byte) (int, error) {
	if err := c.u.source.ctx.Err(); err != nil {
		return 0, ended(err)
	}
	n, err := c.r.Read(p)
	if err := c.u.suspicious(c.u.written + int64(n)); err != nil {
		return 0, err
	}
	return n, err
}

// checkZipEnd finds the end record, and that nothing follows it.
func checkZipEnd(r io.ReaderAt, size int64) error {
	tail := make([]byte, min(size, zipEndLen+zipMaxName))
	if _, err := r.ReadAt(tail, size-int64(len(tail))); err != nil && err != io.EOF {
		return machine(err)
	}
	err := truncated()
	for at := len(tail); ; { // a comment may hold the signature: look on
		if at = bytes.LastIndex(tail[:at], []byte(zipEmpty)); at < 0 {
			return err
		}
		rest := len(tail) - at - zipEndLen
		if rest < 0 {
			continue
		}
		switch comment := int(binary.LittleEndian.Uint16(tail[at+zipEndLen-2:])); {
		case comment == rest:
			return nil
		case comment < rest:
			err = invalid("archive-trailing-data", "something follows the end of the zip").WithHint(hintRepack)
		}
	}
}

// checkZipLocals compares the directory with the headers before the contents:
// programs that read one and programs that read the other must see the same
// files, and no two entries may share bytes.
func checkZipLocals(r io.ReaderAt, size int64, files []*zip.File) error {
	type extent struct {
		file       *zip.File
		start, end int64 // of the contents
	}
	extents := make([]extent, 0, len(files))
	for _, f := range files {
		start, err := f.DataOffset()
		if err != nil {
			return err
		}
		if start > size || f.CompressedSize64 > uint64(size-start) {
			return corrupt("%q is larger than the zip", show(f.Name))
		}
		extents = append(extents, extent{f, start, start + int64(f.CompressedSize64)})
	}
	slices.SortStableFunc(extents, func(a, b extent) int { return cmp.Compare(a.start, b.start) })
	var previous int64
	for _, e := range extents {
		if e.start-zipLocalLen < previous {
			return invalid("archive-zip-overlap", "%q shares its bytes with another file of the zip", show(e.file.Name)).WithHint(hintRepack)
		}
		same, err := hasLocalHeader(r, e.file, max(previous, e.start-zipLocalLen-2*zipMaxName), e.start)
		if err != nil {
			return machine(err)
		}
		if !same {
			return invalid("archive-zip-mismatch", "the zip's directory and the header of %q disagree", show(e.file.Name)).WithHint(hintRepack)
		}
		previous = e.end
	}
	return nil
}

// hasLocalHeader looks between two offsets for a header of f that ends where
// its contents start.
func hasLocalHeader(r io.ReaderAt, f *zip.File, from, to int64) (bool, error) {
	gap := make([]byte, to-from)
	if _, err := r.ReadAt(gap, from); err != nil {
		return false, err
	}
	for at := 0; ; at++ {
		next := bytes.Index(gap[at:], []byte(zipLocal))
		if next < 0 {
			return false, nil
		}
		at += next
		header := gap[at:]
		if len(header) < zipLocalLen {
			return false, nil
		}
		method := binary.LittleEndian.Uint16(header[8:])
		name := int(binary.LittleEndian.Uint16(header[26:]))
		extra := int(binary.LittleEndian.Uint16(header[28:]))
		if zipLocalLen+name+extra == len(header) && method == f.Method && string(header[zipLocalLen:zipLocalLen+name]) == f.Name {
			return true, nil
		}
	}
}

// boundedReaderAt fails once left bytes were read; a negative left is no bound.
type boundedReaderAt struct {
	r    io.ReaderAt
	left int64
}

func (b *boundedReaderAt) ReadAt(p []byte, offset int64) (int, error) {
	if b.left >= 0 {
		if b.left -= int64(len(p)); b.left < 0 {
			b.left = 0
			return 0, tooLarge("archive-too-many-entries", "the directory of the zip is too large").WithHint(hintSmaller)
		}
	}
	return b.r.ReadAt(p, offset)
}
