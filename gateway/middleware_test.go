package gateway_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/kilnfaas/kiln/gateway/api"
	"github.com/kilnfaas/kiln/orchestrator"
)

func TestUnknownRoutesAndMethods(t *testing.T) {
	f := newFixture(t, "a")
	tests := []struct {
		method, path string
		status       int
		allow        string
	}{
		{"GET", "/", 404, ""},
		{"GET", "/v1", 404, ""},
		{"GET", "/v1/functions/", 404, ""},
		{"GET", "/v1/functions/a/", 404, ""},
		{"GET", "/v1/functions/a/nothing", 404, ""},
		{"GET", "//v1/functions", 404, ""},
		{"GET", "/v1/./functions", 404, ""},
		{"GET", "/invoke", 404, ""},
		{"GET", "/invoke/a", 404, ""}, // no data plane in this fixture
		{"POST", "/v1/functions", 405, "GET, HEAD"},
		{"POST", "/v1/functions/a", 405, "GET, HEAD, PUT, PATCH, DELETE"},
		{"OPTIONS", "/v1/functions/a", 405, "GET, HEAD, PUT, PATCH, DELETE"},
		{"GET", "/upload", 405, "POST"},
		{"DELETE", "/healthz", 405, "GET, HEAD"},
		{"TRACE", "/v1/version", 405, "GET, HEAD"},
	}
	for _, tt := range tests {
		got := f.call(t, tt.method, tt.path, "")
		if got.status != tt.status || got.header.Get("Allow") != tt.allow {
			t.Errorf("%s %s: %d, Allow %q; want %d, %q", tt.method, tt.path, got.status, got.header.Get("Allow"), tt.status, tt.allow)
		}
		if document := got.problem(t); document.Hint == "" {
			t.Errorf("%s %s: no hint in %+v", tt.method, tt.path, document)
		}
	}
}

func TestAccept(t *testing.T) {
	f := newFixture(t, "a")
	tests := []struct {
		path, accept string
		status       int
		media        string
	}{
		{"/v1/functions", "", 200, "application/json"},
		{"/v1/functions", "text/html,application/xhtml+xml,*/*;q=0.8", 200, "application/json"},
		{"/v1/functions", "application/*", 200, "application/json"},
		{"/v1/functions", "text/html", 406, api.MediaProblem},
		{"/v1/functions", "application/json;q=0", 406, api.MediaProblem},
		{"/v1/functions", "*/*, application/json;q=0", 406, api.MediaProblem},
		{"/v1/functions", "nonsense", 406, api.MediaProblem},
		{"/v1/functions/a/logs", "", 200, "text/plain; charset=utf-8"},
		{"/v1/functions/a/logs", "*/*", 200, "text/plain; charset=utf-8"},
		{"/v1/functions/a/logs", "application/x-ndjson, */*", 200, "text/plain; charset=utf-8"},
		{"/v1/functions/a/logs", "application/x-ndjson, */*;q=0.1", 200, api.MediaNDJSON},
		{"/v1/functions/a/logs", "application/json", 406, api.MediaProblem},
		{"/v1/templates/python/scaffold", "application/json", 406, api.MediaProblem},
	}
	for _, tt := range tests {
		got := f.call(t, "GET", tt.path, "", "Accept", tt.accept)
		if got.status != tt.status || got.header.Get("Content-Type") != tt.media {
			t.Errorf("%s with Accept %q: %d %s, want %d %s", tt.path, tt.accept, got.status, got.header.Get("Content-Type"), tt.status, tt.media)
		}
	}
}

