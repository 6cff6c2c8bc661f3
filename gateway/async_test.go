package gateway_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kilnfaas/kiln/gateway/api"
	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/events"
	"github.com/kilnfaas/kiln/orchestrator/queuetest"
)

// oneFleet has a slot for everybody.
type oneFleet struct{}

func (oneFleet) Slots(string) int    { return 8 }
func (oneFleet) Backlog(string, int) {}

// noAsync knows no invocation.
type noAsync struct{}

var errNoInvocation = orchestrator.Errorf(orchestrator.ErrNotFound, "invocation-unknown", "there is no such invocation")

func (noAsync) Enqueue(context.Context, events.Request) (inv orchestrator.Invocation, found bool, err error) {
	return inv, false, errNoInvocation
}

func (noAsync) EnqueueAll(context.Context, []events.Request) ([]events.Queued, error) {
	return nil, errNoInvocation
}

func (noAsync) Invocation(context.Context, string) (inv orchestrator.Invocation, body []byte, err error) {
	return inv, nil, errNoInvocation
}

func (noAsync) Wait(context.Context, string) error { return errNoInvocation }

func (noAsync) List(context.Context, events.Filter) ([]orchestrator.Invocation, error) {
	return nil, nil
}

func (noAsync) Cancel(context.Context, string) (inv orchestrator.Invocation, err error) {
	return inv, errNoInvocation
}

func (noAsync) Retry(context.Context, string) (inv orchestrator.Invocation, err error) {
	return inv, errNoInvocation
}

func (noAsync) Drop(context.Context, string) error { return errNoInvocation }

// asyncFixture is a gateway with a real queue on a journal in memory. Functions
// answer with their call; a body that is a number is the status.
type asyncFixture struct {
	*fixture
	journal *queuetest.Fake

	mu   sync.Mutex
	last events.Call
}

func newAsync(t *testing.T, config events.Config, names ...string) *asyncFixture {
	t.Helper()
	f := &asyncFixture{fixture: newFixture(t, names...), journal: queuetest.NewFake()}
	config.Journal, config.Functions, config.Fleet = f.journal, f.functions, oneFleet{}
	config.Invoke = func(_ context.Context, call events.Call) events.Answer {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.last = call
		status := 200
		fmt.Sscan(string(call.Body), &status)
		return events.Answer{Status: status, Header: http.Header{"Content-Type": {"text/plain"}}, Body: call.Body, Revision: "r1"}
	}
	queue := events.New(config)
	if err := queue.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := queue.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	f.Async = queue
	return f
}

func (r reply) invocation(t *testing.T, status int) (inv api.AsyncInvocation) {
	t.Helper()
	if r.status != status {
		t.Fatalf("status %d, want %d: %s", r.status, status, r.body)
	}
	if err := json.Unmarshal([]byte(r.body), &inv); err != nil {
		t.Fatal(err)
	}
	return inv
}

