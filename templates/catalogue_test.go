package templates_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/templates"
)

// catalogueFS is a small, complete catalogue.
func catalogueFS() fstest.MapFS {
	files := fstest.MapFS{}
	for name, data := range map[string]string{
		"ruby/template.yaml": "description: Ruby\nhandlers: [handler.rb]\nhttp_ready: true\ncells: true\ninclude: [cell]\n" +
			"bases:\n  - {image: 'ruby:4', arg: BASE, fallback: 'kiln-base/ruby:3'}\ndefaults: {concurrency: 5, memory: 96MiB}\n",
		"ruby/Dockerfile":                   "FROM x\n",
		"ruby/runtime/main.rb":              "puts 1\n",
		"ruby/runtime/__pycache__/x.pyc":    "left behind",
		"ruby/bases/ruby-3/Dockerfile":      "FROM debian\n",
		"ruby/conformance/plain/handler.rb": "x",
		"ruby/scaffold/handler.rb":          "x",
		"ruby/scaffold/bin/run":             "#!/bin/sh\n",
		"ruby/scaffold/function.yaml.tmpl":  "name: {{.Name}}\nsymbol: {{.Symbol}}\n",
		"shared/cell/start.sh":              "#!/bin/sh\n",
		"shared/other/file":                 "x",
		"README.md":                         "no template",
	} {
		files[name] = &fstest.MapFile{Data: []byte(data)}
	}
	return files
}