func TestEveryAnswerIsNamedAndSealed(t *testing.T) {
	f := newFixture(t, "a")
	for _, path := range []string{"/healthz", "/metrics", "/nowhere", "/v1/functions", "/openapi.yaml", "/v1/functions/a/logs"} {
		got := f.call(t, "GET", path, "", "Origin", "https://evil.example")
		if id, err := uuid.Parse(got.header.Get(api.HeaderRequestID)); err != nil || id.Version() != 7 {
			t.Errorf("%s: request id %q, want a UUID of version 7", path, got.header.Get(api.HeaderRequestID))
		}
		for key, want := range map[string]string{
			"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store", "Referrer-Policy": "no-referrer",
			"Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
		} {
			if got := got.header.Get(key); got != want {
				t.Errorf("%s: %s = %q, want %q", path, key, got, want)
			}
		}
		for key := range got.header {
			if strings.HasPrefix(key, "Access-Control-") {
				t.Errorf("%s: %s opens the answer to other sites", path, key)
			}
		}
		if got := f.call(t, "GET", path, "", api.HeaderRequestID, "mine-1"); got.header.Get(api.HeaderRequestID) != "mine-1" {
			t.Errorf("%s: request id %q, want mine", path, got.header.Get(api.HeaderRequestID))
		}
		if got := f.call(t, "GET", path, "", api.HeaderRequestID, "not valid"); got.header.Get(api.HeaderRequestID) == "not valid" {
			t.Errorf("%s: an id that is not valid was kept", path)
		}
	}
}

// TestOtherSitesCannotChangeFunctions: a form on any web page could else deploy
// to the gateway of whoever looks at it.
func TestOtherSitesCannotChangeFunctions(t *testing.T) {
	f := newFixture(t, "a")
	body, media := formOf(t, part{"file", "f", "x"})
	for _, headers := range [][]string{
		{"Sec-Fetch-Site", "cross-site"},
		{"Origin", "https://evil.example"},
	} {
		got := f.call(t, "POST", "/upload", body, append(headers, "Content-Type", media)...)
		if got.status != 403 || got.problem(t).Code != "cross-origin" {
			t.Errorf("%v: %d %s, want 403", headers, got.status, got.body)
		}
	}
	if got := f.call(t, "POST", "/upload", body, "Sec-Fetch-Site", "same-origin", "Content-Type", media); got.status != 201 {
		t.Errorf("the gateway's own page: %d, want 201", got.status)
	}
	for _, row := range f.Table() {
		method, path := row[0], row[1]
		if method == "GET" {
			continue // its answer is for no other site to read
		}
		if got := f.call(t, method, strings.Replace(path, "{name}", "a", 1), "", "Sec-Fetch-Site", "cross-site"); got.status != 403 || got.problem(t).Code != "cross-origin" {
			t.Errorf("%s %s: %d %s, want 403", method, path, got.status, got.body)
		}
	}
}

// panicking is a catalogue whose methods panic.
type panicking struct{ fakeTemplates }

func (panicking) Templates() []orchestrator.Template { panic("secret of the panic") }

func TestPanic(t *testing.T) {
	f := newFixture(t, "a")
	f.Templates = panicking{}
	got := f.call(t, "GET", "/v1/templates", "")
	if got.status != 500 || got.problem(t).Code != "internal" || strings.Contains(got.body, "secret") {
		t.Errorf("answer = %d %s, want 500 without the text", got.status, got.body)
	}
	if log := f.log.String(); !strings.Contains(log, "secret of the panic") || !strings.Contains(log, "middleware_test.go") || !strings.Contains(log, got.header.Get(api.HeaderRequestID)) {
		t.Errorf("the log lacks the panic, its stack or the request id:\n%s", log)
	}
}

