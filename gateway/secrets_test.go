package gateway_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kilnfaas/kiln/gateway/api"
	"github.com/kilnfaas/kiln/gateway/audit"
	"github.com/kilnfaas/kiln/orchestrator"
)

// TestSecretsAreToldToNobody sets a secret and looks for it in whatever comes
// back and is written down.
func TestSecretsAreToldToNobody(t *testing.T) {
	const value = "v4lue\x00\xff\n"
	f := newFixture(t, "a")
	var records []audit.Record
	f.Audit = func(r audit.Record) { records = append(records, r) }
	set := f.call(t, "PUT", "/v1/secrets/API_KEY?function=a&function=b-*", value, "Content-Type", "application/x-www-form-urlencoded")
	got := decode[api.ChangedSecret](t, set, http.StatusOK)
	want := api.ChangedSecret{
		Secret: api.Secret{Name: "API_KEY", Functions: []string{"a", "b-*"}, CreatedAt: fakeTime, UpdatedAt: fakeTime, UsedBy: []string{}},
		Rolled: []api.RolledFunction{{Function: "a"}, {Function: "b", Error: "it did not start"}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("answer (-want +got):\n%s", diff)
	}
	if kept := string(f.functions.secrets["API_KEY"]); kept != value {
		t.Errorf("kept %q, want %q", kept, value)
	}
	answers := set.body
	for _, target := range []string{"/v1/secrets", "/v1/functions", "/v1/functions/a", "/metrics"} {
		answers += f.call(t, "GET", target, "").body
	}
	if got := f.call(t, "GET", "/v1/secrets/API_KEY", ""); got.status != http.StatusMethodNotAllowed {
		t.Errorf("reading a secret = %d %s, want 405", got.status, got.body)
	}
	if got := f.call(t, "DELETE", "/v1/secrets/API_KEY", ""); got.status != http.StatusNoContent {
		t.Errorf("removing it = %d %s", got.status, got.body)
	}
	if got := f.call(t, "DELETE", "/v1/secrets/API_KEY", ""); got.problem(t).Code != "secret-unknown" {
		t.Errorf("removing it again = %d %s", got.status, got.body)
	}
	for where, text := range map[string]string{"an answer": answers, "the log": f.log.String()} {
		if strings.Contains(text, "v4lue") || strings.Contains(text, "sealed") {
			t.Errorf("%s has what the secret holds: %s", where, text)
		}
	}
	if len(records) < 2 || records[0].Action != "PUT /v1/secrets/{name}" || records[0].Name != "API_KEY" || records[0].Status != http.StatusOK {
		t.Errorf("recorded %+v", records)
	}
}

// TestSecretsAreOfNoFunction: a token for some functions has no business with
// what others use, too.
func TestSecretsAreOfNoFunction(t *testing.T) {
	f := guarded(t, "a")
	bound := f.bearer(t, orchestrator.Token{Name: "bound", Scopes: []orchestrator.Scope{orchestrator.ScopeDeploy}, Functions: []string{"a"}})
	for _, row := range [][2]string{{"GET", "/v1/secrets"}, {"PUT", "/v1/secrets/a"}, {"DELETE", "/v1/secrets/a"}} {
		got := f.call(t, row[0], row[1], "value", "Authorization", bound)
		if got.status != http.StatusForbidden || got.problem(t).Code != "function-denied" {
			t.Errorf("%s %s = %d %s, want 403 function-denied", row[0], row[1], got.status, got.body)
		}
	}
}

// TestNamesOfSecretsInTheAuditLog keeps out what somebody sent in place of one.
func TestNamesOfSecretsInTheAuditLog(t *testing.T) {
	f := newFixture(t)
	var records []audit.Record
	f.Audit = func(r audit.Record) { records = append(records, r) }
	f.call(t, "DELETE", "/v1/secrets/a%2Fb", "")
	if len(records) != 1 || records[0].Name != "" {
		t.Errorf("recorded %+v", records)
	}
}
