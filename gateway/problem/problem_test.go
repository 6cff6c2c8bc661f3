package problem_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kilnfaas/kiln/gateway/api"
	"github.com/kilnfaas/kiln/gateway/problem"
	"github.com/kilnfaas/kiln/orchestrator"
)

func TestStatusAndFault(t *testing.T) {
	of := func(class error, code string) error { return orchestrator.Errorf(class, code, "detail") }
	tests := []struct {
		name   string
		err    error
		status int
		fault  string
	}{
		{"not found", of(orchestrator.ErrNotFound, "x"), 404, "platform"},
		{"conflict", of(orchestrator.ErrConflict, "x"), 409, "platform"},
		{"invalid", of(orchestrator.ErrInvalid, "x"), 422, "platform"},
		{"too large", of(orchestrator.ErrTooLarge, "x"), 413, "platform"},
		{"unavailable", of(orchestrator.ErrUnavailable, "x"), 503, "platform"},
		{"queue full", of(orchestrator.ErrExhausted, "queue-full"), 429, "platform"},
		{"no capacity", of(orchestrator.ErrExhausted, problem.CodeNoCapacity), 503, "platform"},
		{"deadline", of(orchestrator.ErrDeadline, "x"), 504, "platform"},
		{"deadline while the function worked", &orchestrator.Error{Class: orchestrator.ErrDeadline, Code: "x", Detail: "late", Cause: orchestrator.ErrFunction}, 504, "function"},
		{"function", of(orchestrator.ErrFunction, "x"), 502, "function"},
		{"function whose cause is a deadline", &orchestrator.Error{Class: orchestrator.ErrFunction, Code: "x", Detail: "died", Cause: orchestrator.ErrDeadline}, 502, "function"},
		{"wrapped", fmt.Errorf("deploy: %w", of(orchestrator.ErrConflict, "x")), 409, "platform"},
		{"bare class", fmt.Errorf("store: %w", orchestrator.ErrUnavailable), 503, "platform"},
		{"forced", problem.WithStatus(418, of(orchestrator.ErrFunction, "x")), 418, "function"},
		{"forced and wrapped", fmt.Errorf("deploy: %w", problem.WithStatus(422, of(orchestrator.ErrFunction, "x"))), 422, "function"},
		{"body over the limit", fmt.Errorf("read: %w", &http.MaxBytesError{Limit: 1 << 20}), 413, "platform"},
		{"client gone", context.Canceled, 499, "platform"},
		{"own deadline", context.DeadlineExceeded, 504, "platform"},
		{"defect", errors.New("nil map"), 500, "platform"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := problem.Status(tt.err); got != tt.status {
				t.Errorf("Status = %d, want %d", got, tt.status)
			}
			document := problem.Document(tt.err, "id")
			if document.Status != tt.status || document.Fault != tt.fault {
				t.Errorf("Document has status %d and fault %q, want %d and %q", document.Status, document.Fault, tt.status, tt.fault)
			}
			if document.Title == "" || document.Detail == "" || document.Code == "" || document.Type != "urn:kiln:error:"+document.Code {
				t.Errorf("Document is not complete: %+v", document)
			}
			if got, want := problem.Defect(tt.err), tt.status == 500; got != want {
				t.Errorf("Defect = %v, want %v", got, want)
			}
		})
	}
}

func TestDefectKeepsItsTextToItself(t *testing.T) {
	body := string(problem.Encode(problem.Document(errors.New("password=hunter2"), "id")))
	if strings.Contains(body, "hunter2") {
		t.Errorf("the answer gives the cause away: %s", body)
	}
	cause := &orchestrator.Error{Class: orchestrator.ErrUnavailable, Code: "store", Detail: "the store does not answer", Cause: errors.New("dial 10.0.0.1")}
	if body := string(problem.Encode(problem.Document(cause, "id"))); strings.Contains(body, "10.0.0.1") {
		t.Errorf("the answer gives the cause away: %s", body)
	}
}

func TestWrite(t *testing.T) {
	err := &orchestrator.Error{
		Class: orchestrator.ErrExhausted, Code: "queue-full", Detail: "the queue of \"a\" is full",
		Hint: "raise scale.max", Output: []string{"one", "two"}, RetryAfter: 1200 * time.Millisecond,
	}
	recorder := httptest.NewRecorder()
	recorder.Header().Set("Content-Encoding", "gzip")
	request := httptest.NewRequest("GET", "/invoke/a", nil)
	request.Header.Set(api.HeaderRequestID, "mine")
	problem.Write(recorder, request, err)

	response := recorder.Result()
	want := map[string]string{
		"Content-Type": "application/problem+json", "Retry-After": "2", "Kiln-Error": "platform",
		"Kiln-Request-Id": "mine", "Content-Encoding": "", "Cache-Control": "no-store",
	}
	for key, value := range want {
		if got := response.Header.Get(key); got != value {
			t.Errorf("%s = %q, want %q", key, got, value)
		}
	}
	if response.StatusCode != 429 {
		t.Errorf("status = %d, want 429", response.StatusCode)
	}
	var got map[string]any
	if err := json.NewDecoder(response.Body).Decode(&got); err != nil {
		t.Fatal(err)
	}
	document := map[string]any{
		"type": "urn:kiln:error:queue-full", "title": "Too Many Requests", "status": 429.0, "code": "queue-full",
		"detail": "the queue of \"a\" is full", "instance": "urn:kiln:request:mine", "request_id": "mine",
		"hint": "raise scale.max", "output": []any{"one", "two"}, "fault": "platform", "retry_after": "1.2s",
	}
	if diff := cmp.Diff(document, got); diff != "" {
		t.Errorf("document (-want +got):\n%s", diff)
	}
}

func TestWriteUsesTheIdOfTheAnswer(t *testing.T) {
	recorder := httptest.NewRecorder()
	recorder.Header().Set(api.HeaderRequestID, "of-the-answer")
	problem.Write(recorder, httptest.NewRequest("GET", "/", nil), problem.MethodNotAllowed("PUT", "/v1/functions", []string{"GET", "HEAD"}))
	if got := recorder.Header().Get(api.HeaderRequestID); got != "of-the-answer" {
		t.Errorf("request id = %q, want the one that was set", got)
	}
	if recorder.Code != 405 || recorder.Header().Get("Allow") != "GET, HEAD" {
		t.Errorf("status %d, Allow %q; want 405 with GET, HEAD", recorder.Code, recorder.Header().Get("Allow"))
	}
}

func TestTooManyRequestsAlwaysSayWhenToRetry(t *testing.T) {
	recorder := httptest.NewRecorder()
	problem.Write(recorder, httptest.NewRequest("GET", "/", nil), orchestrator.Errorf(orchestrator.ErrExhausted, "queue-full", "full"))
	if got := recorder.Header().Get("Retry-After"); got != "1" {
		t.Errorf("Retry-After = %q, want 1", got)
	}
}

func TestRetryAfterRoundsUp(t *testing.T) {
	for d, want := range map[time.Duration]string{time.Millisecond: "1", time.Second: "1", 1001 * time.Millisecond: "2", time.Minute: "60"} {
		if got := problem.RetryAfter(d); got != want {
			t.Errorf("RetryAfter(%v) = %q, want %q", d, got, want)
		}
	}
}
