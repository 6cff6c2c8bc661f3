package main_test

import (
	"net/http"
	"time"

	"github.com/kilnfaas/kiln/gateway/api"
	"github.com/kilnfaas/kiln/orchestrator"
)

// stubTriggers answers for triggers: one that is well and one that is not.
func stubTriggers(mux *http.ServeMux) {
	nightly := func() orchestrator.TriggerStatus {
		now := time.Now()
		return orchestrator.TriggerStatus{
			Function: "hello", Trigger: orchestrator.Trigger{Name: "nightly", Type: "schedule", Settings: orchestrator.Settings{"cron": "0 3 * * *"}},
			Phase: orchestrator.TriggerRunning, Delivered: 3, LastEventAt: now.Add(-10 * time.Minute), LastEventID: "2026-01-01T03:00:00Z",
			Next: now.Add(3*time.Hour + time.Minute), Since: now.Add(-time.Hour),
		}
	}
	rows := func() orchestrator.TriggerStatus {
		now := time.Now()
		return orchestrator.TriggerStatus{
			Function: "hello", Trigger: orchestrator.Trigger{Name: "rows", Type: "postgres", Settings: orchestrator.Settings{"tables": []any{"a", "b"}}},
			Phase: orchestrator.TriggerRetrying, Delivered: 7, Dropped: 1, Errors: 2, Failing: true, LastError: "the database is away\nmore", LastErrorAt: now.Add(-10 * time.Minute),
			RetryAt: now.Add(10*time.Minute + time.Second), Pending: 12, Lag: orchestrator.Duration(5 * time.Minute), Address: "/hooks/ID",
		}
	}
	mux.HandleFunc("GET /v1/triggers", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, api.TriggerList{Triggers: []orchestrator.TriggerStatus{nightly(), rows()}})
	})
	mux.HandleFunc("GET /v1/functions/{name}/triggers", func(w http.ResponseWriter, r *http.Request) {
		if known(w, r) {
			answer(w, api.TriggerList{Triggers: []orchestrator.TriggerStatus{nightly(), rows()}})
		}
	})
	find := func(w http.ResponseWriter, r *http.Request) (orchestrator.TriggerStatus, bool) {
		switch r.PathValue("trigger") {
		case "nightly":
			return nightly(), true
		case "rows":
			return rows(), true
		}
		problem(w, http.StatusNotFound, "trigger-unknown", "there is no trigger "+r.PathValue("trigger"), "kiln triggers ls shows those there are")
		return orchestrator.TriggerStatus{}, false
	}
	for path, phase := range map[string]orchestrator.TriggerPhase{
		"GET /v1/functions/{name}/triggers/{trigger}": "", "POST /v1/functions/{name}/triggers/{trigger}/pause": orchestrator.TriggerPaused,
		"POST /v1/functions/{name}/triggers/{trigger}/resume": orchestrator.TriggerStarting,
	} {
		mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
			if s, ok := find(w, r); ok {
				if phase != "" {
					s.Phase = phase
				}
				answer(w, s)
			}
		})
	}
	mux.HandleFunc("POST /v1/functions/{name}/triggers/{trigger}/test", func(w http.ResponseWriter, r *http.Request) {
		if _, ok := find(w, r); ok {
			w.WriteHeader(http.StatusAccepted)
			answer(w, stubInvocation(stubDone))
		}
	})
}
