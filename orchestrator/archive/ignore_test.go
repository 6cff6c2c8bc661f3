package archive_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/archive"
)

// kept lists the files that are left, joined by spaces.
func kept(t *testing.T, fsys fs.FS) string {
	t.Helper()
	var found []string
	err := fs.WalkDir(fsys, ".", func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			found = append(found, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(found, " ")
}

func TestSources(t *testing.T) {
	tree := "a.pyc handler.py build/out sub/a.pyc sub/build/out sub/keep.pyc src/x.go src/y/z.go docs/build notes.txt"
	for _, c := range []struct {
		name, ignore, want string
	}{
		{"nothing", "", tree},
		{"comments and blanks", "# all\n\n  \n", tree},
		{"anywhere", "*.pyc\n", "handler.py build/out sub/build/out src/x.go src/y/z.go docs/build notes.txt"},
		{"windows line ends", "*.pyc\r\n", "handler.py build/out sub/build/out src/x.go src/y/z.go docs/build notes.txt"},
		{"a name anywhere, file or folder", "build", "a.pyc handler.py sub/a.pyc sub/keep.pyc src/x.go src/y/z.go notes.txt"},
		{"folders only", "build/", "a.pyc handler.py sub/a.pyc sub/keep.pyc src/x.go src/y/z.go docs/build notes.txt"},
		{"from the root", "/build", "a.pyc handler.py sub/a.pyc sub/build/out sub/keep.pyc src/x.go src/y/z.go docs/build notes.txt"},
		{"a path", "sub/build", "a.pyc handler.py build/out sub/a.pyc sub/keep.pyc src/x.go src/y/z.go docs/build notes.txt"},
		{"two stars", "src/**/*.go", "a.pyc handler.py build/out sub/a.pyc sub/build/out sub/keep.pyc docs/build notes.txt"},
		{"taken back", "*.pyc\n!keep.pyc\n", "handler.py build/out sub/build/out sub/keep.pyc src/x.go src/y/z.go docs/build notes.txt"},
		{"the last line decides", "!keep.pyc\n*.pyc\n", "handler.py build/out sub/build/out src/x.go src/y/z.go docs/build notes.txt"},
		{"everything but a folder", "*\n!src\n", "src/x.go src/y/z.go"},
		{"everything but a folder, from the root", "/*\n!/src/\n", "src/x.go src/y/z.go"},
		{"not below what is out", "sub/\n!sub/keep.pyc\n", "a.pyc handler.py build/out src/x.go src/y/z.go docs/build notes.txt"},
		{"a set", "[a-h]*.p[xy]*", "build/out sub/build/out sub/keep.pyc src/x.go src/y/z.go docs/build notes.txt"},
		{"dot slash", "./notes.txt", "a.pyc handler.py build/out sub/a.pyc sub/build/out sub/keep.pyc src/x.go src/y/z.go docs/build"},
	} {
		t.Run(c.name, func(t *testing.T) {
			fsys := fstest.MapFS{archive.IgnoreFile: {Data: []byte(c.ignore)}}
			for name := range strings.FieldsSeq(tree) {
				fsys[name] = &fstest.MapFile{}
			}
			for _, vcs := range []string{".git/config", ".hg/store", ".svn/entries", "sub/.git"} {
				fsys[vcs] = &fstest.MapFile{}
			}
			sources, err := archive.Sources(fsys)
			if err != nil {
				t.Fatal(err)
			}
			want := fstest.MapFS{}
			for name := range strings.FieldsSeq(c.want) {
				want[name] = &fstest.MapFile{}
			}
			if diff := cmp.Diff(kept(t, want), kept(t, sources)); diff != "" {
				t.Errorf("kept (-want +got):\n%s", diff)
			}
		})
	}
}

func TestSourcesEscapedCharacters(t *testing.T) {
	fsys := fstest.MapFS{archive.IgnoreFile: {Data: []byte("\\#notes\n\\!x\n")}, "#notes": {}, "!x": {}, "keep": {}}
	sources, err := archive.Sources(fsys)
	if err != nil {
		t.Fatal(err)
	}
	if got := kept(t, sources); got != "keep" {
		t.Errorf("got %q", got)
	}
}

func TestSourcesErrors(t *testing.T) {
	for _, c := range []struct {
		ignore string
		class  error
		code   string
		text   string
	}{
		{"ok\n[\n", orchestrator.ErrInvalid, "kilnignore-invalid", ".kilnignore:2: "},
		{"!\n", orchestrator.ErrInvalid, "kilnignore-invalid", ".kilnignore:1: "},
		{"/\n", orchestrator.ErrInvalid, "kilnignore-invalid", ".kilnignore:1: "},
		{strings.Repeat("x\n", 40<<10), orchestrator.ErrTooLarge, "kilnignore-too-large", ""},
	} {
		_, err := archive.Sources(fstest.MapFS{archive.IgnoreFile: {Data: []byte(c.ignore)}})
		wantError(t, err, c.class, c.code)
		if !strings.Contains(err.Error(), c.text) {
			t.Errorf("got %v, want %q in it", err, c.text)
		}
	}
}

// Packing a real folder leaves out what Sources hides, links in it included.
func TestPackSources(t *testing.T) {
	dir := t.TempDir()
	for name, data := range map[string]string{".kilnignore": "/venv\n", "handler.py": "x", ".git/HEAD": "ref"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "venv"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/usr/bin/python3", filepath.Join(dir, "venv", "python")); err != nil {
		t.Fatal(err)
	}
	sources, err := archive.Sources(os.DirFS(dir))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := pack(t, sources), pack(t, fstest.MapFS{"handler.py": {Data: []byte("x")}}); string(got) != string(want) {
		t.Error("the archive holds more than handler.py")
	}
}
