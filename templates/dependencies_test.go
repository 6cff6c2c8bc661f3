package templates_test

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"context"
	"crypto/rand"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/kilnfaas/kiln/templates"
)

// requireRegistry skips, loudly, where a package registry cannot be reached.
func requireRegistry(t *testing.T, url string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodHead, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Skipf("SKIPPED: no package registry: %v", err)
	}
	response.Body.Close()
}

// answersBoth checks an image's answer from the image and through a cell.
func answersBoth(t *testing.T, c *templates.Catalogue, template, image, want string) {
	t.Helper()
	forEachOrigin(t, c, template, image, map[string]string{"KILN_FUNCTION": "kit"}, func(t *testing.T, i *instance) {
		if got := i.get("/"); got.status != 200 || got.body != want {
			t.Errorf("got %d %q, want %q", got.status, got.body, want)
		}
	})
}

func TestDependencies_python(t *testing.T) {
	requireDocker(t)
	c := embedded(t)
	handler := text("import greetings\n\ndef handle(request):\n    return greetings.hello()\n")
	for name, requirements := range map[string]string{
		"by path":       "./vendor/greetings-1.0-py3-none-any.whl\n",
		"by name":       "--no-index\ngreetings==1.0\n",
		"by find-links": "--no-index\n--find-links ./vendor\ngreetings\n",
	} {
		t.Run(name, func(t *testing.T) {
			image := functionImage(t, c, "python", map[string]templates.File{
				"handler.py": handler, "requirements.txt": text(requirements),
				"vendor/greetings-1.0-py3-none-any.whl": {Data: wheel(t, "greetings", "def hello(): return 'from a wheel'\n"), Mode: 0o644},
			}, buildOptions{})
			answersBoth(t, c, "python", image, "from a wheel")
		})
	}
}

