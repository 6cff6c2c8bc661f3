package gateway_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/kilnfaas/kiln/gateway/api"
	"github.com/kilnfaas/kiln/gateway/proxy"
	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/events"
)

// stage is what one function of a sequence was asked.
type stage struct{ function, method, path, body, media, id string }

// newSequence is a gateway whose functions answer with their name around what
// they got; one that is called "bad" fails, "dead" dies, "large" says too much.
func newSequence(t *testing.T) (*fixture, *[]stage) {
	f := newFixture(t, "a", "b", "c", "bad", "dead", "large")
	var stages []stage
	f.Call = func(r *http.Request, limit int) proxy.Reply {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return proxy.Reply{Err: err}
		}
		name, path, _ := strings.Cut(strings.TrimPrefix(r.URL.RequestURI(), proxy.Prefix), "/")
		stages = append(stages, stage{name, r.Method, "/" + path, string(body), r.Header.Get("Content-Type"), r.Header.Get(api.HeaderRequestID)})
		reply := proxy.Reply{Status: 200, Header: http.Header{"Content-Type": {"text/" + name}, "X-Own": {name}}, Body: fmt.Appendf(nil, "%s(%s)", name, body)}
		switch name {
		case "bad":
			reply.Status = 409
		case "dead":
			return proxy.Reply{Err: orchestrator.Errorf(orchestrator.ErrFunction, "function-died", "the function died")}
		case "large":
			reply.Truncated = true
		}
		return reply
	}
	return f, &stages
}

func TestSequence(t *testing.T) {
	f, stages := newSequence(t)
	got := f.call(t, "POST", "/sequence/a,b,c/x%20y?q=1", "in", "Content-Type", "text/plain", api.HeaderRequestID, "fixed")
	if got.status != 200 || got.body != "c(b(a(in)))" || got.header.Get(api.HeaderStage) != "3/3 c" || got.header.Get("X-Own") != "c" || got.header.Get("Content-Type") != "text/c" {
		t.Errorf("answer %+v", got)
	}
	want := []stage{{"a", "POST", "/x%20y?q=1", "in", "text/plain", "fixed"}, {"b", "POST", "/", "a(in)", "text/a", "fixed"}, {"c", "POST", "/", "b(a(in))", "text/b", "fixed"}}
	if fmt.Sprint(*stages) != fmt.Sprint(want) {
		t.Errorf("stages %+v, want %+v", *stages, want)
	}
}

func TestSequenceEndsWithTheFirstThatFails(t *testing.T) {
	f, stages := newSequence(t)
	for names, test := range map[string]struct {
		status, ran int
		stage, says string
	}{
		"a,bad,c":                      {409, 2, "2/3 bad", "bad(a(in))"},
		"a,dead,c":                     {502, 2, "2/3 dead", "stage 2/3 dead: the function died"},
		"large,c":                      {413, 1, "1/2 large", "stage 1/2 large: the answer is over 10MiB"},
		"a,nobody":                     {404, 0, "", "nobody"},
		"a,,b":                         {404, 0, "", ""},
		"a" + strings.Repeat(",a", 16): {422, 0, "", "17 functions"},
	} {
		*stages = nil
		got := f.call(t, "POST", "/sequence/"+names, "in")
		if got.status != test.status || len(*stages) != test.ran || got.header.Get(api.HeaderStage) != test.stage || !strings.Contains(got.body, test.says) {
			t.Errorf("%s: %d %q %s after %d calls, want %+v", names, got.status, got.header.Get(api.HeaderStage), got.body, len(*stages), test)
		}
	}
}

// TestSequenceAsksForEachFunction before the first runs.
func TestSequenceAsksForEachFunction(t *testing.T) {
	f := guarded(t, "a", "b")
	f.functions.mu.Lock()
	b := f.functions.functions["b"]
	b.Spec.Access = orchestrator.AccessToken
	f.functions.functions["b"] = b
	f.functions.mu.Unlock()
	f.Call = func(*http.Request, int) proxy.Reply {
		t.Error("a function was called")
		return proxy.Reply{}
	}
	if got := f.call(t, "POST", "/sequence/a,b", ""); got.status != 401 {
		t.Errorf("answer %d %s, want 401", got.status, got.body)
	}
	token := f.bearer(t, orchestrator.Token{Scopes: []orchestrator.Scope{orchestrator.ScopeInvoke}, Functions: []string{"a"}})
	if got := f.call(t, "POST", "/sequence/a,b", "", "Authorization", token); got.status != 403 {
		t.Errorf("answer %d %s, want 403", got.status, got.body)
	}
	f.Async = noAsync{}
	if got := f.call(t, "POST", "/async/a,b", "", "Authorization", token); got.status != 403 {
		t.Errorf("asynchronously: %d %s, want 403", got.status, got.body)
	}
}

func TestAsyncSequence(t *testing.T) {
	f := newAsync(t, events.Config{}, "a", "b")
	inv := f.call(t, "POST", "/async/a,b", "hello").invocation(t, http.StatusAccepted)
	first := f.call(t, "GET", "/v1/invocations/"+inv.ID+"?wait=10s", "").invocation(t, 200)
	if first.Function != "a" || len(first.Then) != 1 || first.Next == "" {
		t.Fatalf("first %+v", first)
	}
	second := f.call(t, "GET", "/v1/invocations/"+first.Next+"?wait=10s", "").invocation(t, 200)
	if second.Function != "b" || second.Parent != inv.ID || second.Body != "hello" || second.Next != "" {
		t.Errorf("second %+v", second)
	}
}
