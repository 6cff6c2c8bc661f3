package gateway_test

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kilnfaas/kiln/gateway/api"
	"github.com/kilnfaas/kiln/gateway/auth"
	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/events"
	"github.com/kilnfaas/kiln/orchestrator/storetest"
)

// guarded is a fixture that asks for tokens.
func guarded(t *testing.T, names ...string) *fixture {
	f := newFixture(t, names...)
	f.Guard = openGuard(t, auth.Config{Store: storetest.NewFakeTokens()})
	return f
}

// bearer makes a token and returns its header.
func (f *fixture) bearer(t *testing.T, token orchestrator.Token) string {
	t.Helper()
	if token.Name == "" {
		token.Name = "t" + strings.ToLower(time.Now().Format("150405")) + string(token.Scopes[0])
	}
	_, secret, err := f.Guard.Create(t.Context(), token)
	if err != nil {
		t.Fatal(err)
	}
	return "Bearer " + secret
}

// open are the routes that anybody may ask.
var open = []string{"GET /healthz", "GET /readyz", "GET /openapi.yaml", "POST /async/{name}", "POST /async/{name}/{path}",
	"POST /events/{name}", "POST /sequence/{name}", "POST /sequence/{name}/{path}", "POST /hooks/{id}", "POST /hooks/{id}/{path}"}

// allowed tells the scopes, besides admin, that each route answers to. A route
// that is not here is for administrators.
func allowed(method, path string) []orchestrator.Scope {
	const deploy, invoke, read = orchestrator.ScopeDeploy, orchestrator.ScopeInvoke, orchestrator.ScopeRead
	const files, filesRead = orchestrator.ScopeFiles, orchestrator.ScopeFilesRead
	switch {
	case path == "/v1/version", strings.HasPrefix(path, "/v1/templates"), path == "/v1/invocations/{id}" && method == "GET":
		return []orchestrator.Scope{deploy, invoke, read, files, filesRead}
	case path == "/v1/invocations" && method == "GET":
		return []orchestrator.Scope{deploy, invoke, read}
	case strings.HasPrefix(path, "/v1/buckets") && method != "GET":
		return []orchestrator.Scope{deploy, files}
	case strings.HasPrefix(path, "/v1/buckets"):
		return []orchestrator.Scope{deploy, read, files, filesRead}
	case strings.HasPrefix(path, "/v1/invocations"), strings.HasSuffix(path, "/dead-letters/replay"), strings.HasSuffix(path, "/{trigger}/test"):
		return []orchestrator.Scope{invoke}
	case path == "/upload", strings.HasPrefix(path, "/v1/functions") && method != "GET":
		return []orchestrator.Scope{deploy}
	case strings.HasPrefix(path, "/v1/secrets/"):
		return []orchestrator.Scope{deploy}
	case strings.HasPrefix(path, "/v1/functions"), path == "/v1/secrets", path == "/metrics", path == "/v1/triggers":
		return []orchestrator.Scope{deploy, read}
	}
	return nil
}

// TestEveryRouteAsksForItsScope asks every route of the table as nobody, with a
// token that is none, and with a token of each scope. 401 and 403 have to be
// what keeps out those who may not, and nobody else.
func TestEveryRouteAsksForItsScope(t *testing.T) {
	f := guarded(t, "a")
	headers := map[orchestrator.Scope]string{}
	for _, scope := range orchestrator.Scopes() {
		headers[scope] = f.bearer(t, orchestrator.Token{Name: string(scope), Scopes: []orchestrator.Scope{scope}})
	}
	for _, row := range f.Table() {
		method, path := row[0], row[1]
		target := strings.Replace(path, "{name}", "a", 1)
		if slices.Contains(open, method+" "+path) {
			if got := f.call(t, method, target, ""); got.status == http.StatusUnauthorized {
				t.Errorf("%s %s wants a token", method, path)
			}
			continue
		}
		for header, code := range map[string]string{
			"":                                     orchestrator.CodeTokenMissing,
			"Bearer nonsense":                      orchestrator.CodeTokenInvalid,
			"Basic a2lsbjpraWxu":                   orchestrator.CodeTokenInvalid,
			headers[orchestrator.ScopeAdmin] + "x": orchestrator.CodeTokenInvalid,
		} {
			got := f.call(t, method, target, "", "Authorization", header)
			if got.status != http.StatusUnauthorized || got.problem(t).Code != code || got.header.Get("WWW-Authenticate") == "" {
				t.Errorf("%s %s with %q = %d %s, want 401 %s", method, path, header, got.status, got.body, code)
			}
		}
		for _, scope := range orchestrator.Scopes() {
			got := f.call(t, method, target, "", "Authorization", headers[scope])
			denied := got.status == http.StatusForbidden && got.problem(t).Code == "scope-missing"
			want := scope != orchestrator.ScopeAdmin && !slices.Contains(allowed(method, path), scope)
			if denied != want || got.status == http.StatusUnauthorized {
				t.Errorf("%s %s with the scope %s = %d; refused %t, want %t", method, path, scope, got.status, denied, want)
			}
		}
		f.functions.mu.Lock()
		f.functions.functions = newFakeFunctions("a").functions // what DELETE took
		f.functions.mu.Unlock()
	}
}

