package templates_test

import (
	"bytes"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/templates"
)

// kit is a function that answers the checks of the suite, in a folder
// TEMPLATE/conformance/VARIANT. A template with a kit is in the suite.
type kit struct {
	template orchestrator.Template
	variant  string
	files    map[string]templates.File
	settings struct {
		Handler string            `yaml:"handler"`
		Only    []string          `yaml:"only"` // checks; all when empty
		Skip    map[string]string `yaml:"skip"` // check: why it cannot hold
	}
}

func (k *kit) env() map[string]string {
	env := map[string]string{"KILN_FUNCTION": "kit", "KILN_REVISION": "r1-000000", "KILN_CONCURRENCY": "8", "PORT": "8080"}
	if k.settings.Handler != "" {
		env["KILN_HANDLER"] = k.settings.Handler
	}
	return env
}

func (k *kit) image(t *testing.T, c *templates.Catalogue, b builder) string {
	t.Helper()
	args := map[string]string{templates.ArgHandler: k.settings.Handler}
	return functionImage(t, c, k.template.Name, maps.Clone(k.files), buildOptions{builder: b, args: args})
}

func kits(t *testing.T, c *templates.Catalogue) []*kit {
	t.Helper()
	folders, err := filepath.Glob("*/conformance/*")
	if err != nil {
		t.Fatal(err)
	}
	var all []*kit
	for _, folder := range folders {
		k := &kit{variant: filepath.Base(folder), files: map[string]templates.File{}}
		if k.template, err = c.Template(filepath.Dir(filepath.Dir(folder))); err != nil {
			t.Fatal(err)
		}
		err := filepath.WalkDir(folder, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			name, err := filepath.Rel(folder, path)
			if name == "kit.yaml" {
				return yaml.UnmarshalWithOptions(data, &k.settings, yaml.Strict())
			}
			k.files[filepath.ToSlash(name)] = templates.File{Data: data, Mode: info.Mode().Perm()}
			return err
		})
		if err != nil {
			t.Fatalf("%s: %v", folder, err)
		}
		all = append(all, k)
	}
	return all
}

// TestConformance proves the runtime contract for every kit, started from its
// image and woken through a cell.
func TestConformance(t *testing.T) {
	requireDocker(t)
	c := embedded(t)
	for _, k := range kits(t, c) {
		t.Run(k.template.Name+"/"+k.variant, func(t *testing.T) {
			image := k.image(t, c, buildKit)
			t.Run("image", func(t *testing.T) {
				i := runImage(t, image, nil, k.env())
				i.waitReady()
				k.check(t, i)
			})
			if k.template.Cells {
				t.Run("cell", func(t *testing.T) {
					i := runCell(t, c, k.template)
					i.mustLoad(k.env(), functionTar(t, image))
					k.check(t, i)
				})
			}
		})
	}
}

func (k *kit) check(t *testing.T, i *instance) {
	for _, check := range checks {
		if len(k.settings.Only) > 0 && !slices.Contains(k.settings.Only, check.name) {
			continue
		}
		t.Run(check.name, func(t *testing.T) {
			if why, skip := k.settings.Skip[check.name]; skip {
				t.Skip("not of this kit: " + why)
			}
			at := *i
			at.t = t
			check.run(t, &at)
		})
	}
}

// TestConformance_classicBuilder proves that the builder without BuildKit makes
// images that answer.
func TestConformance_classicBuilder(t *testing.T) {
	requireDocker(t)
	c := embedded(t)
	seen := map[string]bool{}
	for _, k := range kits(t, c) {
		if seen[k.template.Name] {
			continue
		}
		seen[k.template.Name] = true
		t.Run(k.template.Name, func(t *testing.T) {
			i := runImage(t, k.image(t, c, classic), nil, k.env())
			i.waitReady()
			checkEcho(t, i)
		})
	}
}

// TestScaffold_answers deploys what `kiln new` writes, its tests included.
func TestScaffold_answers(t *testing.T) {
	requireDocker(t)
	c := embedded(t)
	for _, tmpl := range c.Templates() {
		t.Run(tmpl.Name, func(t *testing.T) {
			files, err := c.Scaffold(tmpl.Name, "greet-me")
			if err != nil {
				t.Fatal(err)
			}
			image := functionImage(t, c, tmpl.Name, files, buildOptions{args: map[string]string{templates.ArgTest: "1"}})
			i := runImage(t, image, nil, map[string]string{"KILN_FUNCTION": "greet-me"})
			if tmpl.HTTPReady {
				i.waitReady()
			} else {
				i.waitAccepting()
			}
			if got := i.get("/"); got.status != 200 || !containsFold(got.body, "hello, world!") {
				t.Errorf("got %d %s, want 200 with Hello, world!", got.status, got.body)
			}
			if user := docker(t, "image", "inspect", "--format", "{{.Config.User}}", image); user == "" || user == "root" {
				t.Errorf("the image runs as %q, want an unprivileged user", user)
			}
		})
	}
}

// TestScaffold_ownTests: a change that the scaffold's own tests do not allow
// ends its build, in each language.
func TestScaffold_ownTests(t *testing.T) {
	requireDocker(t)
	c := embedded(t)
	for _, tmpl := range c.Templates() {
		t.Run(tmpl.Name, func(t *testing.T) {
			files, err := c.Scaffold(tmpl.Name, "greet-me")
			if err != nil {
				t.Fatal(err)
			}
			changed := 0
			for name, f := range files {
				if !strings.Contains(name, "test") && !strings.HasSuffix(name, ".md") && bytes.Contains(f.Data, []byte("Hello")) {
					files[name] = templates.File{Data: bytes.ReplaceAll(f.Data, []byte("Hello"), []byte("Begone")), Mode: f.Mode}
					changed++
				}
			}
			if changed == 0 {
				t.Fatal("the scaffold greets nobody")
			}
			args := resolveBases(t, c, tmpl)
			args[templates.ArgTest] = "1"
			const tag = "kiln-templates-test/unfriendly"
			out, err := buildImage(t, composeContext(t, c, tmpl, files), buildOptions{builder: buildKit, tag: tag, args: args})
			if err == nil {
				dockerErr("image", "rm", tag)
				t.Fatal("the build succeeded")
			}
			if !strings.Contains(out, "Begone") {
				t.Errorf("the output does not tell what the test found:\n%s", tail(out, 2000))
			}
		})
	}
}
