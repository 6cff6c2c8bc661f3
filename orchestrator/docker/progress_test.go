package docker_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/docker"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// golden is what a captured stream comes out as.
type golden struct {
	Events []string `json:"events"`
	Image  string   `json:"image,omitempty"`
	Class  string   `json:"class,omitempty"`
	Code   string   `json:"code,omitempty"`
	Detail string   `json:"detail,omitempty"`
	Output []string `json:"output,omitempty"`
}

// statuses are the codes of captured answers other than 200.
var statuses = map[string]int{"syntax.classic": http.StatusBadRequest, "nodf.classic": http.StatusInternalServerError}

// TestProgressOfCapturedBuilds replays what engine 20.10.24 sent.
func TestProgressOfCapturedBuilds(t *testing.T) {
	captured, err := filepath.Glob("testdata/progress/*.json")
	if err != nil || len(captured) == 0 {
		t.Fatalf("no captured streams: %v", err)
	}
	for _, file := range captured {
		name := strings.TrimSuffix(filepath.Base(file), ".json")
		t.Run(name, func(t *testing.T) {
			stream, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := replay(t, name, stream)
			checkGolden(t, strings.TrimSuffix(file, ".json")+".golden", got)
		})
	}
}

func replay(t *testing.T, name string, stream []byte) golden {
	t.Helper()
	engine := startDaemon(t)
	engine.on("POST /build", func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/json")
		if status := statuses[name]; status != 0 {
			w.WriteHeader(status)
		}
		_, _ = w.Write(stream)
	})
	_, builder, _ := strings.Cut(name, ".")
	client := engine.open(t, docker.Options{Builder: docker.BuilderMode(builder)})
	var got golden
	_, err := client.Build(t.Context(), orchestrator.BuildRequest{
		Context: strings.NewReader(""),
		Progress: func(e orchestrator.BuildEvent) {
			got.Events = append(got.Events, describe(e, builder))
		},
	})
	for _, request := range engine.requests() {
		if id, ok := strings.CutPrefix(request, "GET /images/"); ok {
			got.Image = strings.TrimSuffix(id, "/json") // the daemon does not have it
			return got
		}
	}
	var known *orchestrator.Error
	if !errors.As(err, &known) {
		t.Fatalf("Build: got %v, want an *orchestrator.Error", err)
	}
	got.Class, got.Code, got.Detail, got.Output = known.Class.Error(), known.Code, known.Detail, known.Output
	return got
}

// describe leaves out what differs from run to run.
func describe(e orchestrator.BuildEvent, builder string) string {
	_, step, _ := strings.Cut(e.Step, "-")
	if e.Kind == orchestrator.BuildLog {
		return step + " | " + e.Line
	}
	text := step + " " + string(e.State) + " " + e.Name
	if builder == string(docker.BuilderBuildKit) && e.Duration > 0 {
		text += " (" + time.Duration(e.Duration).Round(time.Millisecond).String() + ")"
	}
	return text
}

func checkGolden(t *testing.T, file string, got golden) {
	t.Helper()
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetIndent("", "  ")
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(got); err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(file, text.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), text.String()); diff != "" {
		t.Errorf("%s (-want +got):\n%s", file, diff)
	}
}

// FuzzProgress feeds broken streams to the decoders: they must not panic, and
// the steps they report must still be in order.
func FuzzProgress(f *testing.F) {
	captured, err := filepath.Glob("testdata/progress/*.json")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range captured {
		stream, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(stream)
	}
	f.Fuzz(func(t *testing.T, stream []byte) {
		_, _, _ = docker.ReadProgress(bytes.NewReader(stream), inOrder(t))
	})
}

// FuzzTrace is FuzzProgress for the protobuf inside, which is encoded twice.
func FuzzTrace(f *testing.F) {
	stream, err := os.ReadFile("testdata/progress/multi.buildkit.json")
	if err != nil {
		f.Fatal(err)
	}
	for line := range bytes.Lines(stream) {
		var m struct {
			ID  string
			Aux json.RawMessage
		}
		var trace []byte
		if json.Unmarshal(line, &m) == nil && m.ID == "moby.buildkit.trace" && json.Unmarshal(m.Aux, &trace) == nil {
			f.Add(trace)
		}
	}
	f.Fuzz(func(t *testing.T, trace []byte) { _ = docker.ReadTrace(trace, inOrder(t)) })
}

// inOrder fails when steps do not go from started to one end.
func inOrder(t *testing.T) func(orchestrator.BuildEvent) {
	states := map[string]orchestrator.StepState{}
	return func(e orchestrator.BuildEvent) {
		before := states[e.Step]
		switch {
		case e.Kind == orchestrator.BuildStep:
			if (before == "") != (e.State == orchestrator.StepStarted) {
				t.Errorf("step %s goes from %q to %q", e.Step, before, e.State)
			}
			if before == orchestrator.StepFailed {
				t.Errorf("step %s goes on after it failed", e.Step)
			}
			states[e.Step] = e.State
		case before == "":
			t.Errorf("output of a step that has not started: %+v", e)
		}
	}
}
