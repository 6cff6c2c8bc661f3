package build_test

import (
	"errors"
	"maps"
	"strings"
	"testing"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/build"
	"github.com/kilnfaas/kiln/templates"
)

// TestNetworkOfBuilds asks what the engine is told, for the templates as they
// are and files as people write them.
func TestNetworkOfBuilds(t *testing.T) {
	const none, all = "none", ""
	catalogue, err := templates.Embedded()
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, template string
		files          map[string]string
		change         func(*orchestrator.Build)
		want           string
	}{
		{"plain", "python", map[string]string{"handler.py": "import os"}, nil, none},
		{"no requirement yet", "python", map[string]string{"requirements.txt": "# one a line: requests\n\n"}, nil, none},
		{"requirements", "python", map[string]string{"requirements.txt": "# http\nrequests==2\n"}, nil, all},
		{"requirements forbidden", "python", map[string]string{"requirements.txt": "requests"}, func(b *orchestrator.Build) { b.Network = orchestrator.BuildNetworkNone }, none},
		{"allowed for tests", "python", map[string]string{"handler.py": ""}, func(b *orchestrator.Build) { b.Network = orchestrator.BuildNetworkInternet }, all},
		{"automatic", "python", map[string]string{"handler.py": ""}, func(b *orchestrator.Build) { b.Network = orchestrator.BuildNetworkAuto }, none},
		{"tests", "python", map[string]string{"test_handler.py": ""}, func(b *orchestrator.Build) { b.Test = true }, none},
		{"packages", "exec", map[string]string{"handler": "#!/bin/sh"}, func(b *orchestrator.Build) { b.Packages = []string{"jq"} }, all},
		{"plain", "exec", map[string]string{"handler": "#!/bin/sh"}, nil, none},
		{"plain", "node", map[string]string{"handler.js": "", "package.json": `{"type": "module", "dependencies": {}}`}, nil, none},
		{"dependencies", "node", map[string]string{"package.json": "{\"dependencies\": {\n  \"hono\": \"4\"}}"}, nil, all},
		{"of tests", "node", map[string]string{"package.json": `{"devDependencies":{"mocha":"1"}}`}, nil, all},
		{"plain", "go", map[string]string{"go.mod": "module f\n\ngo 1.24\n", "handler.go": "package function\n\nimport (\n\t\"fmt\"\n\t\"net/http\"\n)\n\nvar x = \"a.b/c\"\n"}, nil, none},
		{"modules", "go", map[string]string{"go.mod": "module f\n\nrequire github.com/google/uuid v1.6.0\n"}, nil, all},
		{"a toolchain", "go", map[string]string{"go.mod": "module f\n\ntoolchain go1.99\n"}, nil, all},
		{"without go.mod", "go", map[string]string{"handler.go": "package function\n\nimport \"github.com/google/uuid\"\n"}, nil, all},
		{"in a group", "go", map[string]string{"handler.go": "package function\nimport (\n\tx \"rsc.io/quote\"\n)\n"}, nil, all},
		{"in a folder", "go", map[string]string{"inner/a.go": "package inner\nimport _ `golang.org/x/sys/unix`\n"}, nil, all},
		{"the compiler", "cdylib", map[string]string{"f.c": "int f(void) { return 1; }"}, nil, all},
		{"its own affair", "dockerfile", map[string]string{"Dockerfile": "FROM scratch\n"}, nil, all},
		{"forbidden", "dockerfile", map[string]string{"Dockerfile": "FROM scratch\n"}, func(b *orchestrator.Build) { b.Network = orchestrator.BuildNetworkNone }, none},
	} {
		t.Run(tt.template+"/"+tt.name, func(t *testing.T) {
			r := newRig(t, func(c *build.Config) { c.Templates = catalogue })
			for _, template := range catalogue.Templates() {
				for _, base := range template.Bases {
					r.engine.AddImage(base.Image, nil, nil)
				}
			}
			rev := r.revision(t, maps.Clone(tt.files))
			if tt.change != nil {
				tt.change(&rev.Spec.Build)
			}
			// The fake knows no stages; what it was asked for is the question.
			_, _, err := r.build(t, rev, tt.template)
			built := r.engine.built()
			if len(built) == 0 {
				t.Fatalf("nothing was built: %v", err)
			}
			if got := built[len(built)-1].Network; got != tt.want {
				t.Errorf("network %q, want %q", got, tt.want)
			}
		})
	}
}

// TestScaffoldsNeedNoNetwork: what kiln new writes is built without one, where the
// template can do without.
func TestScaffoldsNeedNoNetwork(t *testing.T) {
	catalogue, err := templates.Embedded()
	if err != nil {
		t.Fatal(err)
	}
	for _, template := range catalogue.Templates() {
		if template.Name == "dockerfile" || template.Name == "cdylib" {
			continue
		}
		r := newRig(t, func(c *build.Config) { c.Templates = catalogue })
		for _, base := range template.Bases {
			r.engine.AddImage(base.Image, nil, nil)
		}
		scaffold, err := catalogue.Scaffold(template.Name, "hello")
		if err != nil {
			t.Fatal(err)
		}
		files := map[string]string{}
		for name, file := range scaffold {
			files[name] = string(file.Data)
		}
		_, _, err = r.build(t, r.revision(t, files), template.Name)
		built := r.engine.built()
		if len(built) != 1 || built[0].Network != "none" {
			t.Errorf("%s: %d builds, %v; want one without a network", template.Name, len(built), err)
		}
	}
}

// TestFailureWithoutANetworkSaysSo: the error says what may be missing.
func TestFailureWithoutANetworkSaysSo(t *testing.T) {
	r := newRig(t, nil)
	r.engine.AddImage(debian, nil, nil)
	files := map[string]string{"Dockerfile": "FROM " + debian + "\nRUN [\"/probe\", \"script\", \"exit 1\"]\n"}
	for network, hint := range map[orchestrator.BuildNetwork]string{
		orchestrator.BuildNetworkNone: "build.network: internet", orchestrator.BuildNetworkInternet: "",
	} {
		rev := r.revision(t, files)
		rev.Spec.Build.Network = network
		_, _, err := r.build(t, rev, "dockerfile")
		var failed *orchestrator.Error
		if !errors.As(err, &failed) || failed.Code != "build-failed" || !strings.Contains(failed.Hint, hint) || hint == "" && failed.Hint != "" {
			t.Errorf("%s: got %#v, want the hint %q", network, err, hint)
		}
	}
}

func TestNetworkIsPartOfTheDigest(t *testing.T) {
	digest := func(network orchestrator.BuildNetwork) string {
		return build.Digest("sha256:a", "sha256:t", orchestrator.Spec{Build: orchestrator.Build{Network: network}})
	}
	if digest("") != digest(orchestrator.BuildNetworkAuto) || digest("") == digest(orchestrator.BuildNetworkNone) ||
		digest(orchestrator.BuildNetworkNone) == digest(orchestrator.BuildNetworkInternet) {
		t.Error("builds with different networks share an image, or equal ones do not")
	}
}