func TestAsyncCall(t *testing.T) {
	f := newAsync(t, events.Config{}, "a")
	got := f.call(t, "POST", "/async/a/x%20y?q=1", "hello", "X-Test", "1", "Kiln-Deadline", "99", "Connection", "X-Hop", "X-Hop", "1")
	inv := got.invocation(t, http.StatusAccepted)
	if location := got.header.Get("Location"); location != "/v1/invocations/"+inv.ID {
		t.Errorf("Location %q", location)
	}
	end := f.call(t, "GET", "/v1/invocations/"+inv.ID+"?wait=10s", "").invocation(t, http.StatusOK)
	if end.Status != orchestrator.InvocationSucceeded || end.Body != "hello" || end.Result.Status != 200 || end.Header != nil {
		t.Errorf("invocation %+v", end)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	header := f.last.Invocation.Header
	if f.last.Invocation.Path != "/x%20y?q=1" || header.Get("X-Test") != "1" || header.Get("Kiln-Deadline") != "" || header.Get("X-Hop") != "" || header.Get("X-Forwarded-For") == "" {
		t.Errorf("the function got %+v", f.last.Invocation)
	}
}

func TestAsyncBinaryResult(t *testing.T) {
	f := newAsync(t, events.Config{}, "a")
	inv := f.call(t, "POST", "/async/a", "\xff\x00").invocation(t, http.StatusAccepted)
	end := f.call(t, "GET", "/v1/invocations/"+inv.ID+"?wait=10s", "").invocation(t, http.StatusOK)
	if end.Body != "" || string(end.BodyBase64) != "\xff\x00" {
		t.Errorf("result %q, %q", end.Body, end.BodyBase64)
	}
}

func TestAsyncRefusals(t *testing.T) {
	f := newAsync(t, events.Config{Depth: 1}, "a")
	for _, test := range []struct {
		name, target, body string
		headers            []string
		status             int
	}{
		{"unknown function", "/async/nobody", "", nil, 404},
		{"too large", "/async/a", strings.Repeat("x", events.MaxCall+1), nil, 413},
		{"callback", "/async/a", "", []string{api.HeaderCallback, "file:///etc/passwd"}, 400},
		{"delay", "/async/a", "", []string{api.HeaderDelay, "soon"}, 400},
		{"negative delay", "/async/a", "", []string{api.HeaderDelay, "-1s"}, 400},
		{"time", "/async/a", "", []string{api.HeaderNotBefore, "noon"}, 400},
		{"both", "/async/a", "", []string{api.HeaderDelay, "1s", api.HeaderNotBefore, "2030-01-01T00:00:00Z"}, 400},
		{"too far ahead", "/async/a", "", []string{api.HeaderDelay, "90000h"}, 422},
		{"key", "/async/a", "", []string{api.HeaderIdempotencyKey, strings.Repeat("k", 257)}, 422},
		{"a first one", "/async/a", "", []string{api.HeaderDelay, "1h"}, 202},
		{"full", "/async/a", "", nil, 429},
	} {
		if got := f.call(t, "POST", test.target, test.body, test.headers...); got.status != test.status {
			t.Errorf("%s: %d %s, want %d", test.name, got.status, got.body, test.status)
		}
	}
	for _, target := range []string{"/v1/invocations/nobody", "/v1/invocations/nobody?wait=1s"} {
		if got := f.call(t, "GET", target, ""); got.status != 404 {
			t.Errorf("%s: %d", target, got.status)
		}
	}
	for _, target := range []string{"/v1/invocations/x?wait=2h", "/v1/invocations/x?wait=x", "/v1/invocations?status=lost", "/v1/invocations?limit=0", "/v1/invocations?x=1"} {
		if got := f.call(t, "GET", target, ""); got.status != 400 {
			t.Errorf("%s: %d", target, got.status)
		}
	}
	f.journal.Fail(orchestrator.Errorf(orchestrator.ErrExhausted, "store-full", "the disk is full"))
	g := newAsync(t, events.Config{}, "a")
	g.journal.Fail(orchestrator.Errorf(orchestrator.ErrExhausted, "store-full", "the disk is full"))
	if got := g.call(t, "POST", "/async/a", ""); got.status != 503 {
		t.Errorf("a full disk: %d %s", got.status, got.body)
	}
}

func TestAsyncIdempotency(t *testing.T) {
	f := newAsync(t, events.Config{}, "a")
	first := f.call(t, "POST", "/async/a", "1", api.HeaderIdempotencyKey, "k", api.HeaderDelay, "1h")
	again := f.call(t, "POST", "/async/a", "2", api.HeaderIdempotencyKey, "k")
	if first.header.Get(api.HeaderReplayed) != "" || again.header.Get(api.HeaderReplayed) != "true" ||
		first.invocation(t, 202).ID != again.invocation(t, 202).ID {
		t.Errorf("first %s, again %s", first.body, again.body)
	}
}

func TestCancelAndRetryOverHTTP(t *testing.T) {
	f := newAsync(t, events.Config{}, "a")
	inv := f.call(t, "POST", "/async/a", "later", api.HeaderNotBefore, fmt.Sprint(time.Now().Add(time.Hour).UnixMilli())).invocation(t, 202)
	path := "/v1/invocations/" + inv.ID
	if got := f.call(t, "POST", path+"/cancel", "").invocation(t, 200); got.Status != orchestrator.InvocationCanceled {
		t.Errorf("after cancel: %+v", got)
	}
	if got := f.call(t, "POST", path+"/cancel", ""); got.status != 409 {
		t.Errorf("cancel again: %d", got.status)
	}
	if got := f.call(t, "POST", path+"/retry", "").invocation(t, 200); got.Status != orchestrator.InvocationWaiting {
		t.Errorf("after retry: %+v", got)
	}
	if got := f.call(t, "GET", path+"?wait=10s", "").invocation(t, 200); got.Status != orchestrator.InvocationSucceeded || got.Body != "later" {
		t.Errorf("in the end: %+v", got)
	}
	for _, what := range []string{"retry", "cancel"} {
		if got := f.call(t, "POST", "/v1/invocations/nobody/"+what, ""); got.status != 404 {
			t.Errorf("%s of an unknown one: %d", what, got.status)
		}
	}
}

func TestDeadLetters(t *testing.T) {
	f := newAsync(t, events.Config{}, "a", "b")
	var ids []string
	for _, name := range []string{"a", "a", "a", "b"} {
		inv := f.call(t, "POST", "/async/"+name, "404").invocation(t, 202)
		f.call(t, "GET", "/v1/invocations/"+inv.ID+"?wait=10s", "")
		ids = append(ids, inv.ID)
	}
	list := func(target string) (n int) {
		t.Helper()
		var list api.InvocationList
		got := f.call(t, "GET", target, "")
		if err := json.Unmarshal([]byte(got.body), &list); err != nil || got.status != 200 {
			t.Fatal(got.status, got.body, err)
		}
		return len(list.Invocations)
	}
	count := func(method, target, body string) (n int) {
		t.Helper()
		var done api.DeadLettersDone
		got := f.call(t, method, target, body, "Content-Type", "application/json")
		if err := json.Unmarshal([]byte(got.body), &done); err != nil || got.status != 200 {
			t.Fatal(got.status, got.body, err)
		}
		return done.Count
	}
	const letters = "/v1/functions/a/dead-letters"
	if n := list(letters); n != 3 {
		t.Errorf("%d dead letters, want 3", n)
	}
	if n := list("/v1/invocations?function=b&status=failed&limit=5"); n != 1 {
		t.Errorf("%d failed ones of b, want 1", n)
	}
	if n := list("/v1/invocations?before=" + ids[0]); n != 0 {
		t.Errorf("%d before the first", n)
	}
	if n := count("DELETE", letters+"?id="+ids[0], ""); n != 1 || list(letters) != 2 {
		t.Errorf("dropped %d, left %d", n, list(letters))
	}
	if got := f.call(t, "DELETE", letters+"?id="+ids[3], ""); got.status != 409 {
		t.Errorf("drop of another function's: %d", got.status)
	}
	if got := f.call(t, "DELETE", letters+"?all=1", ""); got.status != 400 {
		t.Errorf("drop with an unknown parameter: %d", got.status)
	}
	if n := count("POST", letters+"/replay", ""); n != 2 {
		t.Errorf("replayed %d, want 2", n)
	}
	f.call(t, "GET", "/v1/invocations/"+ids[1]+"?wait=10s", "")
	f.call(t, "GET", "/v1/invocations/"+ids[2]+"?wait=10s", "")
	if n := count("POST", letters+"/replay", `{"ids":["`+ids[1]+`"]}`); n != 1 {
		t.Errorf("replayed %d, want 1", n)
	}
	f.call(t, "GET", "/v1/invocations/"+ids[1]+"?wait=10s", "")
	if n := count("DELETE", letters, ""); n != 2 || list(letters) != 0 {
		t.Errorf("dropped %d, left %d", n, list(letters))
	}
}
