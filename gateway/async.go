package gateway

import (
	"context"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gorilla/mux"

	"github.com/kilnfaas/kiln/gateway/api"
	"github.com/kilnfaas/kiln/gateway/auth"
	"github.com/kilnfaas/kiln/gateway/problem"
	"github.com/kilnfaas/kiln/gateway/proxy"
	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/events"
)

// Async are the use cases of asynchronous invocations; *events.Queue has them.
type Async interface {
	Enqueue(ctx context.Context, request events.Request) (inv orchestrator.Invocation, found bool, err error)
	// EnqueueAll queues all requests or none.
	EnqueueAll(ctx context.Context, requests []events.Request) ([]events.Queued, error)
	Invocation(ctx context.Context, id string) (orchestrator.Invocation, []byte, error)
	// Wait returns when the invocation has ended, or ctx.
	Wait(ctx context.Context, id string) error
	List(ctx context.Context, filter events.Filter) ([]orchestrator.Invocation, error)
	Cancel(ctx context.Context, id string) (orchestrator.Invocation, error)
	Retry(ctx context.Context, id string) (orchestrator.Invocation, error)
	Drop(ctx context.Context, id string) error
}

// asyncPrefix is where functions are called asynchronously.
const asyncPrefix = "/async/"

// invokeAsync queues a call.
func (s *Server) invokeAsync(w http.ResponseWriter, r *http.Request) error {
	functions, err := s.stages(r)
	if err != nil {
		return err
	}
	f := functions[0]
	request, err := asyncRequest(r, f.Name)
	if err != nil {
		return err
	}
	for _, next := range functions[1:] {
		request.Then = append(request.Then, next.Name)
	}
	if request.Body, err = io.ReadAll(http.MaxBytesReader(w, r.Body, asyncLimit(f))); err != nil {
		return err
	}
	inv, found, err := s.Async.Enqueue(r.Context(), request)
	if err != nil {
		return err
	}
	if found {
		w.Header().Set(api.HeaderReplayed, "true")
	}
	w.Header().Set("Location", "/v1/invocations/"+inv.ID)
	return writeJSON(w, http.StatusAccepted, asyncInvocation(inv, nil))
}

// admitted returns the function that the path names if the caller may invoke it.
func (s *Server) admitted(r *http.Request) (orchestrator.Function, error) { return s.admit(r, name(r)) }

// admit returns a function if the caller may invoke it.
func (s *Server) admit(r *http.Request, name string) (orchestrator.Function, error) {
	f, err := s.Functions.Function(r.Context(), name)
	if err != nil || !f.Spec.Guarded() {
		return f, err
	}
	if s.Guard == nil {
		return f, errNoGuard
	}
	return f, s.Guard.Admit(&f.Spec, r.Header.Get("Authorization"))
}

// asyncLimit bounds the body of a call that is queued for a function.
func asyncLimit(f orchestrator.Function) int64 {
	if own := int64(f.Spec.MaxRequest); own > 0 {
		return min(events.MaxCall, own)
	}
	return events.MaxCall
}

// asyncRequest reads what the headers and the path say of a call.
func asyncRequest(r *http.Request, function string) (events.Request, error) {
	request := events.Request{
		Function: function, Path: asyncPath(r), Header: asyncHeader(r),
		CallbackURL: r.Header.Get(api.HeaderCallback), OrderingKey: r.Header.Get(api.HeaderOrderingKey),
		IdempotencyKey: r.Header.Get(api.HeaderIdempotencyKey),
	}
	if request.CallbackURL != "" {
		if err := events.CheckCallback(request.CallbackURL); err != nil {
			return request, problem.WithStatus(http.StatusBadRequest, err)
		}
	}
	var err error
	request.NotBefore, err = notBefore(r.Header, time.Now())
	return request, err
}

