package intake_test

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/archive"
	"github.com/kilnfaas/kiln/orchestrator/intake"
	"github.com/kilnfaas/kiln/orchestrator/manifest"
)

// languages are templates like the real ones.
var languages = catalogue{
	{Name: "cdylib", Handlers: []string{"*.so", "*.c"}},
	{Name: "dockerfile", Handlers: []string{"Dockerfile"}, CodeDir: "."},
	{Name: "exec", Handlers: []string{"handler"}},
	{Name: "go", Handlers: []string{"handler.go", "*.go"}, Defaults: orchestrator.TemplateDefaults{Concurrency: 64, Memory: 64 * orchestrator.MiB}},
	{Name: "node", Handlers: []string{"handler.js", "handler.mjs", "package.json"}},
	{Name: "python", Handlers: []string{"handler.py"}, Bases: []orchestrator.Base{{Arg: "BASE"}}},
}

type catalogue []orchestrator.Template

func (c catalogue) Template(name string) (orchestrator.Template, error) {
	for _, t := range c {
		if t.Name == name {
			return t, nil
		}
	}
	return orchestrator.Template{}, orchestrator.Errorf(orchestrator.ErrNotFound, "template-unknown", "no %q", name)
}

func (c catalogue) Templates() []orchestrator.Template { return c }

// memory is a store in memory that may fail.
type memory struct {
	mu      sync.Mutex
	stored  map[string][]byte // guarded by mu
	fails   error
	partial bool // stops reading early
}

func (m *memory) PutArchive(_ context.Context, r io.Reader) (string, int64, error) {
	if m.fails != nil {
		_, _ = io.CopyN(io.Discard, r, 100)
		return "", 0, m.fails
	}
	if m.partial {
		return "sha256:0", 0, nil
	}
	data, err := io.ReadAll(r)
	if err != nil {
		return "", 0, fmt.Errorf("read the archive: %w", err)
	}
	digest := fmt.Sprintf("sha256:%x", sha256.Sum256(data))
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.stored == nil {
		m.stored = map[string][]byte{}
	}
	m.stored[digest] = data
	return digest, int64(len(data)), nil
}

// bench is an Intake with its store and its temporary folder, which must be
// empty in the end.
type bench struct {
	*intake.Intake
	store *memory
	temp  string
}

func newBench(t testing.TB) *bench {
	t.Helper()
	b := &bench{store: &memory{}, temp: t.TempDir()}
	b.Intake = intake.New(b.store, languages, archive.DefaultLimits(), b.temp)
	t.Cleanup(func() {
		entries, err := os.ReadDir(b.temp)
		if err != nil || len(entries) != 0 {
			t.Errorf("left in the temporary folder: %v, %v", entries, err)
		}
	})
	return b
}

// tree returns what is stored under a digest: path -> "mode contents".
func (b *bench) tree(t testing.TB, digest string) map[string]string {
	t.Helper()
	data, ok := b.store.stored[digest]
	if !ok {
		t.Fatalf("nothing is stored under %q", digest)
	}
	found := map[string]string{}
	tr := tar.NewReader(bytes.NewReader(data))
	for {
		h, err := tr.Next()
		if err == io.EOF {
			return found
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			found[h.Name] = fmt.Sprintf("%o %s", h.Mode, content)
		}
	}
}

type files map[string]string

// zipped makes a zip, whose order of entries is that of a map: any.
func (f files) zipped(t testing.TB) []byte {
	t.Helper()
	var b bytes.Buffer
	zw := zip.NewWriter(&b)
	for name, data := range f {
		w, err := zw.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, data); err != nil {
			t.Fatal(err)
		}
	}
	if err := zw.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func overrides(texts ...string) []manifest.Document {
	var docs []manifest.Document
	for _, text := range texts {
		docs = append(docs, manifest.Document{Name: "the request", Data: []byte(text)})
	}
	return docs
}

func wantError(t testing.TB, err error, class error, code string) *orchestrator.Error {
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
	return got
}