// wheel makes a wheel, version 1.0, of one module.
func wheel(t *testing.T, name, source string) []byte {
	t.Helper()
	var out bytes.Buffer
	w := zip.NewWriter(&out)
	info := name + "-1.0.dist-info/"
	for _, file := range [][2]string{
		{name + "/__init__.py", source},
		{info + "METADATA", "Metadata-Version: 2.1\nName: " + name + "\nVersion: 1.0\n"},
		{info + "WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"},
		{info + "RECORD", ""},
	} {
		f, err := w.Create(file[0])
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(f, file[1]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestDependencies_node(t *testing.T) {
	requireDocker(t)
	requireRegistry(t, "https://registry.npmjs.org/ms")
	c := embedded(t)
	for name, files := range map[string]map[string]templates.File{
		"by name": {
			"package.json": text(`{"name": "kit", "type": "module", "dependencies": {"ms": "2.1.3"}}`),
		},
		"by lock": {
			"package.json": text(`{"name": "kit", "type": "module", "dependencies": {"ms": "^2.0.0"}}`),
			"package-lock.json": text(`{"name": "kit", "lockfileVersion": 3, "packages": {
				"": {"name": "kit", "dependencies": {"ms": "^2.0.0"}},
				"node_modules/ms": {"version": "2.1.3", "resolved": "https://registry.npmjs.org/ms/-/ms-2.1.3.tgz",
					"integrity": "sha512-6FlzubTLZG3J2a/NVCAleEhjzq5oxgHyaCU9yYXvcLsvoVaHJq/s5xXI6/XXP6tz7R9xAOtHnSO/tXtF3WRTlA=="}}}`),
		},
	} {
		t.Run(name, func(t *testing.T) {
			files["handler.js"] = text("import ms from 'ms';\nexport default () => String(ms('2 days'));\n")
			answersBoth(t, c, "node", functionImage(t, c, "node", files, buildOptions{}), "172800000")
		})
	}
}

// TestDependencies_nodeTests proves that tests have the development dependencies
// and the image has not.
func TestDependencies_nodeTests(t *testing.T) {
	requireDocker(t)
	requireRegistry(t, "https://registry.npmjs.org/ms")
	c := embedded(t)
	image := functionImage(t, c, "node", map[string]templates.File{
		"package.json": text(`{"name": "kit", "type": "module", "devDependencies": {"ms": "2.1.3"}}`),
		"handler.js":   text("export default () => 'x';\n"),
		"kit.test.js":  text("import ms from 'ms';\nimport test from 'node:test';\ntest('ms', () => { if (ms('1s') !== 1000) throw new Error('ms'); });\n"),
	}, buildOptions{args: map[string]string{templates.ArgTest: "1"}})
	if out, err := dockerErr("run", "--rm", "--label", ownerLabel, "--entrypoint", "ls", image, "/function/node_modules"); err != nil || strings.Contains(out, "ms") {
		t.Errorf("node_modules: got %q %v, want it empty", out, err)
	}
}

func TestDependencies_go(t *testing.T) {
	requireDocker(t)
	requireRegistry(t, "https://proxy.golang.org/github.com/google/uuid/@v/v1.6.0.info")
	c := embedded(t)
	source := `package function

import (
	_ "embed"
	"io"
	"net/http"
	"os"

	"github.com/google/uuid"
)

//go:embed page.txt
var page string

func Handle(w http.ResponseWriter, r *http.Request) {
	beside, err := os.ReadFile("page.txt")
	if err != nil {
		panic(err)
	}
	io.WriteString(w, uuid.Nil.String()+page+string(beside))
}
`
	sums := "github.com/google/uuid v1.6.0 h1:NIvaJDMOsjHA8n1jAhLSgzrAzy1Hgr+hNrb57e+94F0=\n" +
		"github.com/google/uuid v1.6.0/go.mod h1:TIyPZe4MgqvfeYDBFedMoGGpEw/LqOeaOT+nhxU+yHo=\n"
	for name, files := range map[string]map[string]templates.File{
		"sums":      {"go.mod": text("module example.org/kit\n\ngo 1.24\n\nrequire github.com/google/uuid v1.6.0\n"), "go.sum": text(sums)},
		"no sums":   {"go.mod": text("module example.org/kit\n\ngo 1.24\n\nrequire github.com/google/uuid v1.6.0\n")},
		"no module": {},
	} {
		t.Run(name, func(t *testing.T) {
			files["handler.go"], files["page.txt"] = text(source), text("-page-")
			image := functionImage(t, c, "go", files, buildOptions{})
			answersBoth(t, c, "go", image, "00000000-0000-0000-0000-000000000000-page--page-")
		})
	}
	t.Run("a folder below", func(t *testing.T) {
		image := functionImage(t, c, "go", map[string]templates.File{
			"go.mod":        text("module example.org/kit\n\ngo 1.24\n"),
			"api/handle.go": text("package function\n\nimport \"net/http\"\n\nfunc Handle(w http.ResponseWriter, r *http.Request) { w.Write([]byte(\"below\")) }\n"),
		}, buildOptions{args: map[string]string{templates.ArgHandler: "api"}})
		answersBoth(t, c, "go", image, "below")
	})
}

// TestDependencies_edit: after an edit of the handler alone, dependencies come
// from the builder's cache, and what installs them says nothing.
func TestDependencies_edit(t *testing.T) {
	requireDocker(t)
	requireRegistry(t, "https://registry.npmjs.org/ms")
	c := embedded(t)
	vendored := templates.File{Data: wheel(t, "greetings", "def hello(): return 'from a wheel'\n"), Mode: 0o644}
	for template, test := range map[string]struct {
		files             map[string]templates.File
		handler, manifest string
		edited, other     string
		installs          string // said by whoever does
	}{
		"python": {
			files: map[string]templates.File{
				"handler.py":                            text("def handle(request): pass # " + rand.Text()),
				"requirements.txt":                      text("--no-index\ngreetings==1.0 # " + rand.Text()),
				"vendor/greetings-1.0-py3-none-any.whl": vendored,
			},
			handler: "handler.py", edited: "def handle(request): return 'edited' # " + rand.Text(),
			manifest: "requirements.txt", other: "--no-index\ngreetings==1.0 # " + rand.Text(),
			installs: "Installing collected packages",
		},
		"node": {
			files: map[string]templates.File{
				"handler.js":   text("export default () => 'x'; // " + rand.Text()),
				"package.json": text(`{"name": "` + strings.ToLower(rand.Text()) + `", "type": "module", "dependencies": {"ms": "2.1.3"}}`),
			},
			handler: "handler.js", edited: "export default () => 'edited'; // " + rand.Text(),
			manifest: "package.json", other: `{"name": "` + strings.ToLower(rand.Text()) + `", "type": "module", "dependencies": {"ms": "2.1.3"}}`,
			installs: "added 1 package",
		},
	} {
		t.Run(template, func(t *testing.T) {
			tmpl, err := c.Template(template)
			if err != nil {
				t.Fatal(err)
			}
			installed := func() bool {
				const tag = "kiln-templates-test/edited"
				out, err := buildImage(t, composeContext(t, c, tmpl, test.files), buildOptions{builder: buildKit, tag: tag, args: resolveBases(t, c, tmpl)})
				if err != nil {
					t.Fatalf("%v\n%s", err, tail(out, 2000))
				}
				dockerErr("image", "rm", tag)
				return strings.Contains(out, test.installs)
			}
			if !installed() {
				t.Fatalf("the first build does not say %q", test.installs)
			}
			test.files[test.handler] = text(test.edited)
			if installed() {
				t.Error("an edit of the handler had the dependencies installed again")
			}
			test.files[test.manifest] = text(test.other)
			if !installed() {
				t.Error("an edit of the dependencies did not have them installed again")
			}
		})
	}
}

func TestDependencies_packages(t *testing.T) {
	requireDocker(t)
	c := embedded(t)
	for template, files := range map[string]map[string]templates.File{
		"exec": {"handler": script("#!/bin/sh\necho '{\"a\": 1}' | jq -j .a\n")},
		"python": {"handler.py": text("import subprocess\n\ndef handle(request):\n" +
			"    return subprocess.run(['jq', '-j', '.a'], input=b'{\"a\": 1}', capture_output=True).stdout\n")},
	} {
		t.Run(template, func(t *testing.T) {
			image := functionImage(t, c, template, files, buildOptions{args: map[string]string{templates.ArgPackages: "jq"}})
			i := runImage(t, image, nil, nil)
			i.waitReady()
			if got := i.get("/"); got.body != "1" {
				t.Errorf("got %d %q, want 1", got.status, got.body)
			}
		})
	}
}

// TestBuild_failures proves that a build says what is wrong.
func TestBuild_failures(t *testing.T) {
	requireDocker(t)
	c := embedded(t)
	for name, test := range map[string]struct {
		template string
		files    map[string]templates.File
		want     string
	}{
		"go does not compile":     {"go", map[string]templates.File{"handler.go": text("package function\n\nfunc Handle(x int) {}\n")}, "func(x int)"},
		"go package main":         {"go", map[string]templates.File{"main.go": text("package main\n\nfunc main() {}\n")}, "write package function"},
		"cdylib does not compile": {"cdylib", map[string]templates.File{"kit.c": text("int32_t kit(void) { return 0; }\n")}, "int32_t"},
		"a test fails": {"python", map[string]templates.File{
			"handler.py": text("def handle(request): pass\n"),
			"test_it.py": text("import unittest\nclass T(unittest.TestCase):\n  def test(self): self.fail('as it must')\n"),
		}, "as it must"},
		"a requirement is not there": {"python", map[string]templates.File{
			"handler.py": text("def handle(request): pass\n"), "requirements.txt": text("--no-index\nno-such-thing\n"),
		}, "no-such-thing"},
	} {
		t.Run(name, func(t *testing.T) {
			tmpl, err := c.Template(test.template)
			if err != nil {
				t.Fatal(err)
			}
			args := resolveBases(t, c, tmpl)
			args[templates.ArgTest] = "1"
			out, err := buildImage(t, composeContext(t, c, tmpl, test.files), buildOptions{builder: buildKit, tag: "kiln-templates-test/failed", args: args})
			if err == nil {
				dockerErr("image", "rm", "kiln-templates-test/failed")
				t.Fatal("the build succeeded")
			}
			if !strings.Contains(out, test.want) {
				t.Errorf("the output does not say %q:\n%s", test.want, tail(out, 2000))
			}
		})
	}
}

// TestImport_failures proves that a handler that cannot be imported ends the
// instance with the reason in its log.
func TestImport_failures(t *testing.T) {
	requireDocker(t)
	c := embedded(t)
	for name, test := range map[string]struct {
		template string
		files    map[string]templates.File
		want     string
	}{
		"python raises":     {"python", map[string]templates.File{"handler.py": text("1/0\n")}, "ZeroDivisionError"},
		"python has none":   {"python", map[string]templates.File{"handler.py": text("x = 1\n")}, "define handle(request)"},
		"node throws":       {"node", map[string]templates.File{"handler.js": text("throw new RangeError('oh')\n")}, "RangeError: oh"},
		"node exports none": {"node", map[string]templates.File{"handler.js": text("export const x = 1;\n")}, "does not export"},
		"go panics in init": {"go", map[string]templates.File{"handler.go": text("package function\n\nimport \"net/http\"\n\nfunc init() { panic(\"early\") }\n\nfunc Handle(http.ResponseWriter, *http.Request) {}\n")}, "panic: early"},
	} {
		t.Run(name, func(t *testing.T) {
			i := runImage(t, functionImage(t, c, test.template, test.files, buildOptions{}), nil, nil)
			until(t, "the instance ends", func() bool { return !i.running() })
			if !strings.Contains(i.logs(), test.want) {
				t.Errorf("the log is %q, want %q in it", i.logs(), test.want)
			}
			if code := docker(t, "inspect", "--format", "{{.State.ExitCode}}", i.id); code == "0" {
				t.Error("the instance ended with 0")
			}
		})
	}
}

// fileOf returns one file of a tar.
func fileOf(t *testing.T, data []byte, name string) templates.File {
	t.Helper()
	r := tar.NewReader(bytes.NewReader(data))
	for {
		header, err := r.Next()
		if err != nil {
			t.Fatalf("find %s: %v", name, err)
		}
		if header.Name != name {
			continue
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		return templates.File{Data: content, Mode: header.FileInfo().Mode().Perm()}
	}
}
