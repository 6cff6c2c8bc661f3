package build_test

import (
	"testing"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/build"
)

func TestDigestCountsWhatDecidesTheImage(t *testing.T) {
	base := func() orchestrator.Spec {
		s := orchestrator.DefaultSpec()
		s.Name, s.Template, s.Handler = "a", "python", "main.py"
		s.Build = orchestrator.Build{Packages: []string{"curl", "git"}, Args: map[string]string{"A": "1", "B": "2"}}
		return s
	}
	reference := build.Digest("sha256:a", "sha256:t", base())
	for _, test := range []struct {
		name              string
		archive, template string
		change            func(*orchestrator.Spec)
		same              bool
	}{
		{name: "nothing", same: true},
		{name: "archive", archive: "sha256:b"},
		{name: "template", template: "sha256:u"},
		{name: "handler", change: func(s *orchestrator.Spec) { s.Handler = "" }},
		{name: "package", change: func(s *orchestrator.Spec) { s.Build.Packages = []string{"curl"} }},
		{name: "order of packages", change: func(s *orchestrator.Spec) { s.Build.Packages = []string{"git", "curl", "git"} }, same: true},
		{name: "argument", change: func(s *orchestrator.Spec) { s.Build.Args["A"] = "3" }},
		{name: "test", change: func(s *orchestrator.Spec) { s.Build.Test = true }},
		{name: "name", change: func(s *orchestrator.Spec) { s.Name = "b" }, same: true},
		{name: "environment", change: func(s *orchestrator.Spec) { s.Env = map[string]string{"X": "y"} }, same: true},
		{name: "memory", change: func(s *orchestrator.Spec) { s.Resources.Memory *= 2 }, same: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			archive, template, spec := "sha256:a", "sha256:t", base()
			if test.archive != "" {
				archive = test.archive
			}
			if test.template != "" {
				template = test.template
			}
			if test.change != nil {
				test.change(&spec)
			}
			if got := build.Digest(archive, template, spec); (got == reference) != test.same {
				t.Errorf("digest %s, reference %s, want equal: %v", got, reference, test.same)
			}
		})
	}
}