// TestPanicAfterTheAnswerBegan cuts the connection, so that the client does not
// take half an answer for a whole one.
func TestPanicAfterTheAnswerBegan(t *testing.T) {
	f := newFixture(t, "a")
	f.functions.logs = func(context.Context, orchestrator.LogOptions) iter.Seq2[orchestrator.FunctionLog, error] {
		return func(yield func(orchestrator.FunctionLog, error) bool) {
			yield(orchestrator.FunctionLog{LogLine: orchestrator.LogLine{Text: "one"}}, nil)
			panic("late")
		}
	}
	server := httptest.NewServer(f.Handler())
	defer server.Close()
	response, err := server.Client().Get(server.URL + "/v1/functions/a/logs?follow=true")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if _, err := response.Body.Read(make([]byte, 1)); err != nil {
		t.Fatalf("first line: %v", err)
	}
	var end error
	for end == nil {
		_, end = response.Body.Read(make([]byte, 1024))
	}
	if end.Error() != "unexpected EOF" {
		t.Errorf("the answer ends with %v, want it cut off", end)
	}
	if log := f.log.String(); !strings.Contains(log, "late") {
		t.Errorf("the log lacks the panic: %s", log)
	}
}

// TestInvokeIsLeftAlone: the data plane sees the request and the answer as they
// are, with nothing of the control API's.
func TestInvokeIsLeftAlone(t *testing.T) {
	f := newFixture(t)
	var seen http.ResponseWriter
	f.Invoke = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen = w
		w.WriteHeader(http.StatusTeapot)
		fmt.Fprint(w, r.Method, " ", r.URL.RequestURI())
	})
	for _, target := range []string{"/invoke/a", "/invoke/a/", "/invoke/a//b/../c?x=1", "/invoke/a/%2e%2e/x", "/invoke/"} {
		request := httptest.NewRequest("BREW", target, nil)
		request.Header.Set("Sec-Fetch-Site", "cross-site") // functions decide that by themselves
		recorder := httptest.NewRecorder()
		f.Handler().ServeHTTP(recorder, request)
		if recorder.Code != http.StatusTeapot || recorder.Body.String() != "BREW "+target {
			t.Errorf("%s: %d %q", target, recorder.Code, recorder.Body)
		}
		if len(recorder.Header()) != 0 {
			t.Errorf("%s: headers were added: %v", target, recorder.Header())
		}
		if seen != http.ResponseWriter(recorder) {
			t.Errorf("%s: the data plane's ResponseWriter is wrapped", target)
		}
	}
}

// TestUnavailableIsLogged: the client sees the class, the log the cause.
func TestUnavailableIsLogged(t *testing.T) {
	f := newFixture(t)
	f.functions.fail(&orchestrator.Error{Class: orchestrator.ErrUnavailable, Code: "store-unavailable", Detail: "the store does not answer", Cause: errors.New("disk on fire")})
	got := f.call(t, "GET", "/v1/functions", "")
	if got.status != 503 || strings.Contains(got.body, "fire") || !strings.Contains(f.log.String(), "disk on fire") {
		t.Errorf("answer %d %s, log %s", got.status, got.body, f.log)
	}
}

// TestFunctionsMayInvokeOnly: whoever calls from an instance's address gets the
// data plane and nothing of the control API, reading included.
func TestFunctionsMayInvokeOnly(t *testing.T) {
	f := newFixture(t, "a")
	f.Inside = func(addr netip.Addr) bool { return addr == netip.MustParseAddr("192.0.2.1") } // httptest's
	f.Invoke = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) })
	ask := func(method, path string) *httptest.ResponseRecorder {
		recorder := httptest.NewRecorder()
		f.Handler().ServeHTTP(recorder, httptest.NewRequest(method, path, nil))
		return recorder
	}
	for _, path := range []string{"/v1/functions", "/v1/functions/a", "/healthz", "/metrics", "/openapi.yaml", "/nowhere"} {
		for _, method := range []string{"GET", "DELETE"} {
			if got := ask(method, path); got.Code != http.StatusForbidden || !strings.Contains(got.Body.String(), "called-from-inside") {
				t.Errorf("%s %s: %d %s, want 403 called-from-inside", method, path, got.Code, got.Body)
			}
		}
	}
	if got := ask("GET", "/invoke/a"); got.Code != http.StatusTeapot {
		t.Errorf("an invocation: %d, want the data plane's answer", got.Code)
	}
}
