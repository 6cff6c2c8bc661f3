package gateway

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"github.com/kilnfaas/kiln/gateway/api"
	"github.com/kilnfaas/kiln/gateway/problem"
	"github.com/kilnfaas/kiln/gateway/requestid"
)

// Patience with slow clients of the control API.
const (
	readStall  = 30 * time.Second // between two reads of a request body
	writeStall = 30 * time.Second // for one write of an answer to be taken
	bodyTime   = 10 * time.Minute // for a whole body: the largest archive at 90 kB/s
)

// control makes a handler of the control API: it names the request, sets the
// headers that every answer has, refuses pages of other sites, callers who may not
// and query parameters that the route does not know, bounds how long a slow client
// may take, and turns a returned error or a panic into an answer.
func (s *Server) control(route route) http.Handler {
	origins := http.NewCrossOriginProtection()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		answer := &answer{ResponseWriter: w, controller: http.NewResponseController(w)}
		id := requestid.Of(r)
		setHeaders(answer.Header(), id)
		r.Body = &requestBody{ReadCloser: r.Body, controller: answer.controller, end: start.Add(bodyTime)}
		defer func() {
			if cause := recover(); cause != nil {
				s.panicked(answer, r, id, cause)
			}
			if s.Log.Enabled(r.Context(), slog.LevelDebug) {
				s.Log.Debug("request", "method", r.Method, "path", logged(r), "status", answer.status,
					"duration", time.Since(start), "request_id", id)
			}
		}()
		err := origins.Check(r)
		switch {
		case s.inside(r) && !inBuckets(route):
			err = problem.Inside()
		case err != nil:
			err = problem.CrossOrigin(err)
		default:
			if r, err = s.authorize(r, route.needs); err == nil {
				err = route.query.check(r)
			}
			if err == nil {
				err = route.handler(answer, r)
			}
		}
		if err != nil {
			s.fail(answer, r, id, err)
		}
		s.record(answer, r, route, id, start, err)
	})
}

// inside says whether a function calls.
func (s *Server) inside(r *http.Request) bool {
	if s.Inside == nil {
		return false
	}
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	return err == nil && s.Inside(peer.Addr())
}

// setHeaders sets what every answer of the control API carries.
func setHeaders(h http.Header, id string) {
	h.Set(api.HeaderRequestID, id)
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
	h.Set("Referrer-Policy", "no-referrer")
}

// fail answers with an error. What the client does not see is logged here, as
// this is where the error ends.
func (s *Server) fail(w *answer, r *http.Request, id string, err error) {
	status := problem.Status(err)
	switch {
	case problem.Defect(err):
		s.Log.Error("request failed", "method", r.Method, "path", logged(r), "request_id", id, "error", err)
	case status == http.StatusServiceUnavailable:
		s.Log.Warn("request failed", "method", r.Method, "path", logged(r), "request_id", id, "error", err)
	}
	if w.status == 0 && status != problem.StatusClientGone {
		problem.Write(w, r, err)
	}
}

// logged is a request's path as the log may have it: whoever knows the address of
// a hook can send there.
func logged(r *http.Request) string {
	if strings.HasPrefix(r.URL.Path, hooksPrefix) {
		return hooksPrefix + "…"
	}
	return r.URL.Path
}

// panicked answers for a handler that panicked.
func (s *Server) panicked(w *answer, r *http.Request, id string, cause any) {
	if err, ok := cause.(error); ok && errors.Is(err, http.ErrAbortHandler) {
		panic(http.ErrAbortHandler) // somebody wants the connection cut
	}
	s.Log.Error("handler panicked", "method", r.Method, "path", logged(r), "request_id", id,
		"panic", fmt.Sprint(cause), "stack", string(debug.Stack()))
	if w.status != 0 {
		panic(http.ErrAbortHandler) // half an answer must not look whole
	}
	problem.Write(w, r, fmt.Errorf("panic: %v", cause))
}

// answer is a ResponseWriter that knows whether an answer has begun and gives
// each write its time.
type answer struct {
	http.ResponseWriter
	controller *http.ResponseController
	status     int // 0 until the answer has begun
}

// Unwrap lets an http.ResponseController reach the connection.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

// WriteHeader implements http.ResponseWriter.
func (a *answer) WriteHeader(status int) {
	if a.status == 0 && status >= http.StatusOK {
		a.status = status
	}
	a.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (a *answer) Write(p []byte) (int, error) {
	if a.status == 0 {
		a.status = http.StatusOK
	}
	a.patience()
	return a.ResponseWriter.Write(p)
}

// FlushError sends what was written; it is what an http.ResponseController calls.
func (a *answer) FlushError() error {
	a.patience()
	return a.controller.Flush()
}

func (a *answer) patience() {
	a.controller.SetWriteDeadline(time.Now().Add(writeStall)) // not supported in some tests
}

// requestBody is a request's body with a time for each read and for the whole.
// As with answers, net/http takes the deadlines back: at the body's end, and
// before the connection's next request, which may be an invocation.
type requestBody struct {
	io.ReadCloser
	controller *http.ResponseController
	end        time.Time
}

// Read implements io.Reader.
func (b *requestBody) Read(p []byte) (int, error) {
	deadline := time.Now().Add(readStall)
	if b.end.Before(deadline) {
		deadline = b.end
	}
	b.controller.SetReadDeadline(deadline) // not supported in some tests
	n, err := b.ReadCloser.Read(p)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = problem.RequestTimeout()
	}
	return n, err
}
