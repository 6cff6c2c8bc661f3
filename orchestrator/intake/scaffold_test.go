package intake_test

import (
	"bytes"
	"io/fs"
	"testing"
	"testing/fstest"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/archive"
	"github.com/kilnfaas/kiln/orchestrator/intake"
	"github.com/kilnfaas/kiln/templates"
)

// What `kiln new` makes of each template can be deployed as it is, and is
// recognised without its function.yaml.
func TestReceiveScaffolds(t *testing.T) {
	embedded, err := templates.Embedded()
	if err != nil {
		t.Fatal(err)
	}
	for _, template := range embedded.Templates() {
		t.Run(template.Name, func(t *testing.T) {
			scaffold, err := embedded.Scaffold(template.Name, "my-function")
			if err != nil {
				t.Fatal(err)
			}
			store := &memory{}
			in := intake.New(store, embedded, archive.DefaultLimits(), t.TempDir())
			var digests []string
			for _, left := range []string{"", "function.yaml"} {
				fsys := fstest.MapFS{}
				for name, f := range scaffold {
					if name != left {
						fsys[name] = &fstest.MapFile{Data: f.Data, Mode: f.Mode}
					}
				}
				spec, digest, err := in.Receive(t.Context(), intake.Upload{Body: packed(t, fsys), Filename: "my-function.tar.zst"})
				if err != nil {
					t.Fatalf("without %q: %v", left, err)
				}
				if spec.Name != "my-function" || spec.Template != template.Name {
					t.Errorf("without %q: got %s of %s", left, spec.Name, spec.Template)
				}
				digests = append(digests, digest)
			}
			if digests[0] != digests[1] {
				t.Errorf("function.yaml is part of the digest: %v", digests)
			}
		})
	}
}

// packed sends a folder as the command line does.
func packed(t *testing.T, fsys fs.FS) *bytes.Buffer {
	t.Helper()
	sources, err := archive.Sources(fsys)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	zw, err := archive.Zstd(&b)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := archive.Pack(t.Context(), zw, sources, archive.DefaultLimits()); err != nil {
		t.Fatal(err)
	}
	if err := zw.Close(); err != nil {
		t.Fatal(err)
	}
	return &b
}

var _ intake.Archives = orchestrator.Store(nil)
