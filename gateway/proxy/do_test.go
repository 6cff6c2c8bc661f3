package proxy_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kilnfaas/kiln/gateway/problem"
	"github.com/kilnfaas/kiln/gateway/proxy"
	"github.com/kilnfaas/kiln/orchestrator"
)

// do makes a call from within the process.
func (g *rig) do(ctx context.Context, function, path, body string, limit int) proxy.Reply {
	handler := &proxy.Handler{Routes: g.routes, Fail: problem.Write, Observe: g.observe}
	r := httptest.NewRequestWithContext(ctx, http.MethodPost, proxy.Prefix+function+path, strings.NewReader(body))
	r.Header.Set("Kiln-Request-Id", "the-id")
	return handler.Do(r, limit)
}

func TestDo(t *testing.T) {
	instance := serveHTTP(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("Content-Type", "text/x")
		w.Header().Set("Trailer", "T")
		w.WriteHeader(http.StatusAccepted)
		fmt.Fprintf(w, "%s %s %s %s", r.Method, r.URL.RequestURI(), r.Header.Get("Kiln-Request-Id"), body)
		w.Header().Set("T", "x")
	})
	g := newRig(t, "complete", nil, instance.addr)
	got := g.do(t.Context(), "echo", "/x?y=1", "hello", 1000)
	if got.Err != nil || got.Status != http.StatusAccepted || string(got.Body) != "POST /x?y=1 the-id hello" || got.Truncated ||
		got.Header.Get("Content-Type") != "text/x" || got.Header.Get("Trailer") != "" || got.Revision == "" {
		t.Errorf("reply %+v %q", got, got.Body)
	}
	if seen := g.observed(); seen.code != http.StatusAccepted {
		t.Errorf("counted as %+v", seen)
	}
	if got := g.do(t.Context(), "echo", "", "hello", 4); string(got.Body) != "POST" || !got.Truncated {
		t.Errorf("with a limit of 4: %q, truncated %v", got.Body, got.Truncated)
	}
}

func TestDoTellsTheError(t *testing.T) {
	instance := serveHTTP(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/die":
			panic(http.ErrAbortHandler)
		case "/cut":
			w.Header().Set("Content-Length", "10")
			io.WriteString(w, "x")
			http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		case "/slow":
			<-r.Context().Done()
		}
	})
	g := newRig(t, "complete", timeout(500*time.Millisecond), instance.addr)
	for path, want := range map[string]error{"/die": orchestrator.ErrFunction, "/cut": orchestrator.ErrFunction, "/slow": orchestrator.ErrDeadline} {
		if got := g.do(t.Context(), "echo", path, "", 100); !errors.Is(got.Err, want) || got.Status != 0 || got.Body != nil {
			t.Errorf("%s: %+v, want the class %q and no answer", path, got, want)
		}
	}
	if got := g.do(t.Context(), "nobody", "", "", 100); !errors.Is(got.Err, orchestrator.ErrNotFound) {
		t.Errorf("unknown function: %+v", got)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if got := g.do(ctx, "echo", "/slow", "", 100); !errors.Is(got.Err, orchestrator.ErrUnavailable) || errors.Is(got.Err, orchestrator.ErrFunction) {
		t.Errorf("given up: %+v, want an error that is not the function's", got)
	}
}

// lateWriter is a client's connection on which the end of an upload is noted late, as
// on a machine where others have the processor.
type lateWriter struct {
	*httptest.ResponseRecorder
	once        sync.Once
	interrupted chan struct{} // closed when the client's side is interrupted
}

// SetReadDeadline is without an end when the upload has ended, and in the past to
// interrupt it.
func (w *lateWriter) SetReadDeadline(t time.Time) error {
	switch {
	case t.IsZero():
		w.once.Do(func() {
			select {
			case <-w.interrupted:
			case <-time.After(200 * time.Millisecond): // long after what the upload is waited for
			}
		})
	case t.Before(time.Now()):
		close(w.interrupted)
	}
	return nil
}

// TestWholeUploadIsNotInterrupted: net/http reads from the client's connection once
// it has seen the end of a body. If that failed, it would take the client for gone,
// and its next call with it.
func TestWholeUploadIsNotInterrupted(t *testing.T) {
	g := newRig(t, "complete", nil, echo(t).addr)
	handler := &proxy.Handler{Routes: g.routes, Fail: problem.Write, Observe: g.observe}
	for range 2 { // the instance's connection is as good as before, too
		w := &lateWriter{ResponseRecorder: httptest.NewRecorder(), interrupted: make(chan struct{})}
		handler.ServeHTTP(w, httptest.NewRequest(http.MethodPost, proxy.Prefix+"echo/x", strings.NewReader("hello")))
		if w.Code != http.StatusOK || w.Body.String() != "/x hello" {
			t.Errorf("got %d %q", w.Code, w.Body)
		}
		select {
		case <-w.interrupted:
			t.Error("the client's side was interrupted after its end")
		default:
		}
	}
}
