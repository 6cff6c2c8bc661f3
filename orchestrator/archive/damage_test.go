package archive_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/archive"
)

// Every strict prefix of an archive is refused, and no byte after one is taken.
func TestUnpackTruncatedAnywhere(t *testing.T) {
	for _, m := range makers {
		t.Run(m.format, func(t *testing.T) {
			t.Parallel()
			full := m.make(t, entry{name: "handler.py", data: "def handle(request): return 'ok'"}, entry{name: "b/c", data: strings.Repeat("z", 700)})
			limit := len(full)
			if m.format == "tar" {
				limit -= 512 // the second zero block may be missing
			}
			for n := 1; n < limit; n++ {
				if m.format == "tar" && n%512 > 4 && n%37 != 0 {
					continue // what a tar says changes at its blocks
				}
				_, _, err := unpack(t, full[:n], small())
				if err == nil {
					t.Fatalf("the first %d of %d bytes were accepted", n, len(full))
				}
				if !errors.Is(err, orchestrator.ErrInvalid) {
					t.Fatalf("the first %d of %d bytes: %v", n, len(full), err)
				}
				if n >= archive.DetectLen {
					wantError(t, err, orchestrator.ErrInvalid, "archive-truncated")
				}
			}
			_, _, err := unpack(t, append(bytes.Clone(full), "garbage after the end of it"...), small())
			code := map[string]string{"tar": "archive-trailing-data", "zip": "archive-trailing-data"}[m.format]
			if code == "" {
				code = "archive-corrupt"
			}
			wantError(t, err, orchestrator.ErrInvalid, code)
		})
	}
}

// A flipped bit is an error of the right class, or does not matter.
func TestUnpackFlippedBits(t *testing.T) {
	for _, m := range makers {
		t.Run(m.format, func(t *testing.T) {
			t.Parallel()
			full := m.make(t, entry{name: "handler.py", data: "def handle(request): return 'ok'"})
			for i := range full {
				if full[i] == 0 && i%16 != 0 {
					continue // padding
				}
				damaged := bytes.Clone(full)
				damaged[i] ^= 1 << (i % 8)
				_, _, err := unpack(t, damaged, small())
				if err != nil && !errors.Is(err, orchestrator.ErrInvalid) && !errors.Is(err, orchestrator.ErrTooLarge) {
					t.Fatalf("byte %d flipped: %v", i, err)
				}
			}
		})
	}
	t.Run("checksums", func(t *testing.T) {
		good := makeTar(t, entry{name: "a", data: "x"})
		gz := gzipped(t, good)
		gz[len(gz)-5] ^= 1 // CRC-32
		zs := zstded(t, good)
		zs[len(zs)-1] ^= 1 // XXH64
		zp := bytes.Clone(makeZip(t, entry{name: "a", data: strings.Repeat("abc", 10)}))
		at := bytes.LastIndex(zp, []byte("PK\x01\x02"))
		zp[at+16] ^= 1 // CRC-32 in the directory
		for name, data := range map[string][]byte{"gzip": gz, "zstd": zs, "zip": zp} {
			_, _, err := unpack(t, data, small())
			if err == nil {
				t.Errorf("%s: a wrong checksum was accepted", name)
				continue
			}
			wantError(t, err, orchestrator.ErrInvalid, "archive-corrupt")
		}
	})
}

func TestUnpackUnknown(t *testing.T) {
	for _, c := range []struct{ data, code string }{
		{"", "archive-empty"},
		{"def handle(request): ...\n", "archive-format-unknown"},
		{"#!/bin/sh\n" + strings.Repeat("echo hello\n", 100), "archive-format-unknown"},
		{strings.Repeat("x", 148) + "0001234\x00" + strings.Repeat("x", 500), "archive-format-unknown"}, // no checksum of this
		{"\x7fELF" + strings.Repeat("\x00", 1000), "archive-format-unknown"},
		{"\xfd7zXZ\x00" + "rest", "archive-format-unsupported"},
		{"BZh91AY&SY", "archive-format-unsupported"},
		{"7z\xbc\xaf\x27\x1c", "archive-format-unsupported"},
		{"Rar!\x1a\x07\x00", "archive-format-unsupported"},
		{"PK\x07\x08PK\x03\x04", "archive-format-unsupported"},
		{strings.Repeat("\x00", 1024), "archive-empty"},
	} {
		_, _, err := unpack(t, []byte(c.data), small())
		wantError(t, err, orchestrator.ErrInvalid, c.code)
	}
	_, _, err := unpack(t, gzipped(t, []byte(strings.Repeat("just text\n", 100))), small())
	wantError(t, err, orchestrator.ErrInvalid, "archive-corrupt")
}

