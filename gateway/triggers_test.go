package gateway_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/kilnfaas/kiln/gateway/api"
	"github.com/kilnfaas/kiln/gateway/audit"
	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/events"
)

// fakeTriggers is one trigger "t" of the function "a", and what was done to it.
type fakeTriggers struct {
	did      []string
	incoming orchestrator.Incoming
	reply    orchestrator.Reply
	err      error
}

var errNoTrigger = orchestrator.Errorf(orchestrator.ErrNotFound, "trigger-unknown", "there is no such trigger")

func (f *fakeTriggers) Check(t orchestrator.Trigger) error {
	if t.Type != "k" {
		return &orchestrator.SettingError{Setting: "type", Cause: orchestrator.Errorf(orchestrator.ErrInvalid, "trigger-type-unknown", "there are no such triggers").WithHint("k")}
	}
	return nil
}

func (f *fakeTriggers) List(function string) []orchestrator.TriggerStatus {
	return []orchestrator.TriggerStatus{{
		Function: "a", Trigger: orchestrator.Trigger{Name: "t", Type: "k", Settings: orchestrator.Settings{"x": 1.0}},
		Phase: orchestrator.TriggerRunning, Address: "/hooks/ID", Pending: -1, LastError: function,
	}}
}

func (f *fakeTriggers) Trigger(function, trigger string) (orchestrator.TriggerStatus, error) {
	if f.err != nil || function != "a" || trigger != "t" {
		return orchestrator.TriggerStatus{}, errors.Join(f.err, errNoTrigger)
	}
	return f.List("")[0], nil
}

func (f *fakeTriggers) Pause(_ context.Context, function, trigger string) (orchestrator.TriggerStatus, error) {
	f.did = append(f.did, "pause")
	return f.Trigger(function, trigger)
}

func (f *fakeTriggers) Resume(_ context.Context, function, trigger string) (orchestrator.TriggerStatus, error) {
	f.did = append(f.did, "resume")
	return f.Trigger(function, trigger)
}

func (f *fakeTriggers) Test(_ context.Context, function, trigger string) (orchestrator.Invocation, error) {
	_, err := f.Trigger(function, trigger)
	return orchestrator.Invocation{ID: "0198c0de-0000-7000-8000-000000000001", Function: function, Status: orchestrator.InvocationWaiting, Path: "/"}, err
}

func (f *fakeTriggers) Listens(id string) error {
	if id != "ID" {
		return errNoTrigger
	}
	return nil
}

func (f *fakeTriggers) Receive(_ context.Context, id string, request orchestrator.Incoming) (orchestrator.Reply, error) {
	if id != "ID" {
		return orchestrator.Reply{}, errNoTrigger
	}
	f.incoming = request
	return f.reply, f.err
}

func TestTriggersOverHTTP(t *testing.T) {
	f := newFixture(t, "a")
	triggers := &fakeTriggers{}
	f.Triggers = triggers
	var records []audit.Record
	f.Audit = func(r audit.Record) { records = append(records, r) }
	for target, function := range map[string]string{"/v1/triggers": "", "/v1/functions/a/triggers": "a"} {
		var list api.TriggerList
		got := f.call(t, "GET", target, "")
		if err := json.Unmarshal([]byte(got.body), &list); err != nil || len(list.Triggers) != 1 || list.Triggers[0].LastError != function || list.Triggers[0].Address != "/hooks/ID" {
			t.Errorf("%s = %s, %v", target, got.body, err)
		}
	}
	if got := f.call(t, "GET", "/v1/functions/nobody/triggers", ""); got.status != 404 {
		t.Errorf("triggers of an unknown function: %d", got.status)
	}
	for _, act := range []string{"pause", "resume", "test"} {
		want := 200
		if act == "test" {
			want = 202
		}
		if got := f.call(t, "POST", "/v1/functions/a/triggers/t/"+act, ""); got.status != want {
			t.Errorf("%s: %d %s", act, got.status, got.body)
		}
		if got := f.call(t, "POST", "/v1/functions/a/triggers/other/"+act, ""); got.status != 404 {
			t.Errorf("%s of an unknown one: %d", act, got.status)
		}
	}
	if got := f.call(t, "GET", "/v1/functions/a/triggers/t", ""); got.status != 200 || !strings.Contains(got.body, `"x":1`) {
		t.Errorf("trigger: %d %s", got.status, got.body)
	}
	if len(records) != 6 || records[0].Action != "POST /v1/functions/{name}/triggers/{trigger}/pause" || records[0].Name != "a" || records[0].Trigger != "t" {
		t.Errorf("audit records %+v", records)
	}
}

