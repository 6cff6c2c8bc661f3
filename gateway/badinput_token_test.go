package gateway_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/kilnfaas/kiln/gateway/auth"
	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/storetest"
)

// badTokens are requests with a token that will not do, for a gateway that asks
// for one, and its administrator's Authorization header.
func badTokens(t *testing.T) (guard *auth.Guard, admin string, rows []bad) {
	const expiredID = "expiredaaa"
	store, secret := storetest.NewFakeTokens(), strings.Repeat("A", 43)
	sum := sha256.Sum256([]byte(secret))
	if _, err := store.PutToken(context.Background(), orchestrator.Token{
		ID: expiredID, Name: "expired", Scopes: []orchestrator.Scope{orchestrator.ScopeAdmin}, Hash: sum[:], ExpiresAt: time.Now().Add(-time.Hour),
	}); err != nil {
		t.Fatal(err)
	}
	guard = openGuard(t, auth.Config{Store: store})
	token := func(name string, scope orchestrator.Scope, functions ...string) string {
		_, secret, err := guard.Create(t.Context(), orchestrator.Token{Name: name, Scopes: []orchestrator.Scope{scope}, Functions: functions})
		if err != nil {
			t.Fatal(err)
		}
		return "Bearer " + secret
	}
	admin = token("admin", orchestrator.ScopeAdmin)
	reader, invoker := token("reader", orchestrator.ScopeRead), token("invoker", orchestrator.ScopeInvoke)
	other := token("other", orchestrator.ScopeDeploy, "team-*")
	otherInvoker := token("other-invoker", orchestrator.ScopeInvoke, "team-*")
	last := admin[len(admin)-1:]
	changed := admin[:len(admin)-1] + map[bool]string{true: "B", false: "A"}[last == "A"]
	half := len("Bearer ") + len(auth.Prefix) + 10
	handler := zipOf(t, file{"handler.py", goodHandler})
	add := func(method, target, what, header string) {
		headers := []string{"Authorization", header}
		if header == "" {
			headers = nil
		}
		body := ""
		switch method {
		case "PUT":
			body = string(handler)
		case "PATCH":
			body, headers = "{}", append(headers, "Content-Type", "application/json")
		}
		rows = append(rows, bad{name: fmt.Sprintf("%s %s with %s", method, target, what), send: request(method, target, body, headers...)})
	}
	type call struct{ method, target string }
	all := []call{{"GET", "/v1/functions"}, {"GET", "/v1/functions/hello"}, {"PUT", "/v1/functions/x"}, {"PATCH", "/v1/functions/hello"}, {"DELETE", "/v1/functions/hello"}, {"GET", "/v1/functions/hello/logs"},
		{"GET", "/v1/templates"}, {"GET", "/v1/tokens"}, {"DELETE", "/v1/tokens/reader"}, {"GET", "/metrics"}, {"POST", "/upload"}, {"POST", "/invoke/hello"}}
	for _, c := range all {
		for _, credential := range [][2]string{
			{"no token", ""}, {"a name and a password", "Basic a2lsbjpraWxu"}, {"a scheme alone", "Bearer"}, {"an empty token", "Bearer \t"}, {"somebody else's token", "Bearer ghp_0123456789"},
			{"a token without its scheme", strings.TrimPrefix(admin, "Bearer ")}, {"half a token", admin[:len(admin)-5]}, {"a token that is too long", admin + "A"}, {"a token with another end", changed},
			{"an unknown token", "Bearer " + auth.Prefix + "nobodyaaaa_" + secret}, {"another token's secret", "Bearer " + auth.Prefix + expiredID + admin[half:]}, {"an expired token", "Bearer " + auth.Prefix + expiredID + "_" + secret},
			{"a token in capitals", strings.ToUpper(admin)}, {"two tokens in one", admin + ", " + admin}, {"a token of 60 KiB", "Bearer " + auth.Prefix + strings.Repeat("a", 60<<10)},
		} {
			add(c.method, c.target, credential[0], credential[1])
		}
	}
	for _, c := range all[2:5] {
		add(c.method, c.target, "a reader's token", reader)
		add(c.method, c.target, "another team's token", other)
	}
	for _, c := range all[7:9] {
		add(c.method, c.target, "a reader's token", reader)
		add(c.method, c.target, "a deployer's token", other)
	}
	for _, c := range all[:6] {
		add(c.method, c.target, "an invoker's token", invoker)
	}
	add("GET", "/v1/functions/hello", "another team's token", other)
	add("GET", "/v1/functions/hello/logs", "another team's token", other)
	add("POST", "/invoke/hello", "a reader's token", reader)
	add("POST", "/invoke/hello", "another team's token", otherInvoker)
	return guard, admin, rows
}
