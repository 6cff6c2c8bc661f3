package enginetest

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kilnfaas/kiln/orchestrator"
)

var imageTests = []suiteTest{
	{"Absent", testImageAbsent},
	{"TagAndRemove", testTag},
	{"RemoveInUse", testRemoveInUse},
	{"PullAbsent", testPullAbsent},
}

var buildTests = []suiteTest{
	{"StepsAndResult", testBuild},
	{"Cached", testBuildCached},
	{"FailedStep", testBuildFails},
	{"Flood", testBuildFlood},
	{"BadInput", testBuildInput},
	{"BaseMissing", testBaseMissing},
	{"ContextBreaks", testContextBreaks},
	{"Cancelled", testBuildCancelled},
	{"TwoAtOnce", testTwoBuilds},
}

func testImageAbsent(t *testing.T, b *bench) {
	ctx, absent := b.ctx(t), b.Prefix+"/absent:1"
	if _, err := b.Images.Image(ctx, absent); !errors.Is(err, orchestrator.ErrNotFound) {
		t.Errorf("Image: got %v, want ErrNotFound", err)
	}
	if err := b.Images.Tag(ctx, absent, b.Prefix+"/other:1"); !errors.Is(err, orchestrator.ErrNotFound) {
		t.Errorf("Tag: got %v, want ErrNotFound", err)
	}
	if err := b.Images.RemoveImage(ctx, absent); err != nil {
		t.Errorf("RemoveImage: got %v, want nil", err)
	}
}

// image builds an image of its own for a test.
func (b *bench) image(t *testing.T, ref string) orchestrator.Image {
	t.Helper()
	image, err := b.build(t, b.ctx(t), b.request(ref, "FROM "+b.Probe, "# "+t.Name()), nil)
	if err != nil {
		t.Fatalf("Build: %v", err)
	}
	return image
}

func testTag(t *testing.T, b *bench) {
	ctx := b.ctx(t)
	one, two := b.Prefix+"/one:1", b.Prefix+"/two:1"
	image := b.image(t, one)
	if err := b.Images.Tag(ctx, one, two); err != nil {
		t.Fatalf("Tag: %v", err)
	}
	got, err := b.Images.Image(ctx, two)
	if err != nil || got.ID != image.ID {
		t.Fatalf("Image: got %+v, %v; want %s", got, err, image.ID)
	}
	slices.Sort(got.Tags)
	if diff := cmp.Diff([]string{one, two}, got.Tags); diff != "" {
		t.Errorf("tags (-want +got):\n%s", diff)
	}
	if err := b.Images.RemoveImage(ctx, one); err != nil {
		t.Fatalf("RemoveImage: %v", err)
	}
	if got, err := b.Images.Image(ctx, image.ID); err != nil || !slices.Equal(got.Tags, []string{two}) {
		t.Errorf("Image by id after one tag is gone: got %+v, %v", got, err)
	}
	if err := b.Images.RemoveImage(ctx, two); err != nil {
		t.Fatalf("RemoveImage: %v", err)
	}
	if _, err := b.Images.Image(ctx, image.ID); !errors.Is(err, orchestrator.ErrNotFound) {
		t.Errorf("Image after its last tag is gone: got %v, want ErrNotFound", err)
	}
}

func testRemoveInUse(t *testing.T, b *bench) {
	ref := b.Prefix + "/used:1"
	b.image(t, ref)
	config := b.config()
	config.Image = ref
	c := b.run(t, config)
	if err := b.Images.RemoveImage(b.ctx(t), ref); !errors.Is(err, orchestrator.ErrConflict) {
		t.Errorf("RemoveImage of an image in use: got %v, want ErrConflict", err)
	}
	if err := b.Engine.Stop(b.ctx(t), c.ID, 0); err != nil {
		t.Fatalf("Stop: %v", err)
	}
	if err := b.Images.RemoveImage(b.ctx(t), ref); err != nil {
		t.Errorf("RemoveImage: %v", err)
	}
}