func TestReceive(t *testing.T) {
	const handler = "def handle(request): ..."
	cases := []struct {
		name      string
		files     files
		filename  string
		overrides []manifest.Document
		want      func(*orchestrator.Spec) // over the defaults
	}{
		{"function.yaml", files{"function.yaml": "name: a\ntemplate: python\nenv: {X: 1}\n", "handler.py": handler}, "other.zip", nil,
			func(s *orchestrator.Spec) { s.Name, s.Template, s.Env = "a", "python", map[string]string{"X": "1"} }},
		{"overrides win, the last first", files{"function.yaml": "name: a\ntemplate: python\nconcurrency: 3\ntimeout: 3s", "handler.py": handler}, "",
			overrides(`{"name":"b","concurrency":4}`, "concurrency: 5"),
			func(s *orchestrator.Spec) { s.Name, s.Template, s.Concurrency, s.Timeout = "b", "python", 5, 3e9 }},
		{"named by the file", files{"handler.py": handler}, "/home/me/hello.tar.gz", overrides("template: python"),
			func(s *orchestrator.Spec) { s.Name, s.Template = "hello", "python" }},
		{"python guessed", files{"handler.py": handler, "lib/x.go": "package x"}, "a.zip", nil,
			func(s *orchestrator.Spec) { s.Name, s.Template = "a", "python" }},
		{"node guessed", files{"handler.mjs": "", "package.json": "{}"}, "a.zip", nil,
			func(s *orchestrator.Spec) { s.Name, s.Template = "a", "node" }},
		{"node guessed by package.json", files{"package.json": "{}", "src/index.js": ""}, "a.zip", nil,
			func(s *orchestrator.Spec) { s.Name, s.Template = "a", "node" }},
		{"go guessed, with its defaults", files{"hello.go": "// Doc.\npackage function\n", "hello_test.go": "package function_test", "go.mod": "module function"}, "a.tgz", nil,
			func(s *orchestrator.Spec) {
				s.Name, s.Template, s.Concurrency, s.Resources.Memory = "a", "go", 64, 64*orchestrator.MiB
			}},
		{"a Dockerfile beside a Go program", files{"Dockerfile": "FROM scratch", "main.go": "package main"}, "a.zip", nil,
			func(s *orchestrator.Spec) { s.Name, s.Template = "a", "dockerfile" }},
		{"exec guessed", files{"handler": "#!/bin/sh\n"}, "a.zip", nil,
			func(s *orchestrator.Spec) { s.Name, s.Template = "a", "exec" }},
		{"the template's default is overridden", files{"hello.go": "package function"}, "a.tgz", overrides("concurrency: 1"),
			func(s *orchestrator.Spec) {
				s.Name, s.Template, s.Concurrency, s.Resources.Memory = "a", "go", 1, 64*orchestrator.MiB
			}},
		{"a handler elsewhere", files{"src/app.py": handler}, "a.zip", overrides("template: python", "handler: src/app.py:main"),
			func(s *orchestrator.Spec) { s.Name, s.Template, s.Handler = "a", "python", "src/app.py:main" }},
		{"only another name", files{"handler.py": handler}, "a.zip", overrides("template: python\nhandler: ':main'"),
			func(s *orchestrator.Spec) { s.Name, s.Template, s.Handler = "a", "python", ":main" }},
		{"a folder as handler", files{"src/x.go": "package function"}, "a.zip", overrides("template: go\nhandler: src"),
			func(s *orchestrator.Spec) {
				s.Name, s.Template, s.Handler, s.Concurrency, s.Resources.Memory = "a", "go", "src", 64, 64*orchestrator.MiB
			}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t)
			spec, digest, err := b.Receive(t.Context(), intake.Upload{Body: bytes.NewReader(c.files.zipped(t)), Filename: c.filename, Overrides: c.overrides})
			if err != nil {
				t.Fatal(err)
			}
			want := orchestrator.DefaultSpec()
			c.want(&want)
			if diff := cmp.Diff(want, spec); diff != "" {
				t.Errorf("spec (-want +got):\n%s", diff)
			}
			wantTree := map[string]string{}
			for name, data := range c.files {
				if name != manifest.FileName { // it is settings, not code
					wantTree[name] = "644 " + data
				}
			}
			if diff := cmp.Diff(wantTree, b.tree(t, digest)); diff != "" {
				t.Errorf("stored (-want +got):\n%s", diff)
			}
		})
	}
}

func TestReceiveSettingsDoNotChangeTheDigest(t *testing.T) {
	b := newBench(t)
	var digests []string
	for _, settings := range []string{"name: a\ntemplate: python\n", "name: a\ntemplate: python\nenv: {X: y}\n"} {
		data := files{"function.yaml": settings, "handler.py": "x", "b.py": "y"}.zipped(t)
		_, digest, err := b.Receive(t.Context(), intake.Upload{Body: bytes.NewReader(data)})
		if err != nil {
			t.Fatal(err)
		}
		digests = append(digests, digest)
	}
	if digests[0] != digests[1] {
		t.Errorf("got %v, want equal ones", digests)
	}
}

