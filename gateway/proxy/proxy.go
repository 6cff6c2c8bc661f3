// Package proxy is the data plane: it takes an invocation from a client to an
// instance of its function and the answer back.
//
// There are two ways through it. Handler is the complete path, an http.Handler
// that copes with everything HTTP offers: HTTP/2, upgrades, trailers, streaming
// in both directions. Server is what clients connect to; it serves the common
// HTTP/1.1 call by itself and gives every other connection to an http.Server.
// Both follow the same rules, which headers.go, deadline.go and failure.go hold.
//
// An invocation is: look up the route, acquire a slot, send the request over a
// connection of the slot's instance, relay the answer, release the slot, count.
// A request is sent again only when no byte of it can have reached a function,
// or when its method is idempotent, it has no body and the instance closed the
// connection before it answered anything (RFC 9110, section 9.2.2).
package proxy

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/kilnfaas/kiln/gateway/problem"
)

// Prefix is the path under which functions are invoked.
const Prefix = "/invoke/"

// Handler is the complete path of the data plane, an http.Handler for
// /invoke/{name} and /invoke/{name}/*. It has no state of its own; its fields
// are set before the first request and not changed afterwards.
type Handler struct {
	// Routes finds functions by name.
	Routes Routes
	// Gate is asked about invocations of functions that are guarded. Without one
	// nobody invokes them.
	Gate Gate
	// Fail answers a request with an error that the platform or the function is
	// to blame for. It writes the whole answer; the headers that every
	// invocation carries are already set.
	Fail func(w http.ResponseWriter, r *http.Request, err error)
	// Observe counts a finished invocation; may be nil. The code is the status
	// sent, or problem.StatusClientGone.
	Observe func(name string, code int, queue, start, function time.Duration)
}

// maxAttempts bounds how many instances one invocation tries. Each failed dial
// removes an instance from its pool, so that more would only hide a function
// that cannot be reached at all.
const maxAttempts = 5

// maxRepeats bounds how often a request is sent again that a function may have
// received: one that kills whoever gets it must not go through all of them.
const maxRepeats = 2

// ServeHTTP forwards one invocation.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	arrived := time.Now()
	name, target, ok := splitTarget(r.URL.EscapedPath())
	if !ok {
		h.Fail(w, r, problem.RouteUnknown(r.URL.Path))
		return
	}
	if r.URL.RawQuery != "" || r.URL.ForceQuery {
		// HTTP/2 lets a space through, which would end the target of HTTP/1.1.
		target += "?" + strings.ReplaceAll(r.URL.RawQuery, " ", "%20")
	}
	c := &call{h: h, w: w, r: r, rc: http.NewResponseController(w), name: name, target: target, arrived: arrived}
	c.identify()
	route := h.Routes.Lookup(name)
	if route == nil {
		c.fail(errUnknown(name))
		return
	}
	c.lead(route)
	spec := &route.Release.Spec
	if spec.CORS.On() && c.preflight(&spec.CORS) {
		return
	}
	if spec.Guarded() {
		if err := h.admit(spec, r.Header.Get("Authorization")); err != nil {
			c.fail(err)
			return
		}
	}
	if err := c.bound(route); err != nil {
		c.fail(err)
		return
	}
	ctx, cancel := context.WithDeadline(r.Context(), c.deadline)
	defer cancel()
	c.ctx = ctx
	c.run(route)
}

// splitTarget takes the function's name off an escaped path and returns the
// path that the function sees.
func splitTarget(path string) (name, rest string, ok bool) {
	path, ok = strings.CutPrefix(path, Prefix)
	if !ok {
		return "", "", false
	}
	i := strings.IndexByte(path, '/')
	switch {
	case i < 0:
		return path, "/", path != ""
	default:
		return path[:i], path[i:], i > 0
	}
}
