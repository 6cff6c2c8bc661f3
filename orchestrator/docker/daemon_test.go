package docker_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/kilnfaas/kiln/orchestrator/docker"
	"github.com/kilnfaas/kiln/orchestrator/porttest"
)

// daemon answers like an engine, as far as a test scripts it: routes are
// "METHOD /path" without the API version.
type daemon struct {
	server *httptest.Server
	api    string // version
	mu     sync.Mutex
	routes map[string]http.HandlerFunc // guarded by mu
	asked  []string                    // guarded by mu
}

func startDaemon(t *testing.T) *daemon {
	t.Helper()
	d := &daemon{api: "1.41", routes: map[string]http.HandlerFunc{}}
	d.server = httptest.NewServer(d)
	t.Cleanup(d.server.Close)
	return d
}

// on scripts a route.
func (d *daemon) on(route string, handler http.HandlerFunc) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.routes[route] = handler
}

// requests returns what was asked, pings aside.
func (d *daemon) requests() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append([]string(nil), d.asked...)
}

func (d *daemon) host() string { return "tcp://" + d.server.Listener.Addr().String() }

func (d *daemon) open(t *testing.T, options docker.Options) *docker.Client {
	t.Helper()
	options.Host = d.host()
	client, err := docker.Open(t.Context(), options)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	t.Cleanup(func() {
		if err := client.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return client
}

// ServeHTTP answers a request.
func (d *daemon) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := r.URL.Path
	if rest, ok := strings.CutPrefix(path, "/v"+d.api); ok {
		path = rest
	}
	w.Header().Set("Api-Version", d.api)
	w.Header().Set("Ostype", "linux")
	if path == "/_ping" {
		return
	}
	d.mu.Lock()
	route := r.Method + " " + path
	d.asked = append(d.asked, route)
	handler := d.routes[route]
	d.mu.Unlock()
	if handler == nil {
		refuse(http.StatusNotFound, "page not found")(w, r)
		return
	}
	handler(w, r)
}

// answer sends a value as JSON.
func answer(value any) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(value) // the client gives up at will
	}
}

// refuse sends an error as engines do.
func refuse(status int, text string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(map[string]string{"message": text})
	}
}

// deadAddress is an address where nobody listens.
func deadAddress(t *testing.T) string {
	t.Helper()
	return "tcp://" + porttest.Address(t)
}
