package gateway

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/kilnfaas/kiln/docs"
	"github.com/kilnfaas/kiln/gateway/api"
	"github.com/kilnfaas/kiln/gateway/problem"
	"github.com/kilnfaas/kiln/orchestrator"
)

// checkTimeout bounds a check: whoever asks for readiness asks every few seconds.
const checkTimeout = 2 * time.Second

// healthz tells that the process answers, and nothing about what it needs: a
// restart would not bring that back.
func (s *Server) healthz(w http.ResponseWriter, _ *http.Request) error {
	return writeJSON(w, http.StatusOK, api.Health{Status: "ok"})
}

// readyz tells whether functions can be deployed and invoked.
func (s *Server) readyz(w http.ResponseWriter, r *http.Request) error {
	if s.stopping.Err() != nil {
		return errStopping
	}
	ctx, cancel := context.WithTimeout(r.Context(), checkTimeout)
	defer cancel()
	failures := make([]error, len(s.Checks))
	var running sync.WaitGroup
	for i, check := range s.Checks {
		running.Go(func() { failures[i] = check.Ready(ctx) })
	}
	running.Wait()
	names := make([]string, len(s.Checks))
	var failed []string
	for i, check := range s.Checks {
		names[i] = check.Name
		if failures[i] != nil {
			failed = append(failed, check.Name)
		}
	}
	if len(failed) == 0 {
		return writeJSON(w, http.StatusOK, api.Readiness{Status: "ready", Checks: names})
	}
	return &orchestrator.Error{
		Class: orchestrator.ErrUnavailable, Code: problem.CodeNotReady, Cause: errors.Join(failures...),
		Detail:     "not ready: " + strings.Join(failed, ", "),
		Hint:       cmp.Or(firstHint(failures), "kiln doctor says what to do"),
		RetryAfter: checkTimeout,
	}
}

// firstHint returns the next step that one of the failures names.
func firstHint(failures []error) string {
	for _, failure := range failures {
		if known, ok := errors.AsType[*orchestrator.Error](failure); ok && known.Hint != "" {
			return known.Hint
		}
	}
	return ""
}

func (s *Server) version(w http.ResponseWriter, r *http.Request) error {
	if err := acceptJSON(r); err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, s.Version)
}

// metrics answers scrapes in the formats Prometheus asks for.
func (s *Server) metrics() handlerFunc {
	handler := s.Metrics.Handler(s.Log)
	return func(w http.ResponseWriter, r *http.Request) error {
		handler.ServeHTTP(w, r)
		return nil
	}
}

func (s *Server) openapi(w http.ResponseWriter, _ *http.Request) error {
	return writeBody(w, http.StatusOK, api.MediaYAML, docs.OpenAPI)
}
