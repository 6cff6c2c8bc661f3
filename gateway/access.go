package gateway

import (
	"context"
	"errors"
	"net/http"
	"strings"

	"github.com/kilnfaas/kiln/gateway/auth"
	"github.com/kilnfaas/kiln/orchestrator"
)

// errNoGuard is a gateway that was wired without one: it refuses everything.
var errNoGuard = errors.New("the gateway has no guard")

type callerKey struct{}

// callerOf returns who sent a request; nobody, who may nothing, where none was
// asked for.
func callerOf(r *http.Request) auth.Caller {
	caller, _ := r.Context().Value(callerKey{}).(auth.Caller)
	return caller
}

// Paths of what belongs to functions: callers that are bound to some of them have
// no business elsewhere. Handlers see to lists and uploads, which name none.
const (
	functionsPath  = "/v1/functions"
	functionPrefix = functionsPath + "/"
	uploadPath     = "/upload"
)

// authorize finds out who sent a request and refuses those who may not do what
// it asks. The request it returns knows its caller.
func (s *Server) authorize(r *http.Request, needs need) (*http.Request, error) {
	if needs == needNothing {
		return r, nil
	}
	if s.Guard == nil {
		return r, errNoGuard
	}
	caller, err := s.Guard.Identify(r.Header.Get("Authorization"))
	if err != nil {
		return r, err
	}
	r = r.WithContext(context.WithValue(r.Context(), callerKey{}, caller))
	if needs == needToken {
		return r, nil
	}
	if err := caller.May(needs); err != nil {
		return r, err
	}
	switch path := r.URL.Path; {
	case strings.HasPrefix(path, functionPrefix):
		return r, caller.For(name(r))
	case path != functionsPath && path != uploadPath && caller.Bound():
		return r, errBound
	}
	return r, nil
}

var errBound = orchestrator.Errorf(orchestrator.ErrDenied, "function-denied", "the token is for some functions only").
	WithHint("use one that is not bound to patterns of names")
