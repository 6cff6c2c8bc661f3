package build_test

import (
	"archive/tar"
	"testing"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/build"
	"github.com/kilnfaas/kiln/orchestrator/enginetest"
)

// runtimeOnly is a catalogue whose templates are a Dockerfile of two stages.
type runtimeOnly struct{}

func (runtimeOnly) Templates() []orchestrator.Template      { return nil }
func (runtimeOnly) WriteFallback(string, *tar.Writer) error { return nil }
func (runtimeOnly) Context(template string, w *tar.Writer) error {
	dockerfile := "FROM base AS cell\nFROM base\n"
	if err := w.WriteHeader(&tar.Header{Name: "Dockerfile", Mode: 0o644, Size: int64(len(dockerfile))}); err != nil {
		return err
	}
	_, err := w.Write([]byte(dockerfile))
	return err
}

func TestCellImages(t *testing.T) {
	engine := enginetest.NewFake()
	t.Cleanup(func() { engine.Close() })
	engine.AddImage("base", enginetest.Idle(), nil)
	cells := build.NewCells(build.Config{Templates: runtimeOnly{}, Builder: engine, Images: engine, Owner: "installation-one"})
	template := orchestrator.Template{Name: "text", Digest: "sha256:0123456789abcdef", CodeDir: orchestrator.DefaultCodeDir}
	first, err := cells.CellImage(t.Context(), template)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := cells.CellImage(t.Context(), template); err != nil || again != first || engine.Calls(enginetest.OpBuild) != 1 {
		t.Errorf("the second time gave %s, %v after %d builds", again, err, engine.Calls(enginetest.OpBuild))
	}
	other := build.NewCells(build.Config{Templates: runtimeOnly{}, Builder: engine, Images: engine, Owner: "installation-two"})
	if foreign, err := other.CellImage(t.Context(), template); err != nil || foreign == first {
		t.Errorf("two installations share %s, %v", foreign, err)
	}
	template.Digest = "sha256:fedcba9876543210"
	second, err := cells.CellImage(t.Context(), template)
	if err != nil || second == first {
		t.Fatalf("another version of the template gave %s, %v", second, err)
	}
	if _, err := engine.Image(t.Context(), first); err == nil {
		t.Error("the image of the old version is still there")
	}
	engine.RemoveImage(t.Context(), second)
	if _, err := cells.CellImage(t.Context(), template); err != nil || engine.Calls(enginetest.OpBuild) != 4 {
		t.Errorf("an image that was deleted: %v after %d builds", err, engine.Calls(enginetest.OpBuild))
	}
}
