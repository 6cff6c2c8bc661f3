package gateway_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/kilnfaas/kiln/gateway/audit"
	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/events"
)

// TestChangesAreRecorded: who, what, outcome; and nothing that was sent.
func TestChangesAreRecorded(t *testing.T) {
	f := guarded(t, "a")
	var records []audit.Record
	f.Audit = func(r audit.Record) { records = append(records, r) }
	root := f.bearer(t, orchestrator.Token{Name: "root", Scopes: []orchestrator.Scope{orchestrator.ScopeAdmin}})
	reader := f.bearer(t, orchestrator.Token{Name: "reader", Scopes: []orchestrator.Scope{orchestrator.ScopeRead}})
	f.call(t, "GET", "/v1/functions/a", "", "Authorization", root) // reading is not recorded
	f.call(t, "PATCH", "/v1/functions/a", `{"env":{"PASSWORD":"hunter2"}}`, "Authorization", root, "Content-Type", "application/json")
	f.call(t, "DELETE", "/v1/functions/none", "", "Authorization", root)
	f.call(t, "DELETE", "/v1/functions/a", "", "Authorization", reader)
	f.call(t, "GET", "/v1/tokens", "", "Authorization", "Bearer kiln_nobodys")
	f.call(t, "POST", "/v1/tokens", `{"name":"new","scopes":["read"]}`, "Authorization", root, "Content-Type", "application/json")
	want := []audit.Record{
		{TokenName: "root", Action: "PATCH /v1/functions/{name}", Name: "a", Status: 200},
		{TokenName: "root", Action: "DELETE /v1/functions/{name}", Name: "none", Status: 404, Code: "function-unknown"},
		{TokenName: "reader", Action: "DELETE /v1/functions/{name}", Name: "a", Status: 403, Code: "scope-missing"},
		{Action: "GET /v1/tokens", Status: 401, Code: "token-invalid"},
		{TokenName: "root", Action: "POST /v1/tokens", Status: 201},
	}
	if diff := cmp.Diff(want, records, cmpopts.IgnoreFields(audit.Record{}, "Time", "RequestID", "TokenID", "Peer", "Duration")); diff != "" {
		t.Errorf("records (-want +got):\n%s", diff)
	}
	written, err := json.Marshal(records)
	if err != nil || strings.Contains(string(written), "kiln_") || strings.Contains(string(written), "hunter2") {
		t.Errorf("the records tell a token or what was sent: %s, %v", written, err)
	}
	for _, r := range records {
		if r.RequestID == "" || r.Time.IsZero() || r.Peer != "192.0.2.1" || (r.TokenID == "") != (r.TokenName == "") {
			t.Errorf("record %+v lacks who or when", r)
		}
	}
}

// TestCallsAreNotRecorded: events and calls would push out what others did.
func TestCallsAreNotRecorded(t *testing.T) {
	f := newAsync(t, events.Config{}, "a")
	var records []audit.Record
	f.Audit = func(r audit.Record) { records = append(records, r) }
	f.call(t, "POST", "/async/a", "x").invocation(t, 202)
	f.call(t, "DELETE", "/v1/functions/a/dead-letters", "")
	if len(records) != 1 || records[0].Action != "DELETE /v1/functions/{name}/dead-letters" {
		t.Errorf("records of a call and a change: %+v", records)
	}
}

// TestStrangersDoNotFillTheLog: a flood of refusals leaves room for what others do.
func TestStrangersDoNotFillTheLog(t *testing.T) {
	f := guarded(t)
	n := 0
	f.Audit = func(audit.Record) { n++ }
	for range 500 {
		f.call(t, "DELETE", "/v1/functions/a", "", "Authorization", "Bearer kiln_nobodys")
	}
	if n < 10 || n > 100 {
		t.Errorf("%d of 500 refusals are recorded, want some 60", n)
	}
}
