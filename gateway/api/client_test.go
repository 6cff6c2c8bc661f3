package api_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/kilnfaas/kiln/gateway/api"
	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/porttest"
)

// against returns a client of a server that answers everything with handler.
// What the gateway's own handlers answer is tested with them.
func against(t *testing.T, handler http.HandlerFunc) *api.Client {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return &api.Client{BaseURL: server.URL + "/", HTTP: server.Client()}
}

func TestErrorOfSomethingElse(t *testing.T) {
	c := against(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "3")
		http.Error(w, "<h1>Bad Gateway</h1>\nnginx", http.StatusBadGateway)
	})
	_, err := c.Function(context.Background(), "a")
	var problem *api.Error
	if !errors.As(err, &problem) {
		t.Fatalf("error = %v, want an *api.Error", err)
	}
	if problem.Status != 502 || problem.Hint == "" || len(problem.Output) != 2 || problem.RetryAfter.String() != "3s" || !strings.Contains(problem.Error(), "502 Bad Gateway") {
		t.Errorf("error = %+v", problem)
	}
}

func TestProblemThatIsNone(t *testing.T) {
	c := against(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/problem+json")
		w.WriteHeader(409)
		io.WriteString(w, `{"detail": `)
	})
	err := c.Remove(context.Background(), "a")
	var problem *api.Error
	if !errors.As(err, &problem) || problem.Status != 409 || !errors.Is(err, orchestrator.ErrConflict) || problem.Error() == "" {
		t.Errorf("error = %+v, want the status at least", err)
	}
}

func TestBrokenStreams(t *testing.T) {
	tests := map[string]string{
		"empty":         "",
		"no last event": `{"kind":"log","line":"x"}` + "\n",
		"half a line":   `{"kind":"log","li`,
		"no JSON":       "<html>\n",
	}
	for name, body := range tests {
		t.Run(name, func(t *testing.T) {
			c := against(t, func(w http.ResponseWriter, r *http.Request) {
				io.Copy(io.Discard, r.Body)
				io.WriteString(w, body)
			})
			_, err := c.Deploy(context.Background(), api.Deploy{Name: "a", Archive: strings.NewReader("x")}, nil)
			if !errors.Is(err, orchestrator.ErrUnavailable) {
				t.Errorf("Deploy = %v, want unavailable", err)
			}
		})
	}
}

func TestUnreachableGateway(t *testing.T) {
	c := &api.Client{BaseURL: "http://" + porttest.Address(t)}
	_, err := c.Functions(context.Background())
	var known *orchestrator.Error
	if !errors.As(err, &known) || known.Code != "gateway-unreachable" || known.Hint == "" {
		t.Errorf("error = %v, want gateway-unreachable with a hint", err)
	}
	_, err = c.Deploy(context.Background(), api.Deploy{Name: "a", Archive: strings.NewReader("x")}, nil)
	if !errors.As(err, &known) || known.Code != "gateway-unreachable" {
		t.Errorf("Deploy = %v, want gateway-unreachable", err)
	}
	c.BaseURL = "http://no such host/%zz"
	if _, err = c.Functions(context.Background()); !errors.As(err, &known) || known.Code != "gateway-address-invalid" {
		t.Errorf("error = %v, want gateway-address-invalid", err)
	}
}

func TestContextEndsACall(t *testing.T) {
	release := make(chan struct{})
	c := against(t, func(http.ResponseWriter, *http.Request) { <-release })
	defer close(release)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := c.Functions(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("error = %v, want the context's", err)
	}
}

func TestRequestsSayWhoCalls(t *testing.T) {
	var seen http.Header
	var path string
	c := against(t, func(w http.ResponseWriter, r *http.Request) {
		seen, path = r.Header, r.URL.EscapedPath()
		io.WriteString(w, "{}")
	})
	c.Token, c.UserAgent = "secret", "kiln/1"
	if _, err := c.Function(context.Background(), "a/../b c"); err != nil {
		t.Fatal(err)
	}
	if seen.Get("Authorization") != "Bearer secret" || seen.Get("User-Agent") != "kiln/1" || seen.Get("Accept") != "application/json" {
		t.Errorf("headers = %v", seen)
	}
	if path != "/v1/functions/a%2F..%2Fb%20c" {
		t.Errorf("path = %q, want the name to be one segment", path)
	}
	response, err := c.Invoke(context.Background(), api.Invocation{Function: "a", Header: http.Header{"Authorization": {"Basic mine"}}})
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if seen.Get("Authorization") != "Basic mine" {
		t.Errorf("Authorization = %q, want the function's own to win", seen.Get("Authorization"))
	}
}

func TestLogsConsumerMayStop(t *testing.T) {
	gone := make(chan struct{})
	c := against(t, func(w http.ResponseWriter, r *http.Request) {
		defer close(gone)
		for r.Context().Err() == nil {
			if _, err := io.WriteString(w, `{"text":"x"}`+"\n\n"); err != nil {
				return
			}
			http.NewResponseController(w).Flush()
		}
	})
	lines := 0
	for line, err := range c.Logs(context.Background(), "a", api.LogOptions{Follow: true}) {
		if err != nil || line.Text != "x" {
			t.Fatalf("line = %+v, %v", line, err)
		}
		if lines++; lines == 3 {
			break
		}
	}
	<-gone
}