// TestWithoutAGuardNothingIsServed is a gateway that was wired wrongly.
func TestWithoutAGuardNothingIsServed(t *testing.T) {
	f := newFixture(t, "a")
	f.Guard = nil
	if got := f.call(t, "GET", "/v1/functions", ""); got.status != http.StatusInternalServerError {
		t.Errorf("answer = %d, want 500", got.status)
	}
}

// TestBoundToken sees and changes the functions of its patterns alone.
func TestBoundToken(t *testing.T) {
	f := guarded(t, "team-a-one", "team-a-two", "team-b-one")
	token := f.bearer(t, orchestrator.Token{Scopes: []orchestrator.Scope{orchestrator.ScopeDeploy}, Functions: []string{"team-a-*"}})
	var list api.FunctionList
	got := f.call(t, "GET", "/v1/functions", "", "Authorization", token)
	if err := json.Unmarshal([]byte(got.body), &list); err != nil || len(list.Functions) != 2 {
		t.Errorf("the list has %d functions, want 2: %v", len(list.Functions), err)
	}
	for _, test := range []struct {
		method, target, body, media string
		want                        int
	}{
		{"GET", "/v1/functions/team-a-one", "", "", 200},
		{"GET", "/v1/functions/team-b-one", "", "", 403},
		{"GET", "/v1/functions/team-b-one/logs", "", "", 403},
		{"GET", "/v1/functions/team-b-none", "", "", 403}, // not even whether it exists
		{"PATCH", "/v1/functions/team-b-one", "{}", "application/json", 403},
		{"DELETE", "/v1/functions/team-b-one", "", "", 403},
		{"DELETE", "/v1/functions/team-a-two", "", "", 204},
		{"PUT", "/v1/functions/team-b-one", "archive", "application/gzip", 403},
		{"PUT", "/v1/functions/team-a-new", "archive", "application/gzip", 201},
		{"GET", "/v1/templates", "", "", 200},
		{"GET", "/metrics", "", "", 403},
	} {
		got := f.call(t, test.method, test.target, test.body, "Authorization", token, "Content-Type", test.media)
		if got.status != test.want {
			t.Errorf("%s %s = %d %s, want %d", test.method, test.target, got.status, got.body, test.want)
		}
	}
	// The name of an upload may be in the archive alone.
	form := "--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\nx\r\n--b--\r\n"
	got = f.call(t, "POST", "/upload", form, "Authorization", token, "Content-Type", "multipart/form-data; boundary=b")
	if got.status != http.StatusForbidden || got.problem(t).Code != "function-denied" {
		t.Errorf("an upload of another's function = %d %s, want 403 function-denied", got.status, got.body)
	}
}

// TestTokensAreToldOnce makes a token over HTTP, uses it and removes it.
func TestTokensAreToldOnce(t *testing.T) {
	f := guarded(t, "a")
	admin := f.bearer(t, orchestrator.Token{Name: "root", Scopes: []orchestrator.Scope{orchestrator.ScopeAdmin}})
	got := f.call(t, "POST", "/v1/tokens", `{"name":"ci","scopes":["read"],"functions":["a*"],"rate":{"per_second":50},"expires_in":"1h"}`,
		"Authorization", admin, "Content-Type", "application/json")
	var made api.CreatedToken
	if err := json.Unmarshal([]byte(got.body), &made); err != nil || got.status != http.StatusCreated {
		t.Fatalf("answer = %d %s, want 201: %v", got.status, got.body, err)
	}
	if got := f.call(t, "GET", "/v1/functions/a", "", "Authorization", "Bearer "+made.Secret); got.status != http.StatusOK {
		t.Errorf("with the new token = %d, want 200", got.status)
	}
	list := f.call(t, "GET", "/v1/tokens", "", "Authorization", admin)
	secret := made.Secret[strings.LastIndexByte(made.Secret[:16], '_')+1:]
	if !strings.Contains(list.body, `"ci"`) || strings.Contains(list.body, secret) || strings.Contains(list.body, "hash") {
		t.Errorf("the list has not the token, or tells more than it should: %s", list.body)
	}
	if got := f.call(t, "POST", "/v1/tokens", `{"name":"ci","scopes":["read"]}`, "Authorization", admin, "Content-Type", "application/json"); got.status != http.StatusConflict {
		t.Errorf("a name that is taken = %d, want 409", got.status)
	}
	if got := f.call(t, "POST", "/v1/tokens", `{"name":"x","scopes":["root"]}`, "Authorization", admin, "Content-Type", "application/json"); got.status != http.StatusUnprocessableEntity {
		t.Errorf("an unknown scope = %d, want 422", got.status)
	}
	if got := f.call(t, "DELETE", "/v1/tokens/root", "", "Authorization", admin); got.status != http.StatusConflict {
		t.Errorf("removing the last administrator's = %d, want 409", got.status)
	}
	if got := f.call(t, "DELETE", "/v1/tokens/ci", "", "Authorization", admin); got.status != http.StatusNoContent {
		t.Errorf("removing = %d, want 204", got.status)
	}
	if got := f.call(t, "GET", "/v1/functions/a", "", "Authorization", "Bearer "+made.Secret); got.status != http.StatusUnauthorized {
		t.Errorf("with the removed token = %d, want 401", got.status)
	}
	if got := f.call(t, "DELETE", "/v1/tokens/ci", "", "Authorization", admin); got.status != http.StatusNotFound {
		t.Errorf("removing again = %d, want 404", got.status)
	}
}