// TestAddressIsForThoseWhoMayDeploy: it is a right to send.
func TestAddressIsForThoseWhoMayDeploy(t *testing.T) {
	f := guarded(t, "a")
	f.Triggers = &fakeTriggers{}
	for _, scope := range []orchestrator.Scope{orchestrator.ScopeRead, orchestrator.ScopeDeploy} {
		token := f.bearer(t, orchestrator.Token{Scopes: []orchestrator.Scope{scope}})
		for _, target := range []string{"/v1/triggers", "/v1/functions/a/triggers", "/v1/functions/a/triggers/t"} {
			got := f.call(t, "GET", target, "", "Authorization", token)
			if shown := strings.Contains(got.body, "/hooks/ID"); got.status != 200 || shown != (scope == orchestrator.ScopeDeploy) {
				t.Errorf("%s with the scope %s: %d, address shown: %t", target, scope, got.status, shown)
			}
		}
	}
}

func TestHook(t *testing.T) {
	f := newFixture(t, "a")
	triggers := &fakeTriggers{reply: orchestrator.Reply{Status: 202, ContentType: "application/json", Body: []byte("{}")}}
	f.Triggers = triggers
	got := f.call(t, "POST", "/hooks/ID/sub%20path?x=1", "body", "X-Test", "1")
	in := triggers.incoming
	if got.status != 202 || got.body != "{}" || in.Method != "POST" || in.Path != "/sub%20path?x=1" || string(in.Body) != "body" || in.Header.Get("X-Test") != "1" || in.Peer == "" {
		t.Errorf("answer %+v; the trigger got %+v", got, in)
	}
	if got := f.call(t, "POST", "/hooks/ID", ""); got.status != 202 || triggers.incoming.Path != "" {
		t.Errorf("answer %+v with the path %q", got, triggers.incoming.Path)
	}
	if got := f.call(t, "POST", "/hooks/other", strings.Repeat("x", orchestrator.MaxEventData+1)); got.status != 404 {
		t.Errorf("an unknown hook: %d, want its body not even looked at", got.status)
	}
	if got := f.call(t, "POST", "/hooks/ID", strings.Repeat("x", orchestrator.MaxEventData+1)); got.status != 413 {
		t.Errorf("a large body: %d", got.status)
	}
	triggers.err = orchestrator.Errorf(orchestrator.ErrDenied, "signature-invalid", "the signature is not right")
	if got := f.call(t, "POST", "/hooks/ID", ""); got.status != 403 || got.problem(t).Code != "signature-invalid" {
		t.Errorf("a wrong signature: %d %s", got.status, got.body)
	}
	if got := f.call(t, "GET", "/hooks/ID", ""); got.status != 405 {
		t.Errorf("GET: %d", got.status)
	}
}