func testPullAbsent(t *testing.T, b *bench) {
	err := b.Images.Pull(b.ctx(t), "registry.invalid/"+b.Prefix+"/absent:1", nil)
	if !errors.Is(err, orchestrator.ErrUnavailable) && !errors.Is(err, orchestrator.ErrNotFound) {
		t.Errorf("Pull: got %v, want ErrUnavailable or ErrNotFound", err)
	}
	var known *orchestrator.Error
	if !errors.As(err, &known) || known.Code != "image-pull-failed" {
		t.Errorf("Pull: got %#v, want the code image-pull-failed", err)
	}
}

// request is a build of a Dockerfile and a file.
func (b *bench) request(tag string, dockerfile ...string) orchestrator.BuildRequest {
	labels := maps.Clone(b.Labels)
	labels["dev.kiln.test.built"] = "yes"
	return orchestrator.BuildRequest{
		Tags:       []string{tag},
		Context:    contextOf(map[string]string{"Dockerfile": strings.Join(dockerfile, "\n") + "\n", "file": "content"}),
		Dockerfile: "Dockerfile",
		Labels:     labels,
	}
}

// contextOf is a tar of files. Its times are fixed, so that steps that copy it
// can be cached.
func contextOf(files map[string]string) io.Reader {
	var buffer bytes.Buffer
	w := tar.NewWriter(&buffer)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		header := &tar.Header{Name: name, Mode: 0o644, Size: int64(len(files[name])), ModTime: time.Unix(1_700_000_000, 0)}
		// A bytes.Buffer does not fail.
		_ = w.WriteHeader(header)
		_, _ = io.WriteString(w, files[name])
	}
	_ = w.Close()
	return &buffer
}

// build carries a request out, collects its events, checks their order, and
// removes the image after the test.
func (b *bench) build(t *testing.T, ctx context.Context, request orchestrator.BuildRequest, events *[]orchestrator.BuildEvent) (orchestrator.Image, error) {
	t.Helper()
	var over atomic.Bool
	var inside atomic.Int32
	request.Progress = func(e orchestrator.BuildEvent) {
		if over.Load() {
			t.Error("progress after the build has returned")
		}
		if inside.Add(1) != 1 {
			t.Error("progress from two goroutines at once")
		}
		if events != nil {
			*events = append(*events, e)
		}
		inside.Add(-1)
	}
	image, err := b.Builder.Build(ctx, request)
	over.Store(true)
	for _, tag := range request.Tags {
		t.Cleanup(func() {
			if err := b.Images.RemoveImage(context.Background(), tag); err != nil {
				t.Errorf("RemoveImage(%s): %v", tag, err)
			}
		})
	}
	if events != nil {
		checkSteps(t, *events)
	}
	return image, err
}

// checkSteps fails when a step's states are not started -> done|cached|failed.
func checkSteps(t *testing.T, events []orchestrator.BuildEvent) {
	t.Helper()
	states := map[string]orchestrator.StepState{}
	for _, e := range events {
		before := states[e.Step]
		switch {
		case e.Step == "" || e.Time.IsZero():
			t.Errorf("event without step or time: %+v", e)
		case e.Kind == orchestrator.BuildLog && before != orchestrator.StepStarted:
			t.Errorf("log line of a step that is %q: %+v", before, e)
		case e.Kind == orchestrator.BuildStep && (e.Name == "" || (e.State == orchestrator.StepStarted) != (before == "") ||
			before != "" && before != orchestrator.StepStarted):
			t.Errorf("step goes from %q to %q: %+v", before, e.State, e)
		}
		if e.Kind == orchestrator.BuildStep {
			states[e.Step] = e.State
		}
	}
}

// stateOf returns the last state of the step whose name contains text.
func stateOf(events []orchestrator.BuildEvent, text string) orchestrator.StepState {
	var state orchestrator.StepState
	for _, e := range events {
		if e.Kind == orchestrator.BuildStep && strings.Contains(e.Name, text) {
			state = e.State
		}
	}
	return state
}

