package archive_test

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/archive"
)

func openRoot(t testing.TB) *os.Root {
	t.Helper()
	root, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = root.Close() })
	return root
}

func pack(t testing.TB, fsys fs.FS) []byte {
	t.Helper()
	var b bytes.Buffer
	if _, err := archive.Pack(t.Context(), &b, fsys, archive.DefaultLimits()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// names lists a tar as it is, with modes and contents.
func names(t testing.TB, r io.Reader) []string {
	t.Helper()
	var list []string
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if err == io.EOF {
			return list
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		if h.Uid != 0 || h.Gid != 0 || h.Uname != "" || h.ModTime.Year() != 1980 {
			t.Errorf("%q is not normalised: %+v", h.Name, h)
		}
		list = append(list, fmt.Sprintf("%s %o %s", h.Name, h.Mode, data))
	}
}

// The digest of this tree must never change: it identifies stored code.
const goldenDigest = "050f6e6532bd0c09"

func TestPackIsTheSameWhateverTheFormat(t *testing.T) {
	entries := []entry{
		{name: "handler.py", data: "def handle(request): ..."},
		{name: "b/two", data: "2", mode: 0o600},
		{name: "b/one", data: "1", mode: 0o777},
		{name: "b.txt", data: "between b/ and b/one by bytes"},
		{name: "empty/", mode: fs.ModeDir | 0o700},
		{name: strings.Repeat("long/", 10) + strings.Repeat("n", 150), data: "needs PAX"},
	}
	digests := map[string]string{}
	for _, m := range makers {
		for _, order := range []string{"given", "reversed"} {
			shuffled := slices.Clone(entries)
			if order == "reversed" {
				slices.Reverse(shuffled)
			}
			root := openRoot(t)
			if _, err := archive.Unpack(t.Context(), bytes.NewReader(m.make(t, shuffled...)), root, archive.DefaultLimits()); err != nil {
				t.Fatal(err)
			}
			digests[m.format+" "+order] = fmt.Sprintf("%x", sha256.Sum256(pack(t, root.FS())))
		}
	}
	for source, digest := range digests {
		if !strings.HasPrefix(digest, goldenDigest) {
			t.Errorf("%s: got digest %s, want %s…", source, digest, goldenDigest)
		}
	}
}

func TestPackRoundTrip(t *testing.T) {
	fsys := fstest.MapFS{
		"handler.py": {Data: []byte("x"), Mode: 0o640},
		"bin/run":    {Data: []byte("#!/bin/sh"), Mode: 0o710},
		"a/b/c":      {Data: []byte("deep")},
		"a.txt":      {Data: []byte("t")},
		"empty":      {Mode: fs.ModeDir | 0o755},
	}
	var b bytes.Buffer
	zw, err := archive.Zstd(&b)
	if err != nil {
		t.Fatal(err)
	}
	summary, err := archive.Pack(t.Context(), zw, fsys, archive.DefaultLimits())
	if err != nil {
		t.Fatal(err)
	}
	if err := zw.Close(); err != nil {
		t.Fatal(err)
	}
	want := archive.Summary{Format: archive.FormatFolder, Files: 4, Folders: 4, Unpacked: 15}
	if diff := cmp.Diff(want, summary); diff != "" {
		t.Errorf("summary (-want +got):\n%s", diff)
	}
	if archive.Detect(b.Bytes()) != archive.FormatTarZstd {
		t.Error("not recognised as tar.zst")
	}
	root := openRoot(t)
	if _, err := archive.Unpack(t.Context(), &b, root, archive.DefaultLimits()); err != nil {
		t.Fatal(err)
	}
	first := pack(t, fsys)
	if !bytes.Equal(first, pack(t, root.FS())) {
		t.Error("packing what was unpacked gives other bytes")
	}
	list := names(t, bytes.NewReader(first))
	wantList := []string{"a/ 755 ", "a/b/ 755 ", "a/b/c 644 deep", "a.txt 644 t", "bin/ 755 ", "bin/run 755 #!/bin/sh", "empty/ 755 ", "handler.py 644 x"}
	if diff := cmp.Diff(wantList, list); diff != "" {
		t.Errorf("entries (-want +got):\n%s", diff)
	}
}

func TestPackRefuses(t *testing.T) {
	limits := small()
	big := map[string]*fstest.MapFile{"a": {Data: make([]byte, 512<<10)}, "b": {Data: []byte("x")}}
	for name, c := range map[string]struct {
		fsys  fstest.MapFS
		class error
		code  string
	}{
		"empty":   {fstest.MapFS{"a": {Mode: fs.ModeDir}}, orchestrator.ErrInvalid, "archive-empty"},
		"symlink": {fstest.MapFS{"lib/link": {Mode: fs.ModeSymlink}}, orchestrator.ErrInvalid, "archive-symlink"},
		"fifo":    {fstest.MapFS{"pipe": {Mode: fs.ModeNamedPipe}}, orchestrator.ErrInvalid, "archive-fifo"},
		"case":    {fstest.MapFS{"A": {}, "a": {}}, orchestrator.ErrInvalid, "archive-case-clash"},
		"large":   {big, orchestrator.ErrTooLarge, "archive-unpacked-too-large"},
		"deep":    {fstest.MapFS{"1/2/3/4/5/6/7": {}}, orchestrator.ErrTooLarge, "archive-path-too-deep"},
		"name":    {fstest.MapFS{"a\nb": {}}, orchestrator.ErrInvalid, "archive-path-control"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := archive.Pack(t.Context(), io.Discard, c.fsys, limits)
			wantError(t, err, c.class, c.code)
		})
	}
	t.Run("the error names the file", func(t *testing.T) {
		_, err := archive.Pack(t.Context(), io.Discard, fstest.MapFS{"lib/link": {Mode: fs.ModeSymlink}}, limits)
		if err == nil || !strings.Contains(err.Error(), `"lib/link"`) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("a link in a real folder", func(t *testing.T) {
		dir := t.TempDir()
		if err := os.Symlink("/etc/hostname", filepath.Join(dir, "link")); err != nil {
			t.Fatal(err)
		}
		_, err := archive.Pack(t.Context(), io.Discard, os.DirFS(dir), limits)
		wantError(t, err, orchestrator.ErrInvalid, "archive-symlink")
	})
	t.Run("cancelled", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := archive.Pack(ctx, io.Discard, fstest.MapFS{"a": {}}, limits)
		wantError(t, err, orchestrator.ErrDeadline, "archive-deadline")
	})
	t.Run("writer fails", func(t *testing.T) {
		failure := errors.New("disk on fire")
		_, err := archive.Pack(t.Context(), failingWriter{failure}, fstest.MapFS{"a": {}}, limits)
		if !errors.Is(err, orchestrator.ErrUnavailable) || !errors.Is(err, failure) {
			t.Errorf("got %v", err)
		}
	})
}

type failingWriter struct{ err error }

func (w failingWriter) Write([]byte) (int, error) { return 0, w.err }

func TestCopy(t *testing.T) {
	canonical := pack(t, fstest.MapFS{"bin/run": {Data: []byte("x"), Mode: 0o755}, "a": {Data: []byte("y")}})
	for prefix, want := range map[string][]string{
		"":           {"a 644 y", "bin/ 755 ", "bin/run 755 x"},
		"code":       {"code/ 755 ", "code/a 644 y", "code/bin/ 755 ", "code/bin/run 755 x"},
		"deep/place": {"deep/place/ 755 ", "deep/place/a 644 y", "deep/place/bin/ 755 ", "deep/place/bin/run 755 x"},
	} {
		var b bytes.Buffer
		tw := tar.NewWriter(&b)
		if err := archive.Copy(tw, bytes.NewReader(canonical), prefix); err != nil {
			t.Fatal(err)
		}
		if err := tw.Close(); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, names(t, &b)); diff != "" {
			t.Errorf("prefix %q (-want +got):\n%s", prefix, diff)
		}
	}
	for name, damaged := range map[string][]byte{
		"truncated": canonical[:700],
		"a link":    makeTar(t, entry{name: "a", mode: fs.ModeSymlink, data: "/etc"}),
		"escapes":   makeTar(t, entry{name: "../a"}),
	} {
		err := archive.Copy(tar.NewWriter(io.Discard), bytes.NewReader(damaged), "code")
		if !errors.Is(err, orchestrator.ErrUnavailable) {
			t.Errorf("%s: got %v, want unavailable", name, err)
		}
	}
	if err := archive.Copy(tar.NewWriter(io.Discard), bytes.NewReader(canonical), "../up"); !errors.Is(err, orchestrator.ErrInvalid) {
		t.Errorf("bad prefix: got %v, want invalid", err)
	}
}

func TestSingle(t *testing.T) {
	root := openRoot(t)
	summary, err := archive.Single(t.Context(), strings.NewReader("def handle(request): ..."), root, "handler.py", 0o755, small())
	if err != nil {
		t.Fatal(err)
	}
	if summary.Files != 1 || summary.Unpacked != 24 {
		t.Errorf("got %+v", summary)
	}
	if diff := cmp.Diff([]string{"handler.py 755 def handle(request): ..."}, names(t, bytes.NewReader(pack(t, root.FS())))); diff != "" {
		t.Errorf("tree (-want +got):\n%s", diff)
	}
	for _, c := range []struct {
		name, data string
		class      error
		code       string
	}{
		{"empty.py", "", orchestrator.ErrInvalid, "archive-empty"},
		{"../x", "x", orchestrator.ErrInvalid, "archive-path-escapes"},
		{"large", strings.Repeat("x", 256<<10+1), orchestrator.ErrTooLarge, "archive-too-large"},
	} {
		_, err := archive.Single(t.Context(), strings.NewReader(c.data), openRoot(t), c.name, 0o644, small())
		wantError(t, err, c.class, c.code)
	}
}

// What the machine's own tools write is read, and what Pack writes they read.
func TestRealTools(t *testing.T) {
	dir := t.TempDir()
	for name, data := range map[string]string{"handler.py": "x", "lib/a.py": "y"} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(data), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want := pack(t, os.DirFS(dir))
	for name, command := range map[string]string{
		"tar":     "tar -cf - .",
		"tar.gz":  "tar -czf - *",
		"pax":     "tar --format=pax -cf - .",
		"v7":      "tar --format=v7 -cf - .",
		"tar.zst": "tar -cf - . | zstd -19",
		"zip":     "zip -qr - .",
		"git":     "git init -q && git add . && git -c user.name=t -c user.email=t@example.com commit -qm x && git archive --format=tar HEAD",
	} {
		t.Run(name, func(t *testing.T) {
			copied := t.TempDir()
			if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command("sh", "-c", command)
			cmd.Dir = copied
			var stderr strings.Builder
			cmd.Stderr = &stderr
			out, err := cmd.Output()
			if err != nil && strings.Contains(stderr.String(), "not found") {
				t.Skipf("a tool is missing: %s", stderr.String())
			}
			if err != nil {
				t.Fatalf("%v: %s", err, stderr.String())
			}
			root := openRoot(t)
			if _, err := archive.Unpack(t.Context(), bytes.NewReader(out), root, archive.DefaultLimits()); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(want, pack(t, root.FS())) {
				t.Error("the canonical tar differs")
			}
		})
	}
	t.Run("reading", func(t *testing.T) {
		cmd := exec.Command("tar", "-tf", "-")
		cmd.Stdin = bytes.NewReader(want)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if got := string(out); got != "handler.py\nlib/\nlib/a.py\n" {
			t.Errorf("got %q", got)
		}
	})
}
