package main_test

import (
	"encoding/json"
	"io"
	"net/http"
	"time"

	"github.com/kilnfaas/kiln/gateway/api"
	"github.com/kilnfaas/kiln/orchestrator"
)

// Ids of the stub's invocations: one that succeeded and one that failed.
const (
	stubDone = "0198c0de-0000-7000-8000-000000000001"
	stubDead = "0198c0de-0000-7000-8000-000000000002"
)

func stubInvocation(id string) api.AsyncInvocation {
	inv := api.AsyncInvocation{Body: "the result"}
	inv.ID, inv.Function, inv.Status, inv.Path, inv.Tries = id, "hello", orchestrator.InvocationSucceeded, "/", 1
	inv.CreatedAt = time.Now().Add(-10 * time.Minute)
	inv.Attempts = []orchestrator.Attempt{{StartedAt: inv.CreatedAt, Duration: orchestrator.Duration(5 * time.Millisecond), Status: 200, Revision: "r1-aaaaaa", Counted: true}}
	inv.Result = &orchestrator.Result{Status: 200, Size: 10}
	if id == stubDead {
		inv.Status, inv.Error = orchestrator.InvocationFailed, "status 400"
		inv.BodyBase64, inv.Body = []byte("\xff"), ""
		inv.Attempts[0].Status, inv.Attempts[0].Error = 400, "status 400"
	}
	return inv
}

// stubAsync answers for asynchronous calls.
func stubAsync(mux *http.ServeMux) {
	list := func(ids ...string) api.InvocationList {
		l := api.InvocationList{Invocations: []api.AsyncInvocation{}}
		for _, id := range ids {
			l.Invocations = append(l.Invocations, stubInvocation(id))
		}
		return l
	}
	mux.HandleFunc("POST /async/{name}", func(w http.ResponseWriter, r *http.Request) {
		if !known(w, r) {
			return
		}
		inv := stubInvocation(stubDone)
		body, _ := io.ReadAll(r.Body)
		inv.Status, inv.Size, inv.Result, inv.Attempts = orchestrator.InvocationWaiting, int64(len(body)), nil, nil
		inv.IdempotencyKey, inv.OrderingKey = r.Header.Get(api.HeaderIdempotencyKey), r.Header.Get(api.HeaderOrderingKey)
		inv.CallbackURL = r.Header.Get(api.HeaderCallback)
		inv.Error = r.Header.Get(api.HeaderDelay)
		w.WriteHeader(http.StatusAccepted)
		answer(w, inv)
	})
	mux.HandleFunc("GET /v1/invocations", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("status") == "failed" {
			answer(w, list(stubDead))
			return
		}
		answer(w, list(stubDead, stubDone))
	})
	one := func(status orchestrator.InvocationStatus) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			id := r.PathValue("id")
			if id != stubDone && id != stubDead {
				problem(w, http.StatusNotFound, "invocation-unknown", "there is no invocation "+id, "kiln invocations ls shows those that are known")
				return
			}
			inv := stubInvocation(id)
			if status != "" {
				inv.Status = status
			}
			answer(w, inv)
		}
	}
	mux.HandleFunc("GET /v1/invocations/{id}", one(""))
	mux.HandleFunc("POST /v1/invocations/{id}/retry", one(orchestrator.InvocationWaiting))
	mux.HandleFunc("POST /v1/invocations/{id}/cancel", one(orchestrator.InvocationCanceled))
	mux.HandleFunc("GET /v1/functions/{name}/dead-letters", func(w http.ResponseWriter, _ *http.Request) { answer(w, list(stubDead)) })
	mux.HandleFunc("POST /v1/functions/{name}/dead-letters/replay", func(w http.ResponseWriter, r *http.Request) {
		var which api.DeadLetters
		if err := json.NewDecoder(r.Body).Decode(&which); err != nil {
			problem(w, http.StatusBadRequest, "request-malformed", err.Error(), "")
			return
		}
		answer(w, api.DeadLettersDone{Count: max(5*(1-len(which.IDs)), len(which.IDs))})
	})
	mux.HandleFunc("DELETE /v1/functions/{name}/dead-letters", func(w http.ResponseWriter, r *http.Request) {
		answer(w, api.DeadLettersDone{Count: len(r.URL.Query()["id"])})
	})
}