// TestTokenTooFast gets 429 and when to come again.
func TestTokenTooFast(t *testing.T) {
	f := guarded(t, "a")
	token := f.bearer(t, orchestrator.Token{Scopes: []orchestrator.Scope{orchestrator.ScopeRead}, Rate: orchestrator.Rate{PerSecond: 0.1, Burst: 2}})
	for range 2 {
		if got := f.call(t, "GET", "/v1/functions", "", "Authorization", token); got.status != http.StatusOK {
			t.Fatalf("within the burst = %d, want 200", got.status)
		}
	}
	got := f.call(t, "GET", "/v1/functions", "", "Authorization", token)
	if got.status != http.StatusTooManyRequests || got.problem(t).Code != "token-rate" || got.header.Get("Retry-After") != "10" {
		t.Errorf("beyond it = %d %s, Retry-After %q; want 429 token-rate and 10", got.status, got.body, got.header.Get("Retry-After"))
	}
}

// TestAsyncFollowsTheFunction: who may invoke a function may queue calls of it,
// and only they, and holders of a token for it, may follow them.
func TestAsyncFollowsTheFunction(t *testing.T) {
	f := newAsync(t, events.Config{}, "a", "b")
	f.Guard = openGuard(t, auth.Config{Store: storetest.NewFakeTokens()})
	function := f.functions.functions["a"]
	function.Spec.Access = orchestrator.AccessToken
	f.functions.functions["a"] = function
	invoke := f.bearer(t, orchestrator.Token{Name: "mine", Scopes: []orchestrator.Scope{orchestrator.ScopeInvoke}, Functions: []string{"a"}})
	other := f.bearer(t, orchestrator.Token{Name: "other", Scopes: []orchestrator.Scope{orchestrator.ScopeInvoke, orchestrator.ScopeRead}, Functions: []string{"b"}})
	if got := f.call(t, "POST", "/async/a", "x"); got.status != 401 {
		t.Errorf("nobody: %d %s", got.status, got.body)
	}
	if got := f.call(t, "POST", "/async/b", "x"); got.status != 202 {
		t.Errorf("nobody at a public function: %d %s", got.status, got.body)
	}
	if got := f.call(t, "POST", "/async/a", "x", "Authorization", other); got.status != 403 {
		t.Errorf("a token for another function: %d %s", got.status, got.body)
	}
	inv := f.call(t, "POST", "/async/a", "x", "Authorization", invoke).invocation(t, 202)
	path := "/v1/invocations/" + inv.ID
	for header, want := range map[string]int{"": 401, other: 403, invoke: 200} {
		if got := f.call(t, "GET", path+"?wait=10s", "", "Authorization", header); got.status != want {
			t.Errorf("following with %.12q: %d, want %d", header, got.status, want)
		}
	}
	for target, want := range map[string]int{"/v1/invocations": 403, "/v1/invocations?function=a": 200, "/v1/invocations?function=b": 403} {
		if got := f.call(t, "GET", target, "", "Authorization", invoke); got.status != want {
			t.Errorf("%s: %d, want %d", target, got.status, want)
		}
	}
	if got := f.call(t, "POST", path+"/cancel", "", "Authorization", other); got.status != 403 {
		t.Errorf("cancel with a token for another function: %d", got.status)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if kept := f.last.Invocation.Header.Get("Authorization"); kept != "" {
		t.Errorf("the function got the token: %q", kept)
	}
}