func TestReceiveSingleFile(t *testing.T) {
	for _, c := range []struct {
		name, filename, data, overrides string
		template, function, stored      string
	}{
		{"by its name", "handler.py", "x", "name: a", "python", "a", "handler.py"},
		{"by its extension", "hello.py", "x", "", "python", "hello", "handler.py"},
		{"with a path", `C:\work\hello.py`, "x", "", "python", "hello", "handler.py"},
		{"another extension of a template", "hello.mjs", "x", "", "node", "hello", "handler.mjs"},
		{"a pattern keeps the name", "hello.go", "package function", "", "go", "hello", "hello.go"},
		{"template given", "run.sh", "#!/bin/sh\necho", "template: exec", "exec", "run", "handler"},
		{"no name at all", "", "x", "template: python\nname: a", "python", "a", "handler.py"},
		{"handler given", "hello.py", "x", "template: python\nhandler: src/main.py", "python", "hello", "src/main.py"},
		{"a Dockerfile", "Dockerfile", "FROM scratch", "name: web", "dockerfile", "web", "Dockerfile"},
		{"one byte", "a.py", "\n", "", "python", "a", "handler.py"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t)
			body := iotest.HalfReader(strings.NewReader(c.data))
			spec, digest, err := b.Receive(t.Context(), intake.Upload{Body: body, Filename: c.filename, Overrides: overrides(c.overrides)})
			if err != nil {
				t.Fatal(err)
			}
			if spec.Name != c.function || spec.Template != c.template {
				t.Errorf("got %s of %s, want %s of %s", spec.Name, spec.Template, c.function, c.template)
			}
			mode := "644 "
			if strings.HasPrefix(c.data, "#!") {
				mode = "755 "
			}
			if diff := cmp.Diff(map[string]string{c.stored: mode + c.data}, b.tree(t, digest)); diff != "" {
				t.Errorf("stored (-want +got):\n%s", diff)
			}
		})
	}
}

