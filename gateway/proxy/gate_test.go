package proxy_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/kilnfaas/kiln/gateway/auth"
	"github.com/kilnfaas/kiln/gateway/proxy"
	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/storetest"
)

// gated is a data plane with a guard, and a function that answers with the
// request's head.
func gated(t testing.TB, way string, change func(*orchestrator.Spec)) (*rig, *auth.Guard) {
	t.Helper()
	guard, err := auth.Open(context.Background(), auth.Config{Store: storetest.NewFakeTokens()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { guard.Close() })
	in := serve(t, func(p *peer, _ int) {
		for head := p.request(); head != ""; head = p.request() {
			p.say("HTTP/1.1 200 OK\nAccess-Control-Allow-Origin: https://of-the-function.test\nContent-Length: " + strconv.Itoa(len(head)) + "\n\n" + head)
		}
	})
	return newRigWith(t, way, proxy.Config{Handler: &proxy.Handler{Gate: guard}}, change, in.addr), guard
}

func tokenFor(t testing.TB, g *auth.Guard, name string, scope orchestrator.Scope, functions ...string) string {
	t.Helper()
	_, secret, err := g.Create(t.Context(), orchestrator.Token{Name: name, Scopes: []orchestrator.Scope{scope}, Functions: functions})
	if err != nil {
		t.Fatal(err)
	}
	return "Bearer " + secret
}

// ask sends one request and returns the answer with its body read.
func (g *rig) ask(method string, fields ...string) (*http.Response, string) {
	g.t.Helper()
	p := g.dial()
	request := method + " /invoke/echo/path HTTP/1.1\nHost: a\n"
	for i := 0; i+1 < len(fields); i += 2 {
		request += fields[i] + ": " + fields[i+1] + "\n"
	}
	p.say(request + "\n")
	response, err := http.ReadResponse(p.br, &http.Request{Method: method})
	if err != nil {
		g.t.Fatal(err)
	}
	var body bytes.Buffer
	if _, err := body.ReadFrom(response.Body); err != nil {
		g.t.Fatal(err)
	}
	return response, body.String()
}

func TestAccess(t *testing.T) {
	each(t, func(t *testing.T, way string) {
		for _, access := range []orchestrator.Access{"", orchestrator.AccessPublic, orchestrator.AccessToken, orchestrator.AccessInternal, "of-a-later-version"} {
			g, guard := gated(t, way, func(s *orchestrator.Spec) { s.Access = access })
			public := access == "" || access == orchestrator.AccessPublic
			for _, test := range []struct {
				who, header     string
				token, internal string // codes of refusals, "" = admitted
			}{
				{"nobody", "", orchestrator.CodeTokenMissing, "function-internal"},
				{"a stranger", "Bearer kiln_nonsense", orchestrator.CodeTokenInvalid, "function-internal"},
				{"a foreigner", "Basic eDp5", orchestrator.CodeTokenInvalid, "function-internal"},
				{"a reader", tokenFor(t, guard, "reader", orchestrator.ScopeRead), "scope-missing", "function-internal"},
				{"another's", tokenFor(t, guard, "others", orchestrator.ScopeInvoke, "other-*"), "function-denied", "function-internal"},
				{"an invoker", tokenFor(t, guard, "invoker", orchestrator.ScopeInvoke), "", "function-internal"},
				{"its invoker", tokenFor(t, guard, "its", orchestrator.ScopeInvoke, "ech*"), "", "function-internal"},
				{"an administrator", tokenFor(t, guard, "root", orchestrator.ScopeAdmin), "", ""},
			} {
				want := test.internal
				switch {
				case public:
					want = ""
				case access == orchestrator.AccessToken:
					want = test.token
				}
				var fields []string
				if test.header != "" {
					fields = []string{"Authorization", test.header}
				}
				response, body := g.ask("GET", fields...)
				switch {
				case want == "" && response.StatusCode != http.StatusOK, want != "" && !strings.Contains(body, `"code":"`+want+`"`):
					t.Errorf("%q to %s = %d %s, want %q", access, test.who, response.StatusCode, body, want)
				case strings.HasPrefix(want, "token-") != (response.StatusCode == http.StatusUnauthorized):
					t.Errorf("%q to %s = %d", access, test.who, response.StatusCode)
				}
				// Kiln's tokens are not the function's to see; all else is.
				if strings.Contains(body, "kiln_") || want == "" && test.header == "Basic eDp5" && !strings.Contains(body, "Basic eDp5") {
					t.Errorf("%q to %s: the function got %s", access, test.who, body)
				}
			}
		}
	})
}

// A token that a client sends after the body goes to no function either.
func TestNoTokenInTrailers(t *testing.T) {
	everyClient(t, func(t *testing.T, way, protocol string) {
		in := serveHTTP(t, func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			json.NewEncoder(w).Encode(r.Trailer)
		})
		g := newRig(t, way, nil, in.addr)
		req := newRequest(t, "POST", g.url("/"), struct{ io.Reader }{strings.NewReader("hello")})
		req.Trailer = http.Header{"Sum": {"abc"}, "Who": {"Bearer " + auth.Prefix + "of-whomever"}}
		_, body := do(t, g.client(protocol), req)
		if got, want := strings.TrimSpace(string(body)), `{"Sum":["abc"],"Who":null}`; got != want { // announced, and not sent
			t.Errorf("the function got the trailers %s, want %s", got, want)
		}
	})
}

