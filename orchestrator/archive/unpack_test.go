package archive_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/archive"
)

// small are limits that tests reach with little data.
func small() archive.Limits {
	limits := archive.DefaultLimits()
	limits.Compressed = 1 * orchestrator.MiB
	limits.Unpacked = 2 * orchestrator.MiB
	limits.Entries = 50
	limits.Depth = 6
	limits.Path = 100
	limits.Name = 40
	limits.Ratio = 50
	limits.RatioFloor = 64 * orchestrator.KiB
	return limits
}

// unpack unpacks into a fresh folder, inside one that must stay empty besides.
func unpack(t testing.TB, data []byte, limits archive.Limits) (map[string]string, archive.Summary, error) {
	t.Helper()
	outer := t.TempDir()
	dir := filepath.Join(outer, "inner")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	summary, err := archive.Unpack(t.Context(), bytes.NewReader(data), root, limits)
	entries, readErr := os.ReadDir(outer)
	if readErr != nil {
		t.Fatal(readErr)
	}
	if len(entries) != 1 {
		t.Fatalf("something was written outside the folder: %v", entries)
	}
	return files(t, dir), summary, err
}

// files returns the tree as path -> "mode contents"; folders as "folder".
func files(t testing.TB, dir string) map[string]string {
	t.Helper()
	found := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		name := strings.TrimPrefix(path, dir+"/")
		switch {
		case d.IsDir():
			found[name] = "folder"
			return nil
		case !d.Type().IsRegular():
			t.Errorf("%q is neither a file nor a folder: %v", name, d.Type())
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		data, err := os.ReadFile(path)
		found[name] = fmt.Sprintf("%o %s", info.Mode().Perm(), data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// wantError checks class and code, and that the client is told what to do.
func wantError(t testing.TB, err error, class error, code string) {
	t.Helper()
	var got *orchestrator.Error
	if !errors.As(err, &got) {
		t.Fatalf("got error %v, want %s", err, code)
	}
	if got.Code != code || !errors.Is(err, class) {
		t.Errorf("got %s of class %v (%v), want %s of class %v", got.Code, got.Class, err, code, class)
	}
	if got.Hint == "" {
		t.Errorf("%s has no hint", got.Code)
	}
}

func TestUnpackFormats(t *testing.T) {
	umask := syscall.Umask(0o077)
	defer syscall.Umask(umask)
	long := strings.Repeat("long/", 5) + strings.Repeat("n", 120) + ".py"
	want := map[string]string{
		"handler.py":    "644 def handle(request): ...",
		"bin":           "folder",
		"bin/run":       "755 #!/bin/sh\n",
		"empty":         "folder",
		"data":          "folder",
		"data/größe.md": "644 ",
	}
	for _, folder := range []string{"long", "long/long", "long/long/long", "long/long/long/long", "long/long/long/long/long"} {
		want[folder] = "folder"
	}
	want[long] = "644 deep"
	for _, m := range makers {
		t.Run(m.format, func(t *testing.T) {
			data := m.make(t,
				entry{name: "./", mode: fs.ModeDir | 0o755},
				entry{name: "./handler.py", data: "def handle(request): ...", mode: 0o600},
				entry{name: "bin/run", data: "#!/bin/sh\n", mode: 0o4711},
				entry{name: "bin/", mode: fs.ModeDir | 0o700},
				entry{name: "empty/", mode: fs.ModeDir | 0o755},
				entry{name: "data/größe.md", mode: 0o666},
				entry{name: long, data: "deep"},
			)
			if got := archive.Detect(data); string(got) != m.format {
				t.Errorf("Detect: got %q, want %q", got, m.format)
			}
			got, summary, err := unpack(t, data, archive.DefaultLimits())
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("tree (-want +got):\n%s", diff)
			}
			wantSummary := archive.Summary{Format: archive.Format(m.format), Files: 4, Folders: 8,
				Compressed: orchestrator.Bytes(len(data)), Unpacked: 24 + 10 + 4}
			if diff := cmp.Diff(wantSummary, summary); diff != "" {
				t.Errorf("summary (-want +got):\n%s", diff)
			}
		})
	}
}

func TestUnpackTarDialects(t *testing.T) {
	long := strings.Repeat("d/", 20) + strings.Repeat("f", 200)
	for name, format := range map[string]tar.Format{"gnu": tar.FormatGNU, "pax": tar.FormatPAX} {
		t.Run(name, func(t *testing.T) {
			data := makeTar(t,
				entry{name: long, data: "x", extra: func(h *tar.Header) { h.Format = format }})
			got, _, err := unpack(t, data, archive.DefaultLimits())
			if err != nil {
				t.Fatal(err)
			}
			if got[long] != "644 x" {
				t.Errorf("the long name is missing in %v", got)
			}
		})
	}
	t.Run("global header", func(t *testing.T) { // as git archive writes
		data := makeTar(t,
			entry{name: "pax_global_header", extra: func(h *tar.Header) {
				*h = tar.Header{Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"comment": "4f2d"}}
			}},
			entry{name: "a", data: "x"})
		got, _, err := unpack(t, data, archive.DefaultLimits())
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(map[string]string{"a": "644 x"}, got); diff != "" {
			t.Errorf("tree (-want +got):\n%s", diff)
		}
	})
	t.Run("one zero block and padding", func(t *testing.T) {
		full := makeTar(t, entry{name: "a", data: "x"})
		for _, data := range [][]byte{full[:len(full)-512], append(full, make([]byte, 10240)...)} {
			if _, _, err := unpack(t, data, archive.DefaultLimits()); err != nil {
				t.Errorf("%d bytes: %v", len(data), err)
			}
		}
	})
}

func TestUnpackRefusesNames(t *testing.T) {
	deep := strings.Repeat("d/", 6) + "f"
	cases := []struct {
		name    string
		entries []entry
		class   error
		code    string
		formats string // empty = all
	}{
		{"absolute", []entry{{name: "/etc/passwd"}}, orchestrator.ErrInvalid, "archive-path-absolute", ""},
		{"absolute folder", []entry{{name: "/"}}, orchestrator.ErrInvalid, "archive-path-absolute", ""},
		{"absolute twice", []entry{{name: "//a"}}, orchestrator.ErrInvalid, "archive-path-absolute", ""},
		{"absolute after dot", []entry{{name: ".//etc/passwd"}}, orchestrator.ErrInvalid, "archive-path-absolute", ""},
		{"drive", []entry{{name: "C:/boot.ini"}}, orchestrator.ErrInvalid, "archive-path-absolute", ""},
		{"parent", []entry{{name: ".."}}, orchestrator.ErrInvalid, "archive-path-escapes", ""},
		{"parent folder", []entry{{name: "../"}}, orchestrator.ErrInvalid, "archive-path-escapes", ""},
		{"parent first", []entry{{name: "../a"}}, orchestrator.ErrInvalid, "archive-path-escapes", ""},
		{"parent after dot", []entry{{name: "./../a"}}, orchestrator.ErrInvalid, "archive-path-escapes", ""},
		{"parent inside", []entry{{name: "a/../b"}}, orchestrator.ErrInvalid, "archive-path-escapes", ""},
		{"parent last", []entry{{name: "a/.."}}, orchestrator.ErrInvalid, "archive-path-escapes", ""},
		{"parent far", []entry{{name: "a/../../../../tmp/x"}}, orchestrator.ErrInvalid, "archive-path-escapes", ""},
		{"no name", []entry{{name: ""}}, orchestrator.ErrInvalid, "archive-path-empty", ""},
		{"dot file", []entry{{name: "."}}, orchestrator.ErrInvalid, "archive-path-unclean", ""},
		{"double slash", []entry{{name: "a//b"}}, orchestrator.ErrInvalid, "archive-path-unclean", ""},
		{"dot inside", []entry{{name: "a/./b"}}, orchestrator.ErrInvalid, "archive-path-unclean", ""},
		{"dot last", []entry{{name: "a/."}}, orchestrator.ErrInvalid, "archive-path-unclean", ""},
		{"double slash last", []entry{{name: "a//"}}, orchestrator.ErrInvalid, "archive-path-unclean", ""},
		{"nul", []entry{{name: "a\x00b"}}, orchestrator.ErrInvalid, "archive-path-nul", "zip"},
		{"backslash", []entry{{name: `a\b`}}, orchestrator.ErrInvalid, "archive-path-backslash", ""},
		{"backslash parent", []entry{{name: `..\b`}}, orchestrator.ErrInvalid, "archive-path-backslash", ""},
		{"not UTF-8", []entry{{name: "caf\xe9"}}, orchestrator.ErrInvalid, "archive-path-encoding", ""},
		{"overlong UTF-8 slash", []entry{{name: "..\xc0\xafa"}}, orchestrator.ErrInvalid, "archive-path-encoding", ""},
		{"newline", []entry{{name: "a\nb"}}, orchestrator.ErrInvalid, "archive-path-control", ""},
		{"escape", []entry{{name: "a\x1b[2J"}}, orchestrator.ErrInvalid, "archive-path-control", ""},
		{"C1 control", []entry{{name: "a\u009bb"}}, orchestrator.ErrInvalid, "archive-path-control", ""},

		{"twice", []entry{{name: "a"}, {name: "a"}}, orchestrator.ErrInvalid, "archive-duplicate", ""},
		{"twice with dot", []entry{{name: "a"}, {name: "./a"}}, orchestrator.ErrInvalid, "archive-duplicate", ""},
		{"case", []entry{{name: "a/Read.me"}, {name: "a/read.me"}}, orchestrator.ErrInvalid, "archive-case-clash", ""},
		{"case of folders", []entry{{name: "Lib/a"}, {name: "lib/b"}}, orchestrator.ErrInvalid, "archive-case-clash", ""},
		{"case of a letter beyond ASCII", []entry{{name: "Ä"}, {name: "ä"}}, orchestrator.ErrInvalid, "archive-case-clash", ""},
		{"case of the Kelvin sign", []entry{{name: "k"}, {name: "\u212a"}}, orchestrator.ErrInvalid, "archive-case-clash", ""},
		{"file as folder", []entry{{name: "a"}, {name: "a/b"}}, orchestrator.ErrInvalid, "archive-file-as-folder", ""},
		{"folder as file", []entry{{name: "a/b"}, {name: "a"}}, orchestrator.ErrInvalid, "archive-file-as-folder", ""},
		{"file as named folder", []entry{{name: "a"}, {name: "a/"}}, orchestrator.ErrInvalid, "archive-file-as-folder", ""},

		{"too deep", []entry{{name: deep}}, orchestrator.ErrTooLarge, "archive-path-too-deep", ""},
		{"path too long", []entry{{name: strings.Repeat("abcdefghijklmnopqrstuvwxyz/", 4) + "f"}}, orchestrator.ErrTooLarge, "archive-path-too-long", ""},
		{"name too long", []entry{{name: strings.Repeat("n", 41)}}, orchestrator.ErrTooLarge, "archive-name-too-long", ""},

		{"nothing", nil, orchestrator.ErrInvalid, "archive-empty", ""},
		{"folders only", []entry{{name: "a/"}, {name: "b/"}}, orchestrator.ErrInvalid, "archive-empty", ""},
		{"its own root only", []entry{{name: "./"}}, orchestrator.ErrInvalid, "archive-empty", ""},

		{"symlink", []entry{{name: "a", mode: fs.ModeSymlink | 0o777, data: "/etc"}}, orchestrator.ErrInvalid, "archive-symlink", ""},
		{"symlink then below it", []entry{{name: "a", mode: fs.ModeSymlink | 0o777, data: "/tmp"}, {name: "a/b"}}, orchestrator.ErrInvalid, "archive-symlink", ""},
		{"fifo", []entry{{name: "a", mode: fs.ModeNamedPipe | 0o666}}, orchestrator.ErrInvalid, "archive-fifo", ""},
		{"device", []entry{{name: "a", mode: fs.ModeDevice | 0o666}}, orchestrator.ErrInvalid, "archive-device", ""},
		{"socket", []entry{{name: "a", mode: fs.ModeSocket | 0o666}}, orchestrator.ErrInvalid, "archive-socket", "zip"},
		{"hard link", []entry{{name: "a"}, {name: "b", flag: tar.TypeLink, extra: func(h *tar.Header) { h.Linkname = "a" }}}, orchestrator.ErrInvalid, "archive-hard-link", "tar tar.gz tar.zst"},
		{"character device", []entry{{name: "a", flag: tar.TypeChar}}, orchestrator.ErrInvalid, "archive-device", "tar tar.gz tar.zst"},
		{"contiguous file", []entry{{name: "a", flag: tar.TypeCont}}, orchestrator.ErrInvalid, "archive-entry-type", "tar tar.gz tar.zst"},
		{"unknown type", []entry{{name: "a", flag: 'Z'}}, orchestrator.ErrInvalid, "archive-entry-type", "tar tar.gz tar.zst"},
		{"bad after good", []entry{{name: "handler.py", data: "x"}, {name: "../evil", data: "x"}}, orchestrator.ErrInvalid, "archive-path-escapes", ""},
	}
	for _, c := range cases {
		for _, m := range makers {
			if c.formats != "" && !strings.Contains(" "+c.formats+" ", " "+m.format+" ") {
				continue
			}
			t.Run(c.name+"/"+m.format, func(t *testing.T) {
				_, _, err := unpack(t, m.make(t, c.entries...), small())
				wantError(t, err, c.class, c.code)
			})
		}
	}
}

func TestUnpackAcceptsNames(t *testing.T) {
	for _, name := range []string{"a", "...", "..a", "a..", ".hidden", "a b", "a:b", "-rf", "$(x)", "ß", "日本.py", strings.Repeat("n", 40), "a/b/c/d/e/f"} {
		for _, m := range makers {
			got, _, err := unpack(t, m.make(t, entry{name: name, data: "x"}, entry{name: "z/"}, entry{name: "z/"}), small())
			if err != nil || got[name] != "644 x" {
				t.Errorf("%s %q: got %v, error %v", m.format, name, got, err)
			}
		}
	}
}

func TestUnpackRefusesSparse(t *testing.T) {
	// Versions 0.0 and 1.0 of GNU's sparse files in PAX records. archive/tar does
	// not write them, so the records are hidden under a name of equal length first.
	for name, records := range map[string]map[string]string{
		"0.0": {"GNX.sparse.size": "1024", "GNX.sparse.numblocks": "1", "GNX.sparse.map": "0,1"},
		"1.0": {"GNX.sparse.major": "1", "GNX.sparse.minor": "0", "GNX.sparse.name": "a", "GNX.sparse.realsize": "1024"},
	} {
		t.Run(name, func(t *testing.T) {
			data := makeTar(t, entry{name: "a", data: "1\n0\n1\n" + strings.Repeat("\x00", 506) + "x", extra: func(h *tar.Header) { h.PAXRecords = records }})
			_, _, err := unpack(t, bytes.ReplaceAll(data, []byte("GNX.sparse"), []byte("GNU.sparse")), archive.DefaultLimits())
			wantError(t, err, orchestrator.ErrInvalid, "archive-sparse")
		})
	}
	t.Run("old", func(t *testing.T) {
		data := makeTar(t, entry{name: "a", data: "x", extra: func(h *tar.Header) { h.Format = tar.FormatGNU }})
		setTarType(data, tar.TypeGNUSparse)
		_, _, err := unpack(t, data, archive.DefaultLimits())
		wantError(t, err, orchestrator.ErrInvalid, "archive-sparse")
	})
}

// setTarType changes the type of the first header and mends its checksum.
func setTarType(block []byte, flag byte) {
	block[156] = flag
	sum := 0
	for i, b := range block[:512] {
		if i >= 148 && i < 156 {
			b = ' '
		}
		sum += int(b)
	}
	copy(block[148:156], fmt.Sprintf("%06o\x00 ", sum))
}

func TestUnpackCountsBytes(t *testing.T) {
	zeros := strings.Repeat("\x00", 3<<20)
	noise := make([]byte, 2<<20)
	for i, x := 0, uint32(1); i < len(noise); i++ { // xorshift: does not compress
		x ^= x << 13
		x ^= x >> 17
		x ^= x << 5
		noise[i] = byte(x)
	}
	var many []entry
	for i := range 51 {
		many = append(many, entry{name: fmt.Sprintf("f%d", i), data: "x"})
	}
	implied := []entry{}
	for i := range 12 {
		implied = append(implied, entry{name: fmt.Sprintf("a%d/b/c/d/e", i), data: "x"})
	}
	cases := []struct {
		name    string
		entries []entry
		change  func(*archive.Limits)
		code    string
	}{
		{"compressed", []entry{{name: "a", data: string(noise)}}, nil, "archive-too-large"},
		{"bomb", []entry{{name: "a", data: zeros}}, nil, "archive-ratio"},
		{"unpacked in one file", []entry{{name: "a", data: zeros}}, func(l *archive.Limits) { l.Ratio = 1e6; l.Compressed = 1e9 }, "archive-unpacked-too-large"},
		{"unpacked in many files", []entry{{name: "a", data: zeros[:1<<20]}, {name: "b", data: zeros[:1<<20]}, {name: "c", data: "x"}},
			func(l *archive.Limits) { l.Ratio = 1e6; l.Compressed = 1e9 }, "archive-unpacked-too-large"},
		{"entries", many, nil, "archive-too-many-entries"},
		{"implied folders", implied, nil, "archive-too-many-entries"},
	}
	for _, c := range cases {
		for _, m := range makers {
			if m.format == "tar" && c.name == "bomb" {
				continue // a plain tar does not expand
			}
			t.Run(c.name+"/"+m.format, func(t *testing.T) {
				limits := small()
				if c.change != nil {
					c.change(&limits)
				}
				_, _, err := unpack(t, m.make(t, c.entries...), limits)
				wantError(t, err, orchestrator.ErrTooLarge, c.code)
			})
		}
	}
	t.Run("small ones may compress well", func(t *testing.T) {
		for _, m := range makers {
			if _, _, err := unpack(t, m.make(t, entry{name: "a", data: zeros[:60<<10]}), small()); err != nil {
				t.Errorf("%s: %v", m.format, err)
			}
		}
	})
	t.Run("bomb after the end of the tar", func(t *testing.T) {
		data := append(makeTar(t, entry{name: "a", data: "x"}), zeros...)
		_, _, err := unpack(t, gzipped(t, data), small())
		wantError(t, err, orchestrator.ErrTooLarge, "archive-ratio")
	})
	t.Run("unpacked is what the limit says", func(t *testing.T) {
		limits := small()
		limits.Compressed = 4 * orchestrator.MiB
		for _, m := range makers {
			if _, s, err := unpack(t, m.make(t, entry{name: "a", data: string(noise)}), limits); err != nil || s.Unpacked != 2*orchestrator.MiB {
				t.Errorf("%s: got %v, %v", m.format, s.Unpacked, err)
			}
		}
	})
}

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
			r := io.MultiReader(bytes.NewReader(data[:3000]), iotest.ErrReader(failure))
			_, err := archive.Unpack(t.Context(), r, root(t), small())
			wantError(t, err, orchestrator.ErrInvalid, "archive-interrupted")
			if !errors.Is(err, failure) {
				t.Errorf("the cause %v is not in %v", failure, err)
			}
		}
	})
	t.Run("an error of its own class passes", func(t *testing.T) {
		failure := orchestrator.Errorf(orchestrator.ErrTooLarge, "body-too-large", "too much").WithHint("less")
		_, err := archive.Unpack(t.Context(), iotest.ErrReader(failure), root(t), small())
		wantError(t, err, orchestrator.ErrTooLarge, "body-too-large")
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
}