func TestReceiveErrors(t *testing.T) {
	py := files{"handler.py": "x"}
	cases := []struct {
		name      string
		body      func(testing.TB) []byte
		filename  string
		overrides string
		class     error
		code      string
		text      string // in the detail or the hint
	}{
		{"nothing sent", text(""), "a.zip", "", orchestrator.ErrInvalid, "archive-empty", ""},
		{"bad archive", files{"../x": ""}.zipped2, "a.zip", "", orchestrator.ErrInvalid, "archive-path-escapes", "../x"},
		{"bad function.yaml", files{"function.yaml": "name: a\nnmae: b", "handler.py": ""}.zipped2, "", "", orchestrator.ErrInvalid, "manifest-unknown-key", "function.yaml:2:1"},
		{"bad override", py.zipped2, "a.zip", "timeout: 0", orchestrator.ErrInvalid, "timeout-invalid", "the request:1:10"},
		{"large function.yaml", files{"function.yaml": strings.Repeat("#", 70<<10), "handler.py": ""}.zipped2, "a.zip", "", orchestrator.ErrTooLarge, "manifest-too-large", ""},
		{"function.yml", files{"function.yml": "name: a", "handler.py": ""}.zipped2, "a.zip", "", orchestrator.ErrInvalid, "manifest-misnamed", "function.yml"},
		{"function.yaml is a folder", files{"function.yaml/x": "name: a", "handler.py": ""}.zipped2, "a.zip", "", orchestrator.ErrInvalid, "manifest-misnamed", "folder"},
		{"min over max", py.zipped2, "a.zip", "scale: {min: 11}", orchestrator.ErrInvalid, "scale-invalid", "scale.max"},
		{"the template's argument", py.zipped2, "a.zip", "build: {args: {BASE: x}}", orchestrator.ErrInvalid, "build-arg-reserved", "BASE"},
		{"unknown template", py.zipped2, "a.zip", "template: cobol", orchestrator.ErrInvalid, "template-unknown", "exec, go, node, python"},
		{"no template fits", files{"readme": "", "x/handler.py": ""}.zipped2, "a.zip", "", orchestrator.ErrInvalid, "template-missing", "readme, x/"},
		{"two templates fit", files{"handler.py": "", "package.json": ""}.zipped2, "a.zip", "", orchestrator.ErrInvalid, "template-ambiguous", "node, python"},
		{"no handler", files{"main.py": "", "lib/x": ""}.zipped2, "a.zip", "template: python", orchestrator.ErrInvalid, "handler-missing", "needs handler.py, and the archive holds lib/, main.py"},
		{"the handler named is not there", py.zipped2, "a.zip", "template: python\nhandler: app.py", orchestrator.ErrInvalid, "handler-missing", "needs app.py, and"},
		{"the handler is a folder", files{"handler.py/x": ""}.zipped2, "a.zip", "template: python", orchestrator.ErrInvalid, "handler-missing", "handler.py/"},
		{"one folder around it", files{"hello-main/handler.py": "", "hello-main/x": ""}.zipped2, "a.zip", "template: python", orchestrator.ErrInvalid, "handler-missing", "handler.py is in the folder hello-main: pack what is inside"},
		{"one folder without it", files{"hello-main/x": ""}.zipped2, "a.zip", "template: python", orchestrator.ErrInvalid, "handler-missing", "all of it is in the folder hello-main"},
		{"another Go package", files{"x.go": "package main"}.zipped2, "a.zip", "template: go", orchestrator.ErrInvalid, "handler-invalid", "package main"},
		{"not Go", files{"x.go": "fn main()"}.zipped2, "a.zip", "template: go", orchestrator.ErrInvalid, "handler-invalid", "not Go"},
		{"Go tests only", files{"x_test.go": "package function"}.zipped2, "a.zip", "template: go", orchestrator.ErrInvalid, "handler-missing", "test"},
		{"no name", py.zipped2, "", "", orchestrator.ErrInvalid, "name-missing", "--name"},
		{"no name in the file's", py.zipped2, "Hello World.zip", "", orchestrator.ErrInvalid, "name-missing", "--name"},
		{"bad name", py.zipped2, "a.zip", "name: A_B", orchestrator.ErrInvalid, "name-invalid", ""},
		{"a single file of no template", text("hello"), "hello.txt", "", orchestrator.ErrInvalid, "template-missing", "hello.txt"},
		{"a single file that is no source", text("x"), "package.lock.json", "", orchestrator.ErrInvalid, "template-missing", ""},
		{"a single binary", text("\x00\x01\x02"), "hello.bin", "", orchestrator.ErrInvalid, "archive-format-unknown", "template"},
		{"a single file of an unknown template", text("hello"), "hello.py", "template: cobol", orchestrator.ErrInvalid, "template-unknown", ""},
		{"a single bad Go file", text("package main"), "hello.go", "", orchestrator.ErrInvalid, "handler-invalid", "package main"},
		{"a single file with a bad setting", text("x"), "hello.py", "timeout: 0", orchestrator.ErrInvalid, "timeout-invalid", ""},
		{"a library that is none", text("x"), "hello.so", "", orchestrator.ErrInvalid, "library-invalid", "-shared"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t)
			spec, digest, err := b.Receive(t.Context(), intake.Upload{Body: bytes.NewReader(c.body(t)), Filename: c.filename, Overrides: overrides(c.overrides)})
			got := wantError(t, err, c.class, c.code)
			if all := got.Detail + "\n" + got.Hint; !strings.Contains(all, c.text) {
				t.Errorf("got %q, want %q in it", all, c.text)
			}
			if digest != "" || spec.Name != "" || len(b.store.stored) != 0 {
				t.Errorf("got %v, %q, and %d archives stored with an error", spec, digest, len(b.store.stored))
			}
		})
	}
}

func text(s string) func(testing.TB) []byte { return func(testing.TB) []byte { return []byte(s) } }

// zipped2 makes zipped a value of the table's type.
func (f files) zipped2(t testing.TB) []byte { return f.zipped(t) }

