package templates_test

import (
	"io"
	"net/http"
	"testing"

	"github.com/kilnfaas/kiln/templates"
)

func embedded(t *testing.T) *templates.Catalogue {
	t.Helper()
	c, err := templates.Embedded()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

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
			i.waitReady()
			r, err := http.Get(i.base + "/?name=Ada")
			if err != nil {
				t.Fatal(err)
			}
			defer r.Body.Close()
			body, _ := io.ReadAll(r.Body)
			t.Logf("%d %v %s", r.StatusCode, r.Header, body)
		})
	}
}
