package gateway

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/kilnfaas/kiln/gateway/api"
	"github.com/kilnfaas/kiln/gateway/problem"
	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/events"
)

const (
	// maxWait bounds how long GET /v1/invocations/{id} waits: what browsers and
	// load balancers commonly put up with.
	maxWait = time.Minute
	// defaultList and maxList bound one page of invocations.
	defaultList = 100
	maxList     = 1000
	// maxIDs bounds the body of a replay.
	maxIDs = 256 << 10
)

// asyncInvocation is the wire form of an invocation.
func asyncInvocation(inv orchestrator.Invocation, body []byte) api.AsyncInvocation {
	inv.Header = nil
	wire := api.AsyncInvocation{Invocation: inv}
	if utf8.Valid(body) {
		wire.Body = string(body)
	} else {
		wire.BodyBase64 = body
	}
	return wire
}

// mayFollow says whether a request's caller may see the invocations of a
// function, "" for all: those who may look, and those who may call it.
func mayFollow(r *http.Request, function string) error {
	caller := callerOf(r)
	if err := caller.May(reader); err != nil && caller.May(invoker) != nil {
		return err
	}
	if function == "" && caller.Bound() {
		return errBound
	}
	if function == "" {
		return nil
	}
	return caller.For(function)
}

// mayChange says whether a request's caller may have an invocation tried again or
// ended: those who may call its function.
func (s *Server) mayChange(r *http.Request) error {
	if err := callerOf(r).May(invoker); err != nil {
		return err
	}
	inv, _, err := s.Async.Invocation(r.Context(), invocationID(r))
	if err != nil {
		return err
	}
	return callerOf(r).For(inv.Function)
}

func (s *Server) getInvocation(w http.ResponseWriter, r *http.Request) error {
	if err := acceptJSON(r); err != nil {
		return err
	}
	var wait time.Duration
	if text := r.URL.Query().Get("wait"); text != "" {
		var err error
		if wait, err = time.ParseDuration(text); err != nil || wait < 0 || wait > maxWait {
			return problem.Parameter("wait", text, "give a duration of at most "+maxWait.String()+", for example 30s")
		}
	}
	inv, body, err := s.Async.Invocation(r.Context(), invocationID(r))
	if err == nil {
		err = mayFollow(r, inv.Function)
	}
	if err != nil {
		return err
	}
	if wait > 0 {
		ctx, cancel := context.WithTimeout(r.Context(), wait)
		defer cancel()
		defer context.AfterFunc(s.stopping, cancel)()
		if err := s.Async.Wait(ctx, inv.ID); err != nil {
			return err
		}
		if inv, body, err = s.Async.Invocation(r.Context(), inv.ID); err != nil {
			return err
		}
	}
	return writeJSON(w, http.StatusOK, asyncInvocation(inv, body))
}

func (s *Server) listInvocations(w http.ResponseWriter, r *http.Request) error {
	if err := mayFollow(r, r.URL.Query().Get("function")); err != nil {
		return err
	}
	return s.invocationPage(w, r, events.Filter{})
}

func (s *Server) listDeadLetters(w http.ResponseWriter, r *http.Request) error {
	return s.invocationPage(w, r, events.Filter{Function: name(r), Status: orchestrator.InvocationFailed})
}

// invocationPage answers with the invocations that filter and the parameters select.
func (s *Server) invocationPage(w http.ResponseWriter, r *http.Request, filter events.Filter) error {
	if err := acceptJSON(r); err != nil {
		return err
	}
	values := r.URL.Query()
	if function := values.Get("function"); function != "" {
		filter.Function = function
	}
	if status := values.Get("status"); status != "" {
		filter.Status = orchestrator.InvocationStatus(status)
		if !filter.Status.Ended() && filter.Status != orchestrator.InvocationWaiting && filter.Status != orchestrator.InvocationRunning {
			return problem.Parameter("status", status, "it is waiting, running, succeeded, failed or canceled")
		}
	}
	filter.Before, filter.Limit = values.Get("before"), defaultList
	if text := values.Get("limit"); text != "" {
		var err error
		if filter.Limit, err = strconv.Atoi(text); err != nil || filter.Limit < 1 || filter.Limit > maxList {
			return problem.Parameter("limit", text, "give a number from 1 to "+strconv.Itoa(maxList))
		}
	}
	found, err := s.Async.List(r.Context(), filter)
	if err != nil {
		return err
	}
	list := api.InvocationList{Invocations: make([]api.AsyncInvocation, len(found))}
	for i, inv := range found {
		list.Invocations[i] = asyncInvocation(inv, nil)
	}
	return writeJSON(w, http.StatusOK, list)
}

func (s *Server) retryInvocation(w http.ResponseWriter, r *http.Request) error {
	if err := s.mayChange(r); err != nil {
		return err
	}
	inv, err := s.Async.Retry(r.Context(), invocationID(r))
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, asyncInvocation(inv, nil))
}

func (s *Server) cancelInvocation(w http.ResponseWriter, r *http.Request) error {
	if err := s.mayChange(r); err != nil {
		return err
	}
	inv, err := s.Async.Cancel(r.Context(), invocationID(r))
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, asyncInvocation(inv, nil))
}

func (s *Server) replayDeadLetters(w http.ResponseWriter, r *http.Request) error {
	var which api.DeadLetters
	if err := readJSON(w, r, maxIDs, &which); err != nil {
		return err
	}
	return s.eachDeadLetter(w, r, which.IDs, func(ctx context.Context, id string) error {
		_, err := s.Async.Retry(ctx, id)
		return err
	})
}

func (s *Server) dropDeadLetters(w http.ResponseWriter, r *http.Request) error {
	return s.eachDeadLetter(w, r, r.URL.Query()["id"], s.Async.Drop)
}

// eachDeadLetter does something to the named dead letters of a function, or to
// all, and answers with their number.
func (s *Server) eachDeadLetter(w http.ResponseWriter, r *http.Request, ids []string, act func(context.Context, string) error) error {
	if err := acceptJSON(r); err != nil {
		return err
	}
	done := 0
	named := len(ids) > 0
	for before := ""; ; {
		if !named {
			page, err := s.Async.List(r.Context(), events.Filter{Function: name(r), Status: orchestrator.InvocationFailed, Before: before, Limit: maxList})
			if err != nil {
				return err
			}
			for _, inv := range page {
				ids = append(ids, inv.ID)
				before = inv.ID
			}
		}
		for id := range slices.Values(ids) {
			if named {
				inv, _, err := s.Async.Invocation(r.Context(), id)
				if err != nil {
					return err
				}
				if inv.Function != name(r) || inv.Status != orchestrator.InvocationFailed {
					return orchestrator.Errorf(orchestrator.ErrConflict, "no-dead-letter", "invocation %.64q is no dead letter of %s", id, name(r)).
						WithHint("kiln dlq ls %s shows those there are", name(r))
				}
			}
			err := act(r.Context(), id)
			gone := errors.Is(err, orchestrator.ErrNotFound) || errors.Is(err, orchestrator.ErrConflict)
			if err != nil && (named || !gone) {
				return err
			}
			if err == nil {
				done++
			}
		}
		if named || len(ids) == 0 {
			return writeJSON(w, http.StatusOK, api.DeadLettersDone{Count: done})
		}
		ids = nil
	}
}
