package docker_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/docker"
)

// wantError checks the class and code, and that clients can be told.
func wantError(t *testing.T, err, class error, code string) {
	t.Helper()
	var known *orchestrator.Error
	if !errors.As(err, &known) || !errors.Is(err, class) || known.Code != code {
		t.Errorf("got %v (%#v); want class %v and code %q", err, err, class, code)
	}
}

func TestOpenWithoutEngine(t *testing.T) {
	_, err := docker.Open(t.Context(), docker.Options{Host: deadAddress(t)})
	wantError(t, err, orchestrator.ErrUnavailable, "engine-unreachable")
	var known *orchestrator.Error
	if errors.As(err, &known) && known.Hint == "" {
		t.Error("the error does not say what to do")
	}
	_, err = docker.Open(t.Context(), docker.Options{Host: "unix:///nowhere/docker.sock"})
	wantError(t, err, orchestrator.ErrUnavailable, "engine-unreachable")
}

func TestOpenWithBadOptions(t *testing.T) {
	_, err := docker.Open(t.Context(), docker.Options{Host: "here"})
	wantError(t, err, orchestrator.ErrInvalid, "engine-address-invalid")
	_, err = docker.Open(t.Context(), docker.Options{Builder: "kaniko"})
	wantError(t, err, orchestrator.ErrInvalid, "builder-unknown")
}

func TestErrorClasses(t *testing.T) {
	engine := startDaemon(t)
	client := engine.open(t, docker.Options{})
	for _, test := range []struct {
		status int
		text   string
		class  error
		code   string
	}{
		{http.StatusNotFound, "No such container: x", orchestrator.ErrNotFound, "engine-not-found"},
		{http.StatusConflict, "it is being removed", orchestrator.ErrConflict, "engine-conflict"},
		{http.StatusBadRequest, "bad parameter", orchestrator.ErrInvalid, "engine-refused"},
		{http.StatusInternalServerError, "broken", orchestrator.ErrUnavailable, "engine-failed"},
		{http.StatusServiceUnavailable, "not now", orchestrator.ErrUnavailable, "engine-failed"},
		{http.StatusInternalServerError, "write /var/lib/docker/x: no space left on device", orchestrator.ErrUnavailable, "engine-disk-full"},
	} {
		engine.on("GET /containers/x/json", refuse(test.status, test.text))
		_, err := client.Inspect(t.Context(), "x")
		wantError(t, err, test.class, test.code)
		if err != nil && !strings.Contains(err.Error(), test.text) {
			t.Errorf("the error lost the engine's reason %q: %v", test.text, err)
		}
	}
}

func TestCallersContext(t *testing.T) {
	engine := startDaemon(t)
	client := engine.open(t, docker.Options{})
	ctx, cancel := context.WithCancel(t.Context())
	engine.on("GET /containers/x/json", func(w http.ResponseWriter, r *http.Request) {
		cancel() // the engine hangs, the caller has enough
		<-r.Context().Done()
	})
	if _, err := client.Inspect(ctx, "x"); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled by the caller: got %v, want context.Canceled", err)
	}
	ctx, cancel = context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	engine.on("GET /containers/x/json", func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	_, err := client.Inspect(ctx, "x")
	wantError(t, err, orchestrator.ErrDeadline, "engine-deadline")
}

func TestEngineGoesAway(t *testing.T) {
	engine := startDaemon(t)
	client := engine.open(t, docker.Options{})
	engine.server.Close()
	_, err := client.List(t.Context(), nil)
	wantError(t, err, orchestrator.ErrUnavailable, "engine-unreachable")
	if err := client.Stop(t.Context(), "x", time.Second); !errors.Is(err, orchestrator.ErrUnavailable) {
		t.Errorf("Stop: got %v, want ErrUnavailable: nothing is known about the container", err)
	}
}

// TestRunTidiesUp makes each step of a start fail.
func TestRunTidiesUp(t *testing.T) {
	const start, inspect, remove = "POST /containers/c1/start", "GET /containers/c1/json", "DELETE /containers/c1"
	for _, test := range []struct {
		name   string
		route  string
		answer http.HandlerFunc
		class  error
		code   string
	}{
		{"start fails", start, refuse(http.StatusInternalServerError, "no more veth"), orchestrator.ErrUnavailable, "engine-failed"},
		{"command missing", start, refuse(http.StatusBadRequest, `exec: "x": executable file not found in $PATH`), orchestrator.ErrInvalid, "command-not-runnable"},
		{"network missing", start, refuse(http.StatusNotFound, "network kiln not found"), orchestrator.ErrNotFound, "network-not-found"},
		{"inspect fails", inspect, refuse(http.StatusInternalServerError, "broken"), orchestrator.ErrUnavailable, "engine-failed"},
	} {
		t.Run(test.name, func(t *testing.T) {
			engine := startDaemon(t)
			engine.on("GET /images/i/json", answer(map[string]any{"Id": "sha256:1"}))
			engine.on("POST /containers/create", answer(map[string]any{"Id": "c1"}))
			engine.on(start, func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusNoContent) })
			engine.on(inspect, answer(map[string]any{"Id": "c1"}))
			engine.on(remove, func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusNoContent) })
			engine.on(test.route, test.answer)
			_, err := engine.open(t, docker.Options{}).Run(t.Context(), orchestrator.ContainerConfig{Name: "n", Image: "i"})
			wantError(t, err, test.class, test.code)
			requests := engine.requests()
			if last := requests[len(requests)-1]; last != remove {
				t.Errorf("requests %v do not end with the removal", requests)
			}
		})
	}
}

