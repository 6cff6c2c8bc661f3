package build_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/build"
	"github.com/kilnfaas/kiln/orchestrator/docker"
)

// openDocker returns the machine's engine, or skips loudly without one.
func openDocker(t *testing.T, mode docker.BuilderMode) *docker.Client {
	t.Helper()
	if testing.Short() {
		t.Skip("SKIPPED: -short leaves out what needs Docker")
	}
	engine, err := docker.Open(t.Context(), docker.Options{Builder: mode})
	if err == nil {
		_, err = engine.Image(t.Context(), debian)
	}
	if err != nil {
		if os.Getenv("KILN_REQUIRE_DOCKER") == "1" || os.Getenv("CI") == "true" {
			t.Fatalf("no Docker engine with %s: %v", debian, err)
		}
		t.Skipf("SKIPPED: no Docker engine with %s: %v", debian, err)
	}
	t.Cleanup(func() { engine.Close() })
	return engine
}

// TestDocker makes images on the real engine with each of its builders: base
// from a fallback because its registry does not exist, a function on top of it,
// the same once more, and a function with a Dockerfile of its own.
func TestDocker(t *testing.T) {
	for _, mode := range []docker.BuilderMode{docker.BuilderBuildKit, docker.BuilderClassic} {
		t.Run(string(mode), func(t *testing.T) {
			engine := openDocker(t, mode)
			id := "build-test-" + uuid.NewString()[:8]
			upstream, fallback := "registry.kiln.invalid/"+id+":1", "kiln-base/"+id+":1"
			r := newRig(t, func(c *build.Config) {
				c.Builder, c.Images, c.Owner = engine, engine, id
				c.Classic = func(ctx context.Context) (bool, error) {
					kind, err := engine.BuilderKind(ctx)
					return kind == docker.BuilderClassic, err
				}
				c.Templates = catalogue{
					list: []orchestrator.Template{
						{Name: "text", CodeDir: orchestrator.DefaultCodeDir, Bases: []orchestrator.Base{{Image: upstream, Arg: "BASE", Fallback: fallback}}},
						{Name: "dockerfile", CodeDir: "."},
					},
					files: map[string]map[string]string{"text": {
						"Dockerfile": "ARG BASE=" + upstream + "\nFROM ${BASE}\nARG KILN_HANDLER\nCOPY .kiln/ca.crt /ca.crt\nCOPY function/ /function/\nRUN --mount=type=cache,id=" + id + ",target=/c test -s /function/$KILN_HANDLER && test -e /base\nUSER 65532\n",
					}},
					fallbacks: map[string]map[string]string{fallback: {"Dockerfile": "FROM " + debian + "\nRUN echo " + id + " >/base\n"}},
				}
			})
			t.Cleanup(func() { removeImages(t, engine, id) })
			r.builder = build.New(r.config)

			first := r.revision(t, map[string]string{"handler.txt": "hello " + id})
			first.Function, first.Image, first.Spec.Handler = id, "kiln/"+id+":r1", "handler.txt"
			image, got, err := r.build(t, first, "text")
			if err != nil {
				t.Fatalf("%v\n%s", err, strings.Join(got.lines(), "\n"))
			}
			if image.User != "65532" || image.Labels[orchestrator.LabelBuild] != first.BuildDigest {
				t.Errorf("the image has the user %q and the labels %v", image.User, image.Labels)
			}
			if text := strings.Join(got.lines(), "\n"); !strings.Contains(text, fallback+" stands in for "+upstream) {
				t.Errorf("nobody was told of the fallback:\n%s", text)
			}

			second := first
			second.ID, second.Image = "r2-def", "kiln/"+id+":r2"
			before := time.Now()
			again, _, err := r.build(t, second, "text")
			if err != nil {
				t.Fatal(err)
			}
			if again.ID != image.ID || !slices.Contains(again.Tags, second.Image) {
				t.Errorf("the same again is %s with the tags %q, want %s", again.ID, again.Tags, image.ID)
			}
			t.Logf("the same again took %v", time.Since(before))

			own := r.revision(t, map[string]string{
				"Dockerfile": "# syntax=docker/dockerfile:1\nFROM " + upstream + " AS base\nRUN test -e /base\nFROM base\nCOPY server /server\n", "server": id,
			})
			own.Function, own.Image = id, "kiln/"+id+":own"
			if _, got, err = r.build(t, own, "dockerfile"); err != nil {
				t.Fatalf("%v\n%s", err, strings.Join(got.lines(), "\n"))
			}

			broken := r.revision(t, map[string]string{"Dockerfile": "FROM " + debian + "\nRUN echo before && false\n"})
			broken.Function, broken.Image = id, "kiln/"+id+":broken"
			_, _, err = r.build(t, broken, "dockerfile")
			var failed *orchestrator.Error
			if !errors.As(err, &failed) || !errors.Is(err, orchestrator.ErrFunction) || !slices.Contains(failed.Output, "before") {
				t.Errorf("a step that fails: error %v with the output %q, want the class %q and the step's output", err, failed.Output, orchestrator.ErrFunction)
			}
		})
	}
}

// TestDockerStops: a caller that goes away ends the build on the engine.
func TestDockerStops(t *testing.T) {
	engine := openDocker(t, docker.BuilderBuildKit)
	id := "build-test-" + uuid.NewString()[:8]
	r := newRig(t, func(c *build.Config) { c.Builder, c.Images, c.Owner = engine, engine, id })
	t.Cleanup(func() { removeImages(t, engine, id) })
	r.builder = build.New(r.config)
	rev := r.revision(t, map[string]string{"Dockerfile": "FROM " + debian + "\nRUN echo running " + id + " && sleep 600\n"})
	rev.Image = "kiln/" + id + ":r1"
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var stopped time.Time
	_, err := r.builder.BuildRevision(ctx, rev, r.template("dockerfile"), func(e orchestrator.BuildEvent) {
		if e.Line == "running "+id {
			stopped = time.Now()
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) || !errors.Is(err, orchestrator.ErrDeadline) {
		t.Errorf("error %v, want the caller's, of the class %q", err, orchestrator.ErrDeadline)
	}
	if took := time.Since(stopped); stopped.IsZero() || took > 15*time.Second {
		t.Errorf("the build ended %v after it was cancelled", took)
	}
}

// removeImages removes what a test made, tag by tag.
func removeImages(t *testing.T, engine *docker.Client, owner string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	images, err := engine.Images(ctx, map[string]string{orchestrator.LabelOwner: owner})
	if err != nil {
		t.Error(err)
	}
	slices.SortFunc(images, func(a, b orchestrator.Image) int { // children before what they are made of
		return bytes.Compare([]byte(a.Labels[orchestrator.LabelKind]), []byte(b.Labels[orchestrator.LabelKind])) * -1
	})
	for _, image := range images {
		for _, ref := range append(slices.Clone(image.Tags), image.ID) {
			if err := engine.RemoveImage(ctx, ref); err != nil {
				t.Errorf("remove %s: %v", ref, err)
			}
		}
	}
}
