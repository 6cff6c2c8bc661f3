package templates_test

import (
	"archive/tar"
	"bytes"
	"io"
	"regexp"
	"strings"
	"testing"

	"github.com/kilnfaas/kiln/templates"
)

// cacheMount finds the ids of cache mounts.
var cacheMount = regexp.MustCompile(`--mount=type=cache,id=([a-z-]+)`)

// TestOwnCaches: no template has a cache mount that all functions share, but for
// those of Kiln's own steps.
func TestOwnCaches(t *testing.T) {
	catalogue, err := templates.Embedded()
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, template := range catalogue.Templates() {
		var files bytes.Buffer
		w := tar.NewWriter(&files)
		if err := catalogue.Context(template.Name, w); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		for in := tar.NewReader(&files); ; {
			header, err := in.Next()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if header.Name != "Dockerfile" {
				continue
			}
			dockerfile, err := io.ReadAll(in)
			if err != nil {
				t.Fatal(err)
			}
			for _, mount := range cacheMount.FindAllStringSubmatch(string(templates.WithOwnCaches(dockerfile, "me-f")), -1) {
				found++
				if id := mount[1]; id != "kiln-go-runtime" && id != "kiln-go-shim" && !strings.HasPrefix(id, "kiln-own-me-f-") {
					t.Errorf("%s: the cache %s is everybody's", template.Name, id)
				}
			}
		}
	}
	if found < 8 {
		t.Errorf("%d cache mounts, want more: the pattern misses some", found)
	}
}
