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
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/docker"
)

// TestEventsReconnect has an engine that drops the stream after each event, and
// is not there at first.
func TestEventsReconnect(t *testing.T) {
	engine := startDaemon(t)
	now := time.Date(2026, 5, 4, 3, 2, 1, 0, time.UTC)
	attempts := 0
	engine.on("GET /info", func(w http.ResponseWriter, r *http.Request) {
		if attempts++; attempts < 3 {
			refuse(http.StatusServiceUnavailable, "starting")(w, r)
			return
		}
		answer(map[string]any{"SystemTime": now.Format(time.RFC3339Nano)})(w, r)
	})
	connections := 0
	engine.on("GET /events", func(w http.ResponseWriter, r *http.Request) {
		connections++
		if got, want := r.URL.Query().Get("since"), fmt.Sprintf("%d.000000000", now.Unix()); got != want {
			t.Errorf("since: got %q, want %q", got, want)
		}
		w.WriteHeader(http.StatusOK)
		_ = json.NewEncoder(w).Encode(map[string]any{
			"Type": "container", "Action": "die", "timeNano": now.UnixNano(),
			"Actor": map[string]any{"ID": fmt.Sprint("c", connections), "Attributes": map[string]string{
				"exitCode": "3", "image": "i", "name": "n", "own": "label",
			}},
		})
	})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var got []string
	err := engine.open(t, docker.Options{}).Events(ctx, nil, func(e orchestrator.Event) {
		text := string(e.Kind)
		if e.Kind == orchestrator.EventDied {
			text += fmt.Sprintf(" %s %d %v %t", e.ID, e.ExitCode, e.Labels, e.Time.Equal(now))
		}
		if got = append(got, text); len(got) == 4 {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Events: got %v, want context.Canceled", err)
	}
	want := []string{"resync", "died c1 3 map[own:label] true", "resync", "died c2 3 map[own:label] true"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}

// pulled is a pull as engines report it.
const pulled = `{"status":"Pulling from library/debian","id":"trixie-slim"}
{"status":"Pulling fs layer","progressDetail":{},"id":"aaa"}
{"status":"Already exists","progressDetail":{},"id":"bbb"}
{"status":"Downloading","progressDetail":{"current":1048576,"total":4194304},"progress":"[=> ]","id":"aaa"}
{"status":"Downloading","progressDetail":{"current":2097152,"total":4194304},"progress":"[==> ]","id":"aaa"}
{"status":"Download complete","progressDetail":{},"id":"aaa"}
{"status":"Extracting","progressDetail":{"current":1,"total":2},"id":"aaa"}
{"status":"Pull complete","progressDetail":{},"id":"aaa"}
{"status":"Digest: sha256:123"}
{"status":"Status: Downloaded newer image for debian:trixie-slim"}
`

func TestPullProgress(t *testing.T) {
	engine := startDaemon(t)
	engine.on("POST /images/create", func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, pulled) })
	var got []string
	err := engine.open(t, docker.Options{}).Pull(t.Context(), "debian:trixie-slim", func(e orchestrator.BuildEvent) {
		got = append(got, strings.TrimSpace(e.Step[strings.LastIndexByte(e.Step, '-')+1:]+" "+string(e.State)+" "+e.Name+e.Line))
	})
	if err != nil {
		t.Fatalf("Pull: %v", err)
	}
	want := []string{
		"1 started [pull] debian:trixie-slim",
		"2 started [pull] debian:trixie-slim layer aaa",
		"3 started [pull] debian:trixie-slim layer bbb",
		"3 cached [pull] debian:trixie-slim layer bbb",
		"1  1.0 of 4.0 MiB",
		"2 done [pull] debian:trixie-slim layer aaa",
		"1  Digest: sha256:123",
		"1  Status: Downloaded newer image for debian:trixie-slim",
		"1 done [pull] debian:trixie-slim",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}

func TestPullFails(t *testing.T) {
	for _, test := range []struct {
		name   string
		answer http.HandlerFunc
		class  error
		code   string
	}{
		{"registry unknown", refuse(http.StatusInternalServerError, `Get "https://registry-1.docker.io/v2/": dial tcp: lookup registry-1.docker.io: no such host`), orchestrator.ErrUnavailable, "image-pull-failed"},
		{"tag unknown", refuse(http.StatusNotFound, "manifest for debian:nope not found: manifest unknown"), orchestrator.ErrNotFound, "image-pull-failed"},
		{"name unknown", refuse(http.StatusNotFound, "pull access denied for nope, repository does not exist or may require 'docker login'"), orchestrator.ErrNotFound, "image-pull-failed"},
		{"fails on the way", func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, `{"errorDetail":{"message":"dial tcp: i/o timeout"},"error":"dial tcp: i/o timeout"}`+"\n")
		}, orchestrator.ErrUnavailable, "image-pull-failed"},
		{"silent engine", func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, orchestrator.ErrUnavailable, "image-pull-failed"},
		{"silent on the way", func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, pulled[:strings.IndexByte(pulled, '\n')+1])
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		}, orchestrator.ErrUnavailable, "image-pull-failed"},
		{"not a reference", nil, orchestrator.ErrInvalid, "image-reference-invalid"},
	} {
		t.Run(test.name, func(t *testing.T) {
			engine := startDaemon(t)
			engine.on("POST /images/create", test.answer)
			client := engine.open(t, docker.Options{})
			if strings.HasPrefix(test.name, "silent") {
				client.SetPullStall(100 * time.Millisecond)
			}
			ref := "debian:nope"
			if test.answer == nil {
				ref = "Not A Reference"
			}
			wantError(t, client.Pull(t.Context(), ref, nil), test.class, test.code)
		})
	}
}
