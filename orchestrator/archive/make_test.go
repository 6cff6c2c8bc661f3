package archive_test

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"io"
	"io/fs"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
)

// entry is one entry of an archive that a test makes. A name that ends with a
// slash is a folder.
type entry struct {
	name  string
	data  string
	mode  fs.FileMode // type and permissions; 0 means 0644
	flag  byte        // tar type; 0 means by mode
	extra func(*tar.Header)
}

func (e entry) permissions() fs.FileMode {
	if e.mode.Perm() == 0 {
		return e.mode | 0o644
	}
	return e.mode
}

// makers make the same archive in each format.
var makers = []struct {
	format string
	make   func(testing.TB, ...entry) []byte
}{
	{"tar", makeTar},
	{"tar.gz", func(t testing.TB, e ...entry) []byte { return gzipped(t, makeTar(t, e...)) }},
	{"tar.zst", func(t testing.TB, e ...entry) []byte { return zstded(t, makeTar(t, e...)) }},
	{"zip", makeZip},
}

func makerOf(format string) func(testing.TB, ...entry) []byte {
	for _, m := range makers {
		if m.format == format {
			return m.make
		}
	}
	return nil
}

func makeTar(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	for _, e := range entries {
		writeTar(t, tw, e)
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func writeTar(t testing.TB, tw *tar.Writer, e entry) {
	t.Helper()
	header := &tar.Header{
		Name:    e.name,
		Mode:    int64(e.permissions().Perm()),
		Size:    int64(len(e.data)),
		ModTime: time.Now(),
		Uid:     1234,
		Uname:   "somebody",
	}
	switch {
	case e.flag != 0:
		header.Typeflag = e.flag
	case e.mode&fs.ModeSymlink != 0:
		header.Typeflag, header.Linkname, header.Size = tar.TypeSymlink, e.data, 0
	case e.mode&fs.ModeNamedPipe != 0:
		header.Typeflag = tar.TypeFifo
	case e.mode&fs.ModeDevice != 0:
		header.Typeflag = tar.TypeBlock
	case len(e.name) > 0 && e.name[len(e.name)-1] == '/':
		header.Typeflag = tar.TypeDir
	default:
		header.Typeflag = tar.TypeReg
	}
	if e.extra != nil {
		e.extra(header)
	}
	if err := tw.WriteHeader(header); err != nil {
		t.Fatalf("write the header of %q: %v", e.name, err)
	}
	if header.Size > 0 {
		if _, err := io.WriteString(tw, e.data); err != nil {
			t.Fatalf("write %q: %v", e.name, err)
		}
	}
}

func makeZip(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	zw := zip.NewWriter(&b)
	for _, e := range entries {
		header := &zip.FileHeader{Name: e.name, Method: zip.Deflate, Modified: time.Now()}
		header.SetMode(e.permissions())
		w, err := zw.CreateHeader(header)
		if err != nil {
			t.Fatalf("write the header of %q: %v", e.name, err)
		}
		if e.data == "" {
			continue
		}
		if _, err := io.WriteString(w, e.data); err != nil {
			t.Fatalf("write %q: %v", e.name, err)
		}
	}
	if err := zw.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func gzipped(t testing.TB, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	zw := gzip.NewWriter(&b)
	if _, err := zw.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := zw.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func zstded(t testing.TB, data []byte, options ...zstd.EOption) []byte {
	t.Helper()
	var b bytes.Buffer
	zw, err := zstd.NewWriter(&b, options...)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := zw.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := zw.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}