// notBefore reads when a call is to be made; zero for at once.
func notBefore(header http.Header, now time.Time) (time.Time, error) {
	delay, at := header.Get(api.HeaderDelay), header.Get(api.HeaderNotBefore)
	switch {
	case delay != "" && at != "":
		return time.Time{}, problem.Header(api.HeaderDelay, delay, "give either that or "+api.HeaderNotBefore)
	case delay != "":
		if seconds, err := strconv.ParseUint(delay, 10, 31); err == nil {
			return now.Add(time.Duration(seconds) * time.Second), nil
		}
		d, err := time.ParseDuration(delay)
		if err != nil || d < 0 {
			return time.Time{}, problem.Header(api.HeaderDelay, delay, "send a duration such as 90s or 1h30m")
		}
		return now.Add(d), nil
	case at != "":
		if ms, err := strconv.ParseInt(at, 10, 64); err == nil && ms > 0 {
			return time.UnixMilli(ms), nil
		}
		t, err := time.Parse(time.RFC3339Nano, at)
		if err != nil {
			return time.Time{}, problem.Header(api.HeaderNotBefore, at, "send milliseconds since 1970, or an RFC 3339 time such as 2026-01-31T12:00:00Z")
		}
		return t, nil
	}
	return time.Time{}, nil
}

// asyncPath returns the path and query that the function will see, as a
// synchronous caller's would be.
func asyncPath(r *http.Request) string {
	_, path, _ := strings.Cut(strings.TrimPrefix(r.URL.EscapedPath(), asyncPrefix), "/")
	path = "/" + path
	if r.URL.RawQuery != "" || r.URL.ForceQuery {
		path += "?" + strings.ReplaceAll(r.URL.RawQuery, " ", "%20")
	}
	return path
}

// connectionFields belong to the caller's connection and end with it.
var connectionFields = []string{
	"Connection", "Keep-Alive", "Proxy-Connection", "Proxy-Authenticate", "Proxy-Authorization", "Te", "Trailer", "Transfer-Encoding", "Upgrade",
	"Expect", "Content-Length",
}

// asyncHeader returns the fields that are kept for the function.
func asyncHeader(r *http.Request) http.Header {
	header := r.Header.Clone()
	for _, line := range header["Connection"] {
		for name := range strings.SplitSeq(line, ",") {
			header.Del(strings.TrimSpace(name))
		}
	}
	for _, name := range connectionFields {
		header.Del(name)
	}
	// The platform's own tokens are neither the function's affair nor the disk's.
	header["Authorization"] = slices.DeleteFunc(header["Authorization"], auth.Shows)
	for name := range header {
		if len(header[name]) == 0 || strings.HasPrefix(name, "Kiln-") { // said to the gateway, and by it
			delete(header, name)
		}
	}
	if peer, _, err := net.SplitHostPort(r.RemoteAddr); err == nil {
		header.Add("X-Forwarded-For", peer)
	}
	if header.Get("X-Forwarded-Host") == "" && r.Host != "" {
		header.Set("X-Forwarded-Host", r.Host)
	}
	return header
}

// InvokeAsync returns how the queue makes its attempts: as calls from within
// the process, on the path of all others.
func InvokeAsync(handler *proxy.Handler) func(ctx context.Context, call events.Call) events.Answer {
	return func(ctx context.Context, call events.Call) events.Answer {
		inv := call.Invocation
		r, err := http.NewRequestWithContext(ctx, http.MethodPost, proxy.Prefix+inv.Function+inv.Path, strings.NewReader(string(call.Body)))
		if err != nil {
			return events.Answer{Err: orchestrator.Errorf(orchestrator.ErrInvalid, "path-invalid", "the path of the call is none: %w", err)}
		}
		if inv.Header != nil {
			r.Header = inv.Header.Clone()
		}
		r.Header.Set(api.HeaderRequestID, inv.ID)
		r.Host = inv.Function
		r.RemoteAddr = "127.0.0.1:0"
		reply := handler.Do(r, events.MaxResult)
		return events.Answer{
			Status: reply.Status, Header: reply.Header, Body: reply.Body, Truncated: reply.Truncated, Revision: reply.Revision, Err: reply.Err,
		}
	}
}

// rest is the pattern of a path's end, to its end.
const rest = "{path:.*}"

// id returns the invocation that the path names.
func invocationID(r *http.Request) string { return mux.Vars(r)["id"] }
