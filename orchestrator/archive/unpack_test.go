package archive_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/archive"
)

// small are limits that tests reach with little data.
func small() archive.Limits {
	limits := archive.DefaultLimits()
	limits.Compressed = 256 * orchestrator.KiB
	limits.Unpacked = 512 * orchestrator.KiB
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

// TestDefaultLimits holds what the documentation promises.
func TestDefaultLimits(t *testing.T) {
	got := archive.DefaultLimits()
	if got.Compressed != 50*orchestrator.MiB || got.Unpacked != 250*orchestrator.MiB || got.Entries != 20_000 {
		t.Errorf("got %+v", got)
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

// noise does not compress (Marsaglia's xorshift).
func noise(n int) string {
	data := make([]byte, n)
	x := uint32(1)
	for i := range data {
		x ^= x << 13
		x ^= x >> 17
		x ^= x << 5
		data[i] = byte(x)
	}
	return string(data)
}

func TestUnpackCountsBytes(t *testing.T) {
	zeros := strings.Repeat("\x00", 768<<10)
	random := noise(512 << 10)
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
		{"compressed", []entry{{name: "a", data: random}}, nil, "archive-too-large"},
		{"bomb", []entry{{name: "a", data: zeros}}, nil, "archive-ratio"},
		{"unpacked in one file", []entry{{name: "a", data: zeros}}, func(l *archive.Limits) { l.Ratio = 1e6; l.Compressed = 1e9 }, "archive-unpacked-too-large"},
		{"unpacked in many files", []entry{{name: "a", data: zeros[:256<<10]}, {name: "b", data: zeros[:256<<10]}, {name: "c", data: "x"}},
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
	t.Run("zeros beside the contents count too", func(t *testing.T) {
		limits := small()
		limits.Ratio = 1e6
		data := append(makeTar(t, entry{name: "a", data: "x"}), zeros...)
		_, _, err := unpack(t, gzipped(t, data), limits)
		wantError(t, err, orchestrator.ErrTooLarge, "archive-unpacked-too-large")
	})
	t.Run("unpacked is what the limit says", func(t *testing.T) {
		limits := small()
		limits.Compressed = 1 * orchestrator.MiB
		for _, m := range makers {
			if _, s, err := unpack(t, m.make(t, entry{name: "a", data: random}), limits); err != nil || s.Unpacked != 512*orchestrator.KiB {
				t.Errorf("%s: got %v, %v", m.format, s.Unpacked, err)
			}
		}
	})
}