// TestRunCosts holds the path of a cold start to its calls.
func TestRunCosts(t *testing.T) {
	engine := startDaemon(t)
	engine.on("GET /images/i/json", answer(map[string]any{"Id": "sha256:1", "Config": map[string]any{"User": "1000"}}))
	engine.on("POST /containers/create", answer(map[string]any{"Id": "c1"}))
	engine.on("POST /containers/c1/start", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusNoContent) })
	engine.on("GET /containers/c1/json", answer(map[string]any{"Id": "c1", "State": map[string]any{"Status": "running", "Running": true}}))
	if _, err := engine.open(t, docker.Options{}).Run(t.Context(), orchestrator.ContainerConfig{Name: "n", Image: "i"}); err != nil {
		t.Fatal(err)
	}
	want := []string{"GET /images/i/json", "POST /containers/create", "POST /containers/c1/start", "GET /containers/c1/json"}
	if diff := cmp.Diff(want, engine.requests()); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}
}

func TestFreezeTriesAgain(t *testing.T) {
	engine := startDaemon(t)
	engine.on("GET /containers/c1/json", answer(map[string]any{"Id": "c1", "State": map[string]any{"Status": "running", "Running": true}}))
	tries := 0
	engine.on("POST /containers/c1/pause", func(w http.ResponseWriter, r *http.Request) {
		if tries++; tries < 3 {
			refuse(http.StatusInternalServerError, "OCI runtime pause failed: unable to freeze: unknown")(w, r)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	})
	if err := engine.open(t, docker.Options{}).Freeze(t.Context(), "c1"); err != nil || tries != 3 {
		t.Errorf("Freeze: got %v after %d tries, want success at the third", err, tries)
	}
}

// TestThawOfStaleState has an engine that forgets for a while that a container
// is paused.
func TestThawOfStaleState(t *testing.T) {
	engine := startDaemon(t)
	engine.on("POST /containers/c1/pause", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusNoContent) })
	engine.on("GET /containers/c1/json", answer(map[string]any{"Id": "c1", "State": map[string]any{"Status": "running", "Running": true}}))
	tries := 0
	engine.on("POST /containers/c1/unpause", func(w http.ResponseWriter, r *http.Request) {
		if tries++; tries < 4 {
			refuse(http.StatusConflict, "Container c1 is not paused")(w, r)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	})
	client := engine.open(t, docker.Options{})
	if err := client.Freeze(t.Context(), "c1"); err != nil {
		t.Fatal(err)
	}
	if err := client.Thaw(t.Context(), "c1"); err != nil || tries != 4 {
		t.Errorf("Thaw: got %v after %d tries, want success at the fourth", err, tries)
	}
	tries = 0
	if err := client.Thaw(t.Context(), "c1"); err != nil || tries != 1 {
		t.Errorf("Thaw of what runs: got %v after %d tries, want success at the first", err, tries)
	}
}

// TestFreezeOfStaleState is the same the other way round.
func TestFreezeOfStaleState(t *testing.T) {
	engine := startDaemon(t)
	engine.on("GET /containers/c1/json", answer(map[string]any{"Id": "c1", "State": map[string]any{"Status": "paused", "Paused": true}}))
	tries := 0
	engine.on("POST /containers/c1/pause", func(w http.ResponseWriter, r *http.Request) {
		if tries++; tries != 3 {
			refuse(http.StatusConflict, "Container c1 is already paused")(w, r)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	})
	client := engine.open(t, docker.Options{})
	if err := client.Freeze(t.Context(), "c1"); err != nil || tries != 3 {
		t.Errorf("Freeze: got %v after %d tries, want success at the third", err, tries)
	}
	if err := client.Freeze(t.Context(), "c1"); err != nil || tries != 4 {
		t.Errorf("Freeze of what is frozen: got %v after %d tries, want one more", err, tries)
	}
}
