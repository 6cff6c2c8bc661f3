package gateway

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"

	"github.com/gorilla/mux"

	"github.com/kilnfaas/kiln/gateway/api"
	"github.com/kilnfaas/kiln/orchestrator"
)

// Triggers are the use cases of triggers; *trigger.Engine has them.
type Triggers interface {
	Check(t orchestrator.Trigger) error
	List(function string) []orchestrator.TriggerStatus
	Trigger(function, trigger string) (orchestrator.TriggerStatus, error)
	Pause(ctx context.Context, function, trigger string) (orchestrator.TriggerStatus, error)
	Resume(ctx context.Context, function, trigger string) (orchestrator.TriggerStatus, error)
	Test(ctx context.Context, function, trigger string) (orchestrator.Invocation, error)
	// Listens says whether Receive would take a request at all.
	Listens(id string) error
	Receive(ctx context.Context, id string, request orchestrator.Incoming) (orchestrator.Reply, error)
}

// hooksPrefix is where requests to triggers go.
const hooksPrefix = "/hooks/"

// triggerName returns the trigger that the path names.
func triggerName(r *http.Request) string {
	escaped := mux.Vars(r)["trigger"]
	name, err := url.PathUnescape(escaped)
	if err != nil {
		return escaped // no name either
	}
	return name
}

// shownTrigger is the wire form of a trigger: whoever knows the address can send,
// so it is for those who may set triggers up.
func shownTrigger(r *http.Request, status orchestrator.TriggerStatus) orchestrator.TriggerStatus {
	if callerOf(r).May(deployer) != nil {
		status.Address = ""
	}
	return status
}

func (s *Server) listTriggers(w http.ResponseWriter, r *http.Request) error {
	if err := acceptJSON(r); err != nil {
		return err
	}
	function := name(r)
	if function != "" {
		if _, err := s.Functions.Function(r.Context(), function); err != nil {
			return err
		}
	}
	list := api.TriggerList{Triggers: []orchestrator.TriggerStatus{}}
	if s.Triggers != nil {
		for _, status := range s.Triggers.List(function) {
			list.Triggers = append(list.Triggers, shownTrigger(r, status))
		}
	}
	return writeJSON(w, http.StatusOK, list)
}

// errNoTriggers is a gateway without an engine of triggers.
var errNoTriggers = orchestrator.Errorf(orchestrator.ErrNotFound, "trigger-unknown", "this gateway runs no triggers")

// changeTrigger answers with a trigger after doing something to it.
func (s *Server) changeTrigger(act func(Triggers, *http.Request) (orchestrator.TriggerStatus, error)) handlerFunc {
	return func(w http.ResponseWriter, r *http.Request) error {
		if err := acceptJSON(r); err != nil {
			return err
		}
		if s.Triggers == nil {
			return errNoTriggers
		}
		status, err := act(s.Triggers, r)
		if err != nil {
			return err
		}
		return writeJSON(w, http.StatusOK, shownTrigger(r, status))
	}
}

func (s *Server) getTrigger() handlerFunc {
	return s.changeTrigger(func(t Triggers, r *http.Request) (orchestrator.TriggerStatus, error) {
		return t.Trigger(name(r), triggerName(r))
	})
}

func (s *Server) pauseTrigger() handlerFunc {
	return s.changeTrigger(func(t Triggers, r *http.Request) (orchestrator.TriggerStatus, error) {
		return t.Pause(r.Context(), name(r), triggerName(r))
	})
}

func (s *Server) resumeTrigger() handlerFunc {
	return s.changeTrigger(func(t Triggers, r *http.Request) (orchestrator.TriggerStatus, error) {
		return t.Resume(r.Context(), name(r), triggerName(r))
	})
}

// testTrigger queues an event as the trigger would deliver it.
func (s *Server) testTrigger(w http.ResponseWriter, r *http.Request) error {
	if err := acceptJSON(r); err != nil {
		return err
	}
	if s.Triggers == nil {
		return errNoTriggers
	}
	inv, err := s.Triggers.Test(r.Context(), name(r), triggerName(r))
	if err != nil {
		return err
	}
	w.Header().Set("Location", "/v1/invocations/"+inv.ID)
	return writeJSON(w, http.StatusAccepted, asyncInvocation(inv, nil))
}

// receiveHook takes a request to a trigger in. The address is the right to send;
// the trigger may want a signature besides.
func (s *Server) receiveHook(w http.ResponseWriter, r *http.Request) error {
	if s.Triggers == nil {
		return errNoTriggers
	}
	id, path, below := strings.Cut(strings.TrimPrefix(r.URL.EscapedPath(), hooksPrefix), "/")
	if err := s.Triggers.Listens(id); err != nil {
		return err
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, orchestrator.MaxEventData))
	if err != nil {
		return err
	}
	if below {
		path = "/" + path
	}
	if r.URL.RawQuery != "" {
		path += "?" + r.URL.RawQuery
	}
	incoming := orchestrator.Incoming{Method: r.Method, Path: path, Header: r.Header, Body: body, Peer: r.RemoteAddr}
	if host, _, err := net.SplitHostPort(r.RemoteAddr); err == nil {
		incoming.Peer = host
	}
	reply, err := s.Triggers.Receive(r.Context(), id, incoming)
	if err != nil {
		return err
	}
	if reply.ContentType == "" {
		w.WriteHeader(reply.Status)
		return nil
	}
	return writeBody(w, reply.Status, reply.ContentType, reply.Body)
}