func TestReceiveFailures(t *testing.T) {
	data := files{"handler.py": strings.Repeat("x", 200_000)}.zipped(t)
	upload := func(body io.Reader) intake.Upload { return intake.Upload{Body: body, Filename: "a.zip"} }
	t.Run("the store fails", func(t *testing.T) {
		b := newBench(t)
		b.store.fails = orchestrator.Errorf(orchestrator.ErrExhausted, "store-full", "the disk is full").WithHint("free some")
		_, _, err := b.Receive(t.Context(), upload(bytes.NewReader(data)))
		wantError(t, err, orchestrator.ErrExhausted, "store-full")
	})
	t.Run("the store does not read", func(t *testing.T) {
		b := newBench(t)
		b.store.partial = true
		_, _, err := b.Receive(t.Context(), upload(bytes.NewReader(data)))
		if !errors.Is(err, orchestrator.ErrUnavailable) {
			t.Errorf("got %v, want unavailable", err)
		}
	})
	t.Run("the body breaks", func(t *testing.T) {
		for _, n := range []int{0, 10, 100} {
			b := newBench(t)
			broken := iotest.ErrReader(errors.New("connection reset"))
			_, _, err := b.Receive(t.Context(), upload(io.MultiReader(bytes.NewReader(data[:n]), broken)))
			wantError(t, err, orchestrator.ErrInvalid, "archive-interrupted")
		}
	})
	t.Run("a single file's body breaks", func(t *testing.T) {
		b := newBench(t)
		broken := iotest.ErrReader(errors.New("connection reset"))
		_, _, err := b.Receive(t.Context(), intake.Upload{Body: io.MultiReader(strings.NewReader(strings.Repeat("x", 1000)), broken), Filename: "a.py"})
		wantError(t, err, orchestrator.ErrInvalid, "archive-interrupted")
	})
	t.Run("cancelled", func(t *testing.T) {
		b := newBench(t)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, _, err := b.Receive(ctx, upload(bytes.NewReader(data)))
		wantError(t, err, orchestrator.ErrDeadline, "archive-deadline")
	})
	t.Run("no temporary folder", func(t *testing.T) {
		in := intake.New(&memory{}, languages, archive.DefaultLimits(), filepath.Join(t.TempDir(), "absent"))
		_, _, err := in.Receive(t.Context(), upload(bytes.NewReader(data)))
		wantError(t, err, orchestrator.ErrUnavailable, "intake-temp")
	})
	t.Run("too large", func(t *testing.T) {
		limits := archive.DefaultLimits()
		limits.Compressed = 100
		in := intake.New(&memory{}, languages, limits, t.TempDir())
		_, _, err := in.Receive(t.Context(), upload(bytes.NewReader(data)))
		wantError(t, err, orchestrator.ErrTooLarge, "archive-too-large")
		_, _, err = in.Receive(t.Context(), intake.Upload{Body: strings.NewReader(strings.Repeat("x", 101)), Filename: "a.py"})
		wantError(t, err, orchestrator.ErrTooLarge, "archive-too-large")
	})
}

func TestReceiveAtOnce(t *testing.T) {
	b := newBench(t)
	var all sync.WaitGroup
	for i := range 8 {
		data := files{"handler.py": fmt.Sprint(i)}.zipped(t)
		all.Go(func() {
			spec, _, err := b.Receive(t.Context(), intake.Upload{Body: bytes.NewReader(data), Filename: fmt.Sprintf("f%d.zip", i)})
			if err != nil || spec.Name != fmt.Sprintf("f%d", i) {
				t.Errorf("got %v, %v", spec.Name, err)
			}
		})
	}
	all.Wait()
	if len(b.store.stored) != 8 {
		t.Errorf("%d archives are stored, want 8", len(b.store.stored))
	}
}

// FuzzReceive: whatever is sent under whatever name with whatever settings,
// never a panic, nothing left over, always an error of a client's class.
func FuzzReceive(f *testing.F) {
	f.Add(files{"handler.py": "x", "function.yaml": "name: a"}.zipped(f), "a.zip", []byte("{}"))
	f.Add([]byte("x"), "hello.py", []byte("timeout: 3s"))
	f.Add([]byte("\x7fELF\x02\x01\x01"), `..\..\hello.so`, []byte("name: hello"))
	f.Add(library{symbols: []string{"hello"}}.bytes(), "hello.so", []byte(nil))
	f.Fuzz(func(t *testing.T, body []byte, filename string, settings []byte) {
		b := newBench(t)
		upload := intake.Upload{Body: bytes.NewReader(body), Filename: filename, Overrides: []manifest.Document{{Name: "x", Data: settings}}}
		spec, digest, err := b.Receive(t.Context(), upload)
		if err != nil {
			var classed *orchestrator.Error
			if !errors.As(err, &classed) || !errors.Is(err, orchestrator.ErrInvalid) && !errors.Is(err, orchestrator.ErrTooLarge) {
				t.Fatalf("class of %v", err)
			}
			return
		}
		if orchestrator.ValidateName(spec.Name) != nil || spec.Template == "" || len(b.tree(t, digest)) == 0 {
			t.Errorf("accepted %+v", spec)
		}
	})
}