// TestPatchOfTriggersIsChecked, with the place of what is wrong.
func TestPatchOfTriggersIsChecked(t *testing.T) {
	f := newFixture(t, "a")
	f.Triggers = &fakeTriggers{}
	if got := f.call(t, "PATCH", "/v1/functions/a", `{"triggers":[{"name":"t","type":"k"}]}`, "Content-Type", "application/json"); got.status != 200 {
		t.Errorf("PATCH: %d %s", got.status, got.body)
	}
	got := f.call(t, "PATCH", "/v1/functions/a", "triggers:\n  - name: t\n    type: other\n", "Content-Type", api.MediaYAML)
	if got.status != 422 || !strings.Contains(got.problem(t).Detail, "the body:3:11: triggers[0].type: there are no such triggers") {
		t.Errorf("PATCH with an unknown type: %d %s", got.status, got.body)
	}
	f.Triggers = nil
	g := newFixture(t, "a")
	if got := g.call(t, "PATCH", "/v1/functions/a", `{"triggers":[{"name":"t","type":"k"}]}`, "Content-Type", "application/json"); got.status != 422 || got.problem(t).Code != "triggers-unsupported" {
		t.Errorf("PATCH where there are none: %d %s", got.status, got.body)
	}
}

const structured = `{"specversion":"1.0","id":"1","source":"/s","type":"t","data":{"a":1}}`

func TestEventsIngress(t *testing.T) {
	f := newAsync(t, events.Config{Depth: 3}, "a")
	send := func(status int, body string, headers ...string) []api.AsyncInvocation {
		t.Helper()
		got := f.call(t, "POST", "/events/a", body, headers...)
		if got.status != status {
			t.Fatalf("status %d, want %d: %s", got.status, status, got.body)
		}
		var list api.InvocationList
		if status == 202 {
			if err := json.Unmarshal([]byte(got.body), &list); err != nil {
				t.Fatal(err)
			}
			for _, inv := range list.Invocations {
				f.call(t, "GET", "/v1/invocations/"+inv.ID+"?wait=10s", "")
			}
		}
		return list.Invocations
	}
	const media, batch = "application/cloudevents+json; charset=utf-8", "application/cloudevents-batch+json"
	first := send(202, structured, "Content-Type", media)
	if len(first) != 1 {
		t.Fatalf("invocations %+v", first)
	}
	f.mu.Lock()
	last := f.last
	f.mu.Unlock()
	if h := last.Invocation.Header; string(last.Body) != `{"a":1}` || http.Header(h).Get("Ce-Id") != "1" || http.Header(h).Get("Content-Type") != "application/json" || last.Invocation.Path != "/" {
		t.Errorf("the function got %+v %s, want the event in binary mode", last.Invocation, last.Body)
	}
	if again := send(202, structured, "Content-Type", media); again[0].ID != first[0].ID {
		t.Errorf("the same event is another invocation")
	}
	binary := send(202, "hello", "Ce-Specversion", "1.0", "Ce-Id", "2", "Ce-Source", "/s", "Ce-Type", "t", "Ce-Partitionkey", "p", "Content-Type", "text/plain")
	if binary[0].OrderingKey != "p" || binary[0].ID == first[0].ID {
		t.Errorf("invocation %+v", binary[0])
	}
	two := send(202, "["+strings.Replace(structured, `"1"`, `"3"`, 1)+","+structured+"]", "Content-Type", batch)
	if len(two) != 2 || two[1].ID != first[0].ID || two[0].ID == two[1].ID {
		t.Errorf("invocations of a batch %+v", two)
	}
	if none := send(202, "[]", "Content-Type", batch); len(none) != 0 {
		t.Errorf("invocations of an empty batch %+v", none)
	}
	send(415, "hello", "Content-Type", "text/plain")
	send(422, `{}`, "Content-Type", media)
	send(422, "["+structured+",{}]", "Content-Type", batch)
	if got := f.call(t, "POST", "/events/nobody", structured, "Content-Type", media); got.status != 404 {
		t.Errorf("events of an unknown function: %d", got.status)
	}
	var many []string
	for _, id := range []string{"a", "b", "c", "d"} {
		many = append(many, strings.Replace(structured, `"1"`, `"`+id+`"`, 1))
	}
	before := f.journal.Commits()
	send(429, "["+strings.Join(many, ",")+"]", "Content-Type", batch)
	if now := f.journal.Commits(); now != before {
		t.Error("part of a batch that was refused is stored")
	}
}