func linesOf(events []orchestrator.BuildEvent) []string {
	var lines []string
	for _, e := range events {
		if e.Kind == orchestrator.BuildLog {
			lines = append(lines, e.Line)
		}
	}
	return lines
}

func testBuild(t *testing.T, b *bench) {
	ctx := b.ctx(t)
	// The time makes the steps new ones for a builder that keeps its cache.
	request := b.request(b.Prefix+"/built:1", "ARG BASE", "FROM ${BASE}", `RUN ["/probe", "script", "echo one", "echo `+time.Now().String()+`"]`, "COPY file /file")
	request.Tags = append(request.Tags, b.Prefix+"/built:2")
	request.Args = map[string]string{"BASE": b.Probe}
	var events []orchestrator.BuildEvent
	image, err := b.build(t, ctx, request, &events)
	if err != nil {
		t.Fatalf("Build: %v", err)
	}
	slices.Sort(image.Tags)
	if diff := cmp.Diff(request.Tags, image.Tags); diff != "" {
		t.Errorf("tags (-want +got):\n%s", diff)
	}
	if !hasAll(image.Labels, request.Labels) || image.ID == "" || image.Size == 0 {
		t.Errorf("image: got %+v, want the labels %v", image, request.Labels)
	}
	if got := stateOf(events, "echo one"); got != orchestrator.StepDone {
		t.Errorf("state of RUN: got %q, want done", got)
	}
	if lines := linesOf(events); len(lines) != 2 || lines[0] != "one" {
		t.Errorf("lines: got %q", lines)
	}
	listed, err := b.Images.Images(ctx, request.Labels)
	if err != nil || len(listed) != 1 || listed[0].ID != image.ID {
		t.Errorf("Images: got %+v, %v; want the one that was built", listed, err)
	}
	config := b.config()
	config.Image = request.Tags[0]
	b.serve(t, config)
}

func testBuildCached(t *testing.T, b *bench) {
	line := `RUN ["/probe", "script", "echo ` + time.Now().String() + `"]`
	for _, want := range []orchestrator.StepState{orchestrator.StepDone, orchestrator.StepCached} {
		var events []orchestrator.BuildEvent
		if _, err := b.build(t, b.ctx(t), b.request(b.Prefix+"/cached:1", "FROM "+b.Probe, line, "COPY file /file"), &events); err != nil {
			t.Fatalf("Build: %v", err)
		}
		for _, step := range []string{"RUN", "COPY"} {
			if got := stateOf(events, "] "+step); got != want {
				t.Errorf("state of %s: got %q, want %q", step, got, want)
			}
		}
	}
}

func testBuildFails(t *testing.T, b *bench) {
	script := []string{`"/probe"`, `"script"`}
	var want []string
	for i := range 60 {
		line := strings.Repeat("l", i+1)
		script = append(script, `"echo `+line+`"`)
		want = append(want, line)
	}
	var events []orchestrator.BuildEvent
	_, err := b.build(t, b.ctx(t), b.request(b.Prefix+"/failed:1", "FROM "+b.Probe, "RUN ["+strings.Join(append(script, `"exit 3"`), ",")+"]"), &events)
	var known *orchestrator.Error
	if !errors.Is(err, orchestrator.ErrFunction) || !errors.As(err, &known) || known.Code != "build-failed" {
		t.Fatalf("Build: got %#v, want ErrFunction with the code build-failed", err)
	}
	if diff := cmp.Diff(want[10:], known.Output); diff != "" {
		t.Errorf("output (-want the last 50 lines +got):\n%s", diff)
	}
	if got := stateOf(events, "RUN"); got != orchestrator.StepFailed {
		t.Errorf("state of RUN: got %q, want failed", got)
	}
	if _, err := b.Images.Image(b.ctx(t), b.Prefix+"/failed:1"); !errors.Is(err, orchestrator.ErrNotFound) {
		t.Errorf("Image of a failed build: got %v, want ErrNotFound", err)
	}
}

