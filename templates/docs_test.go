package templates_test

import (
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/kilnfaas/kiln/templates"
)

// example is a code block of the guide under a comment that says how it is run:
// <!-- example: TEMPLATE FILE METHOD TARGET[: BODY] -> PART OF THE ANSWER -->
var example = regexp.MustCompile("(?s)<!-- example: (\\S+) (\\S+) (GET|POST) (\\S+?)(?:: (.*?))? -> (.*?) -->\n```\\w+\n(.*?)```")

// TestGuide deploys every example of docs/writing-functions.md.
func TestGuide(t *testing.T) {
	requireDocker(t)
	guide, err := os.ReadFile("../docs/writing-functions.md")
	if err != nil {
		t.Fatal(err)
	}
	examples := example.FindAllStringSubmatch(string(guide), -1)
	if marked := strings.Count(string(guide), "<!-- example:"); len(examples) != marked || marked == 0 {
		t.Fatalf("%d of %d examples are understood", len(examples), marked)
	}
	c := embedded(t)
	for _, e := range examples {
		template, file, method, target, body, want, code := e[1], e[2], e[3], e[4], e[5], e[6], e[7]
		t.Run(template+" "+want, func(t *testing.T) {
			files := map[string]templates.File{file: text(code)}
			i := runImage(t, functionImage(t, c, template, files, buildOptions{}), nil, map[string]string{"KILN_FUNCTION": "example"})
			i.waitReady()
			got := i.send(method, target, http.Header{}, strings.NewReader(body))
			if got.status >= 300 || !strings.Contains(got.body, want) {
				t.Errorf("got %d %q, want %q", got.status, got.body, want)
			}
		})
	}
}
