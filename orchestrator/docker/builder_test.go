package docker_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/docker"
)

// TestBuilderKind: without a wish the engine's API decides, else the wish.
func TestBuilderKind(t *testing.T) {
	for _, tt := range []struct {
		api           string
		builder, want docker.BuilderMode
	}{
		{"1.40", "", docker.BuilderClassic},
		{"1.40", docker.BuilderAuto, docker.BuilderClassic},
		{"1.41", "", docker.BuilderBuildKit},
		{"1.41", docker.BuilderAuto, docker.BuilderBuildKit},
		{"1.40", docker.BuilderBuildKit, docker.BuilderBuildKit},
		{"1.41", docker.BuilderClassic, docker.BuilderClassic},
	} {
		t.Run(tt.api+string(tt.builder), func(t *testing.T) {
			d := startDaemon(t)
			d.api = tt.api
			got, err := d.open(t, docker.Options{Builder: tt.builder}).BuilderKind(t.Context())
			if err != nil || got != tt.want {
				t.Errorf("got %q, %v, want %q", got, err, tt.want)
			}
		})
	}
}

// TestStepsAreLimited: the classic builder goes on with a step that could not be
// limited only if the step has ended.
func TestStepsAreLimited(t *testing.T) {
	const id = "0123456789ab"
	for name, tt := range map[string]struct {
		state  string // of the step, "" = there is none
		status int    // of the update
		fails  bool
	}{
		"limited": {"running", http.StatusOK, false},
		"runs":    {"running", http.StatusInternalServerError, true},
		"created": {"created", http.StatusInternalServerError, true},
		"ended":   {"exited", http.StatusInternalServerError, false},
		"removed": {"", http.StatusInternalServerError, false},
		"gone":    {"", http.StatusNotFound, false},
	} {
		t.Run(name, func(t *testing.T) {
			d := startDaemon(t)
			d.on("POST /build", func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				w.Header().Set("Content-Type", "application/json")
				step := "Step 1/1 : RUN x\n ---> Running in " + id + "\n"
				_ = json.NewEncoder(w).Encode(map[string]string{"stream": step})
				_ = http.NewResponseController(w).Flush()
				if tt.fails {
					<-r.Context().Done() // the client leaves
					return
				}
				_, _ = io.WriteString(w, `{"aux":{"ID":"sha256:1"}}`+"\r\n"+`{"stream":" ---> `+id+`\n"}`+"\r\n"+`{"stream":"Successfully built `+id+`\n"}`)
			})
			d.on("POST /containers/"+id+"/update", func(w http.ResponseWriter, r *http.Request) {
				if tt.status == http.StatusOK {
					answer(map[string]any{})(w, r)
					return
				}
				refuse(tt.status, "cannot update container")(w, r)
			})
			if tt.state != "" {
				d.on("GET /containers/"+id+"/json", answer(map[string]any{"Id": id, "State": map[string]any{"Status": tt.state}}))
			}
			d.on("GET /images/sha256:1/json", answer(map[string]any{"Id": "sha256:1"}))
			ctx, cancel := context.WithTimeout(t.Context(), promptly)
			defer cancel()
			_, err := d.open(t, docker.Options{Builder: docker.BuilderClassic}).Build(ctx, orchestrator.BuildRequest{
				Context: strings.NewReader(""), Limits: orchestrator.Limits{Pids: 1},
			})
			if tt.fails {
				wantError(t, err, orchestrator.ErrUnavailable, "engine-failed")
			} else if err != nil {
				t.Errorf("Build: %v", err)
			}
		})
	}
}

// TestStepsAreOfAnImagesID: by this the reconciler knows what a crash left of the
// classic builder from what others run.
func TestStepsAreOfAnImagesID(t *testing.T) {
	client := open(t, docker.Options{Builder: docker.BuilderClassic})
	base := probe.require(t, client)
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	defer cancel()
	var got []string
	_, err := client.Build(ctx, orchestrator.BuildRequest{
		Dockerfile: "Dockerfile",
		Context: tarOf(map[string]string{"Dockerfile": fmt.Sprintf(
			"FROM %s\nLABEL dev.kiln.test=%s\nRUN [\"/probe\", \"script\", \"echo ready\", \"sleep 10m\"]\n", base, t.Name())}),
		Progress: func(e orchestrator.BuildEvent) {
			if e.Kind != orchestrator.BuildLog {
				return
			}
			defer cancel()
			steps, err := client.List(ctx, map[string]string{orchestrator.LabelOwner: session, "dev.kiln.test": t.Name()})
			for _, step := range steps {
				step, err = client.Inspect(ctx, step.ID)
				got = append(got, step.Image)
			}
			if err != nil {
				t.Error(err)
			}
		},
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Build: got %v, want context.Canceled", err)
	}
	if len(got) != 1 || !strings.HasPrefix(got[0], "sha256:") {
		t.Errorf("the steps are of %q, want one that is of an id", got)
	}
}