// testBuildFlood: a build that prints without end is ended soon after its limit.
func testBuildFlood(t *testing.T, b *bench) {
	request := b.request(b.Prefix+"/flood:1", "FROM "+b.Probe, `RUN ["/probe", "script", "echo `+time.Now().String()+`", "flood 200000", "sleep 10m"]`)
	request.Output = 64 * orchestrator.KiB
	var events []orchestrator.BuildEvent
	started := time.Now()
	_, err := b.build(t, b.ctx(t), request, &events)
	var known *orchestrator.Error
	if !errors.Is(err, orchestrator.ErrFunction) || !errors.As(err, &known) || known.Code != "build-output-limit" || len(known.Output) == 0 {
		t.Errorf("Build: got %#v, want ErrFunction with the code build-output-limit and the last lines", err)
	}
	if took := time.Since(started); took > patience/2 {
		t.Errorf("it took %s to end", took)
	}
	size := 0
	for _, line := range linesOf(events) {
		size += len(line)
	}
	if size > int(request.Output) {
		t.Errorf("%d bytes of output were passed on, want at most %d", size, request.Output)
	}
}

func testBuildInput(t *testing.T, b *bench) {
	absent := b.request(b.Prefix+"/bad:1", "FROM "+b.Probe)
	absent.Dockerfile = "absent"
	if _, err := b.build(t, b.ctx(t), absent, nil); !errors.Is(err, orchestrator.ErrFunction) {
		t.Errorf("a Dockerfile that is not there: got %v, want ErrFunction", err)
	}
}

func testBaseMissing(t *testing.T, b *bench) {
	_, err := b.build(t, b.ctx(t), b.request(b.Prefix+"/bad:1", "FROM registry.invalid/"+b.Prefix+"/absent:1"), nil)
	var known *orchestrator.Error
	if !errors.As(err, &known) || known.Code != "base-missing" {
		t.Errorf("Build: got %v, want the code base-missing", err)
	}
}

var errBroken = errors.New("the archive is too large")

func testContextBreaks(t *testing.T, b *bench) {
	request := b.request(b.Prefix+"/broken:1", "FROM "+b.Probe)
	whole := request.Context
	broken, w := io.Pipe()
	var writing sync.WaitGroup
	writing.Go(func() {
		_, _ = io.CopyN(w, whole, 700)
		w.CloseWithError(errBroken)
	})
	request.Context = broken
	if _, err := b.build(t, b.ctx(t), request, nil); !errors.Is(err, errBroken) {
		t.Errorf("Build: got %v, want the reader's own error", err)
	}
	writing.Wait()
}

func testBuildCancelled(t *testing.T, b *bench) {
	ctx, cancel := context.WithCancel(b.ctx(t))
	defer cancel()
	request := b.request(b.Prefix+"/cancelled:1", "FROM "+b.Probe, `RUN ["/probe", "script", "echo sleeping", "sleep 10m", "echo `+time.Now().String()+`"]`)
	seen := false
	request.Progress = func(e orchestrator.BuildEvent) {
		if e.Line == "sleeping" {
			seen = true
			cancel()
		}
	}
	started := time.Now()
	if _, err := b.Builder.Build(ctx, request); !errors.Is(err, context.Canceled) || !seen {
		t.Errorf("Build: got %v (the step ran: %t), want context.Canceled", err, seen)
	}
	if took := time.Since(started); took > patience/2 {
		t.Errorf("a cancelled build took %s to end", took)
	}
	b.wantNone(t)
}

func testTwoBuilds(t *testing.T, b *bench) {
	var builds sync.WaitGroup
	for _, tag := range []string{b.Prefix + "/a:1", b.Prefix + "/b:1"} {
		builds.Go(func() {
			image, err := b.build(t, b.ctx(t), b.request(tag, "FROM "+b.Probe, `RUN ["/probe", "script", "echo `+tag+`"]`), nil)
			if err != nil || !slices.Contains(image.Tags, tag) {
				t.Errorf("Build(%s): got %+v, %v", tag, image, err)
			}
		})
	}
	builds.Wait()
}