func TestUnpackZstdWindow(t *testing.T) {
	frame := []byte("\x28\xb5\x2f\xfd\x00\xa0" + "\x01\x00\x00") // a window of 1 GiB, one empty block
	_, _, err := unpack(t, frame, small())
	wantError(t, err, orchestrator.ErrTooLarge, "archive-zstd-window")
}

func TestUnpackSource(t *testing.T) {
	data := makeTar(t, entry{name: "a", data: strings.Repeat("x", 5000)})
	root := func(t *testing.T) *os.Root {
		r, err := os.OpenRoot(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = r.Close() })
		return r
	}
	t.Run("one byte at a time", func(t *testing.T) {
		for _, m := range makers {
			data := m.make(t, entry{name: "a", data: "x"})
			if _, err := archive.Unpack(t.Context(), iotest.OneByteReader(bytes.NewReader(data)), root(t), small()); err != nil {
				t.Errorf("%s: %v", m.format, err)
			}
		}
	})
	t.Run("fails", func(t *testing.T) {
		for _, failure := range []error{errors.New("connection reset"), io.ErrUnexpectedEOF} {
			for _, m := range makers {
				data := m.make(t, entry{name: "a", data: noise(5000)})
				for _, n := range []int{0, 10, 600, 3000, len(data)} {
					r := io.MultiReader(bytes.NewReader(data[:n]), iotest.ErrReader(failure))
					_, err := archive.Unpack(t.Context(), r, root(t), small())
					wantError(t, err, orchestrator.ErrInvalid, "archive-interrupted")
					if !errors.Is(err, failure) {
						t.Errorf("%s: the cause %v is not in %v", m.format, failure, err)
					}
				}
			}
		}
	})
	t.Run("an error of its own class passes", func(t *testing.T) {
		failure := orchestrator.Errorf(orchestrator.ErrTooLarge, "body-too-large", "too much").WithHint("less")
		_, err := archive.Unpack(t.Context(), iotest.ErrReader(failure), root(t), small())
		wantError(t, err, orchestrator.ErrTooLarge, "body-too-large")
	})
	t.Run("context ends when all has been read", func(t *testing.T) {
		for _, m := range makers[1:] {
			data := m.make(t, entry{name: "a", data: noise(2000)}, entry{name: "b", data: strings.Repeat("\x00", 60<<10)})
			ctx, cancel := context.WithCancel(t.Context())
			r := iotest.DataErrReader(bytes.NewReader(data))
			_, err := archive.Unpack(ctx, readerFunc(func(p []byte) (int, error) {
				n, err := r.Read(p)
				if err == io.EOF {
					cancel()
				}
				return n, err
			}), root(t), small())
			wantError(t, err, orchestrator.ErrDeadline, "archive-deadline")
		}
	})
	t.Run("context ends", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		r := io.MultiReader(bytes.NewReader(data[:3000]), readerFunc(func(p []byte) (int, error) {
			cancel()
			return copy(p, data[3000:3500]), nil
		}))
		_, err := archive.Unpack(ctx, r, root(t), small())
		wantError(t, err, orchestrator.ErrDeadline, "archive-deadline")
	})
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// A link that is already below the root (nobody should have put it there) does
// not lead out.
func TestUnpackIntoTrappedRoot(t *testing.T) {
	outside := t.TempDir()
	dir := t.TempDir()
	for _, link := range []string{"a", ".kiln-spool"} {
		if err := os.Symlink(filepath.Join(outside, "target"), filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(outside, filepath.Join(dir, "folder")); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	for _, m := range makers {
		for _, name := range []string{"a", "folder/x"} {
			if _, err := archive.Unpack(t.Context(), bytes.NewReader(m.make(t, entry{name: name, data: "x"})), root, small()); err == nil {
				t.Errorf("%s: wrote %q through a link", m.format, name)
			} else if !errors.Is(err, orchestrator.ErrUnavailable) {
				t.Errorf("%s: got %v, want unavailable", m.format, err)
			}
		}
	}
	if got := files(t, outside); len(got) != 0 {
		t.Errorf("written outside: %v", got)
	}
	if err := os.WriteFile(filepath.Join(dir, "mine"), []byte("kept"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = archive.Unpack(t.Context(), bytes.NewReader(makeTar(t, entry{name: "mine", data: "x"})), root, small())
	wantError(t, err, orchestrator.ErrUnavailable, "archive-disk")
	if got, err := os.ReadFile(filepath.Join(dir, "mine")); err != nil || string(got) != "kept" {
		t.Errorf("a file that was there is now %q, %v", got, err)
	}
}