// TestWithoutAGate nobody invokes what is guarded.
func TestWithoutAGate(t *testing.T) {
	each(t, func(t *testing.T, way string) {
		g := newRig(t, way, func(s *orchestrator.Spec) { s.Access = orchestrator.AccessToken }, fixedInstance(t, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").addr)
		if response, body := g.ask("GET"); response.StatusCode != http.StatusInternalServerError {
			t.Errorf("answer = %d %s, want 500", response.StatusCode, body)
		}
	})
}

func TestFunctionTooOften(t *testing.T) {
	each(t, func(t *testing.T, way string) {
		g, _ := gated(t, way, func(s *orchestrator.Spec) { s.Rate = orchestrator.Rate{PerSecond: 0.1, Burst: 3} })
		for range 3 {
			if response, body := g.ask("GET"); response.StatusCode != http.StatusOK {
				t.Fatalf("within the burst = %d %s, want 200", response.StatusCode, body)
			}
		}
		response, body := g.ask("GET")
		if response.StatusCode != http.StatusTooManyRequests || !strings.Contains(body, `"code":"function-rate"`) || response.Header.Get("Retry-After") != "10" {
			t.Errorf("beyond it = %d %s, Retry-After %q; want 429 function-rate and 10", response.StatusCode, body, response.Header.Get("Retry-After"))
		}
	})
}

// TestCORS asks as browsers do: what they are told decides what they let pages
// do.
func TestCORS(t *testing.T) {
	const app, evil = "https://app.test", "https://evil.test"
	cors := orchestrator.CORS{Origins: []string{app, "http://localhost:3000"}, Methods: []string{"PUT"}, Headers: []string{"Authorization"}, Expose: []string{"X-Count"}, Credentials: true, MaxAge: orchestrator.Duration(6e11)}
	each(t, func(t *testing.T, way string) {
		g, _ := gated(t, way, func(s *orchestrator.Spec) { s.CORS, s.Access = cors, orchestrator.AccessToken })
		preflight := func(origin string) *http.Response {
			response, _ := g.ask("OPTIONS", "Origin", origin, "Access-Control-Request-Method", "PUT")
			if response.StatusCode != http.StatusNoContent || response.Header.Get("Vary") != "Origin" {
				t.Errorf("a preflight of %s = %d, Vary %q; want 204 and Origin", origin, response.StatusCode, response.Header.Get("Vary"))
			}
			return response
		}
		allowed := preflight(app)
		for name, want := range map[string]string{
			"Access-Control-Allow-Origin": app, "Access-Control-Allow-Methods": "PUT", "Access-Control-Allow-Headers": "Authorization",
			"Access-Control-Allow-Credentials": "true", "Access-Control-Max-Age": "600",
		} {
			if got := allowed.Header.Get(name); got != want {
				t.Errorf("preflight: %s = %q, want %q", name, got, want)
			}
		}
		for name := range preflight(evil).Header {
			if strings.HasPrefix(name, "Access-Control-") {
				t.Errorf("a preflight of another origin is told %s", name)
			}
		}
		// A refusal has to be readable for the page, too.
		refused, _ := g.ask("PUT", "Origin", app)
		if refused.StatusCode != http.StatusUnauthorized || refused.Header.Get("Access-Control-Allow-Origin") != app {
			t.Errorf("without a token = %d, %q", refused.StatusCode, refused.Header.Get("Access-Control-Allow-Origin"))
		}
		g, _ = gated(t, way, func(s *orchestrator.Spec) { s.CORS = cors })
		for origin, want := range map[string]string{app: app, "http://localhost:3000": "http://localhost:3000", evil: "", "null": "", "https://app.test.evil.test": ""} {
			response, _ := g.ask("PUT", "Origin", origin)
			if got := response.Header.Get("Access-Control-Allow-Origin"); got != want || response.StatusCode != http.StatusOK || response.Header.Get("Vary") != "Origin" {
				t.Errorf("%s is told %d %q, want 200 %q", origin, response.StatusCode, got, want)
			}
			if got := response.Header.Get("Access-Control-Expose-Headers"); (got != "") != (want != "") {
				t.Errorf("%s is told Access-Control-Expose-Headers %q", origin, got)
			}
		}
		g, _ = gated(t, way, func(s *orchestrator.Spec) {
			s.CORS = orchestrator.CORS{Origins: []string{"*"}, Credentials: true} // the second is for pages that are named alone
		})
		if response, _ := g.ask("GET", "Origin", evil); response.Header.Get("Access-Control-Allow-Origin") != "*" || response.Header.Get("Access-Control-Allow-Credentials") != "" {
			t.Errorf("everybody is told %q", response.Header)
		}
		// Where the gateway was told nothing it says nothing.
		g, _ = gated(t, way, nil)
		response, body := g.ask("OPTIONS", "Origin", app, "Access-Control-Request-Method", "PUT")
		if response.StatusCode != http.StatusOK || !strings.Contains(body, "OPTIONS /path") || response.Header.Get("Access-Control-Allow-Origin") != "https://of-the-function.test" {
			t.Errorf("without cors = %d %q %s, want the function's own answer", response.StatusCode, response.Header, body)
		}
	})
}

// TestGuardedCallAllocatesNothing is TestWarmCallAllocatesNothing with a token
// that is checked, and taken out of what the function gets.
func TestGuardedCallAllocatesNothing(t *testing.T) {
	guard, err := auth.Open(context.Background(), auth.Config{Store: storetest.NewFakeTokens()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { guard.Close() })
	in := fixedInstance(t, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
	g := newRigWith(t, "fast", proxy.Config{Handler: &proxy.Handler{Gate: guard}}, func(s *orchestrator.Spec) { s.Access = orchestrator.AccessToken }, in.addr)
	p := g.dial()
	request := []byte("GET /invoke/echo HTTP/1.1\r\nHost: a\r\nAuthorization: " + tokenFor(t, guard, "a", orchestrator.ScopeInvoke) + "\r\n\r\n")
	buf := make([]byte, 8<<10)
	if allocs := testing.AllocsPerRun(500, func() {
		if _, err := p.TCPConn.Write(request); err != nil {
			t.Fatal(err)
		}
		for n := 0; !bytes.Contains(buf[:n], []byte("hello")); {
			m, err := p.TCPConn.Read(buf[n:])
			if n += m; err != nil {
				t.Fatal(err)
			}
		}
	}); allocs != 0 {
		t.Errorf("%v allocations a call, want none", allocs)
	}
}