func load(t *testing.T, files fstest.MapFS) *templates.Catalogue {
	t.Helper()
	c, err := templates.Load(files)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestLoad(t *testing.T) {
	got := load(t, catalogueFS()).Templates()
	want := []orchestrator.Template{{
		Name: "ruby", Description: "Ruby", Handlers: []string{"handler.rb"}, CodeDir: "function",
		HTTPReady: true, Cells: true,
		Bases:    []orchestrator.Base{{Image: "ruby:4", Arg: "BASE", Fallback: "kiln-base/ruby:3"}},
		Defaults: orchestrator.TemplateDefaults{Concurrency: 5, Memory: 96 * orchestrator.MiB},
	}}
	if len(got) == 1 && strings.HasPrefix(got[0].Digest, "sha256:") && len(got[0].Digest) == 71 {
		want[0].Digest = got[0].Digest
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestLoad_refuses(t *testing.T) {
	const valid = "description: Ruby\nhandlers: [handler.rb]\n"
	for name, test := range map[string]struct {
		manifest string
		want     string
	}{
		"an unknown key":        {valid + "cels: true\n", "[3:1]"},
		"a key twice":           {valid + "description: Again\n", "[3:1]"},
		"a wrong type":          {valid + "cells: [1]\n", "[3:"},
		"no description":        {"handlers: [handler.rb]\n", "description"},
		"no handlers":           {"description: Ruby\n", "handlers"},
		"a handler that climbs": {"description: Ruby\nhandlers: [../x]\n", "../x"},
		"a malformed pattern":   {"description: Ruby\nhandlers: ['[x']\n", "[x"},
		"an unknown include":    {valid + "include: [absent]\n", "absent"},
		"an include of bases":   {valid + "include: [bases]\n", "bases"},
		"a base without arg":    {valid + "bases: [{image: x}]\n", "arg"},
		"a foreign fallback":    {valid + "bases: [{image: x, arg: BASE, fallback: 'other:1'}]\n", "other:1"},
		"an absent fallback":    {valid + "bases: [{image: x, arg: BASE, fallback: 'kiln-base/absent:1'}]\n", "absent-1"},
		"code_dir that climbs":  {valid + "code_dir: ../x\n", "code_dir"},
		"a wrong size":          {valid + "defaults: {memory: much}\n", "much"},
	} {
		t.Run(name, func(t *testing.T) {
			files := catalogueFS()
			files["ruby/template.yaml"] = &fstest.MapFile{Data: []byte(test.manifest)}
			_, err := templates.Load(files)
			if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), "ruby") {
				t.Errorf("got %v, want an error about ruby and %q", err, test.want)
			}
		})
	}
	t.Run("no Dockerfile", func(t *testing.T) {
		files := catalogueFS()
		delete(files, "ruby/Dockerfile")
		if _, err := templates.Load(files); err == nil || !strings.Contains(err.Error(), "Dockerfile") {
			t.Errorf("got %v, want an error about the Dockerfile", err)
		}
	})
}

// TestDigest proves that it follows what decides an image, and nothing else.
func TestDigest(t *testing.T) {
	before := load(t, catalogueFS()).Templates()[0].Digest
	if again := load(t, catalogueFS()).Templates()[0].Digest; again != before {
		t.Fatalf("the same files gave %s and %s", before, again)
	}
	for name, changes := range map[string]bool{
		"ruby/Dockerfile":                   true,
		"ruby/runtime/main.rb":              true,
		"ruby/bases/ruby-3/Dockerfile":      true,
		"shared/cell/start.sh":              true,
		"shared/other/file":                 false,
		"ruby/scaffold/handler.rb":          false,
		"ruby/conformance/plain/handler.rb": false,
		"ruby/runtime/__pycache__/x.pyc":    false,
	} {
		files := catalogueFS()
		files[name] = &fstest.MapFile{Data: []byte("changed")}
		if after := load(t, files).Templates()[0].Digest; (after != before) != changes {
			t.Errorf("%s: changed the digest: %v, want %v", name, after != before, changes)
		}
	}
	for old, changed := range map[string]string{"ruby:4": "ruby:5", "arg: BASE": "arg: OTHER", "cells: true": "cells: true\ncode_dir: src"} {
		files := catalogueFS()
		manifest := string(files["ruby/template.yaml"].Data)
		files["ruby/template.yaml"] = &fstest.MapFile{Data: []byte(strings.Replace(manifest, old, changed, 1))}
		if after := load(t, files).Templates()[0].Digest; after == before {
			t.Errorf("%s for %s left the digest as it was", changed, old)
		}
	}
}

func TestContext(t *testing.T) {
	c := load(t, catalogueFS())
	write := func() []byte {
		var out bytes.Buffer
		w := tar.NewWriter(&out)
		if err := c.Context("ruby", w); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return out.Bytes()
	}
	first := write()
	if !bytes.Equal(first, write()) {
		t.Error("two contexts of one template differ")
	}
	got := map[string]int64{}
	for r := tar.NewReader(bytes.NewReader(first)); ; {
		header, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		got[header.Name] = header.Mode
	}
	want := map[string]int64{"Dockerfile": 0o644, "runtime/main.rb": 0o644, "shared/cell/start.sh": 0o755}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if err := c.Context("absent", tar.NewWriter(io.Discard)); !errors.Is(err, orchestrator.ErrNotFound) {
		t.Errorf("an unknown template: got %v, want ErrNotFound", err)
	}
}

func TestFallback(t *testing.T) {
	c := load(t, catalogueFS())
	files, err := c.Fallback("kiln-base/ruby:3")
	if err != nil || string(files["Dockerfile"].Data) != "FROM debian\n" || len(files) != 1 {
		t.Errorf("got %v %v, want the Dockerfile", files, err)
	}
	if _, err := c.Fallback("kiln-base/absent:1"); !errors.Is(err, orchestrator.ErrNotFound) {
		t.Errorf("an unknown tag: got %v, want ErrNotFound", err)
	}
}

func TestScaffold(t *testing.T) {
	c := load(t, catalogueFS())
	got, err := c.Scaffold("ruby", "resize-image")
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]templates.File{
		"handler.rb":    {Data: []byte("x"), Mode: 0o644},
		"bin/run":       {Data: []byte("#!/bin/sh\n"), Mode: 0o755},
		"function.yaml": {Data: []byte("name: resize-image\nsymbol: resize_image\n"), Mode: 0o644},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if _, err := c.Scaffold("absent", "x"); !errors.Is(err, orchestrator.ErrNotFound) {
		t.Errorf("an unknown template: got %v, want ErrNotFound", err)
	}
	if _, err := c.Scaffold("ruby", "Not A Name"); !errors.Is(err, orchestrator.ErrInvalid) {
		t.Errorf("a wrong name: got %v, want ErrInvalid", err)
	}
}

// TestEmbedded proves that the six languages are complete.
func TestEmbedded(t *testing.T) {
	c := embedded(t)
	manifests := map[string]string{"python": "requirements.txt", "node": "package.json", "go": "go.mod", "cdylib": "Makefile", "dockerfile": "Dockerfile", "exec": "handler"}
	var names []string
	for _, tmpl := range c.Templates() {
		names = append(names, tmpl.Name)
		files, err := c.Scaffold(tmpl.Name, "greet-me")
		if err != nil {
			t.Fatal(err)
		}
		paths := slices.Sorted(maps.Keys(files))
		for _, wanted := range []string{"function.yaml", "README.md", manifests[tmpl.Name]} {
			if !slices.Contains(paths, wanted) {
				t.Errorf("%s: the scaffold %v has no %s", tmpl.Name, paths, wanted)
			}
		}
		if !slices.ContainsFunc(paths, func(p string) bool { return strings.Contains(p, "test") }) {
			t.Errorf("%s: the scaffold %v has no test", tmpl.Name, paths)
		}
		if !strings.HasPrefix(string(files["function.yaml"].Data), "name: greet-me\ntemplate: "+tmpl.Name+"\n") {
			t.Errorf("%s: function.yaml begins %.60q", tmpl.Name, files["function.yaml"].Data)
		}
		for _, base := range tmpl.Bases {
			if base.Fallback == "" {
				continue
			}
			if _, err := c.Fallback(base.Fallback); err != nil {
				t.Error(err)
			}
		}
	}
	if want := slices.Sorted(maps.Keys(manifests)); !slices.Equal(names, want) {
		t.Errorf("got %v, want %v", names, want)
	}
}

func TestForClassic(t *testing.T) {
	for name, test := range map[string]struct{ in, want string }{
		"none":        {"FROM x\nRUN make\n", "FROM x\nRUN make\n"},
		"one":         {"RUN --mount=type=cache,target=/x make\n", "RUN make\n"},
		"lines":       {"RUN --mount=type=cache,id=a,target=/x \\\n    --mount=type=cache,id=b,target=/y \\\n    make \\\n && x\n", "RUN make \\\n && x\n"},
		"lower case":  {"run --mount=type=cache,target=/x make\n", "run make\n"},
		"later":       {"RUN echo --mount=type=cache,target=/x\n", "RUN echo --mount=type=cache,target=/x\n"},
		"secret":      {"RUN --mount=type=secret,id=x make\n", "RUN --mount=type=secret,id=x make\n"},
		"the comment": {"# RUN --mount=type=cache,target=/x make\n", "# RUN --mount=type=cache,target=/x make\n"},
	} {
		if got := string(templates.ForClassic([]byte(test.in))); got != test.want {
			t.Errorf("%s: got %q, want %q", name, got, test.want)
		}
	}
}

func TestTemplate_handlerFiles(t *testing.T) {
	tmpl := orchestrator.Template{Handlers: []string{"handler.py"}}
	for handler, want := range map[string][]string{
		"":           {"handler.py"},
		":app":       {"handler.py"},
		"main.py":    {"main.py", "main.py/*"},
		"./a/b.py:f": {"a/b.py", "a/b.py/*"},
		".":          {"*"},
	} {
		if diff := cmp.Diff(want, tmpl.HandlerFiles(handler)); diff != "" {
			t.Errorf("%q (-want +got):\n%s", handler, diff)
		}
	}
}
