package events_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/events"
	"github.com/kilnfaas/kiln/orchestrator/porttest"
)

func outbound(t *testing.T, o *events.Outbound) *events.Outbound {
	t.Helper()
	o.Open()
	t.Cleanup(func() { o.Close() })
	return o
}

func delivery(target string) events.Call {
	return events.Call{Invocation: orchestrator.Invocation{ID: "1", Target: target, Header: http.Header{"X": {"y"}}}, Body: []byte("body")}
}

func TestDeliverSigns(t *testing.T) {
	secret := []byte("s3cret")
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		at, _, _ := strings.Cut(strings.TrimPrefix(r.Header.Get(events.HeaderSignature), "t="), ",")
		seconds, parseErr := strconv.ParseInt(at, 10, 64)
		if err != nil || parseErr != nil || r.Header.Get(events.HeaderSignature) != events.Sign(secret, time.Unix(seconds, 0), body) ||
			string(body) != "body" || r.Header.Get("X") != "y" || r.Method != http.MethodPost {
			t.Errorf("got %s %v %q, want it signed", r.Method, r.Header, body)
		}
		w.WriteHeader(http.StatusNoContent)
	}))
	defer server.Close()
	o := outbound(t, &events.Outbound{Secret: secret, AllowPrivate: true})
	if got := o.Deliver(t.Context(), delivery(server.URL)); got.Err != nil || got.Status != http.StatusNoContent {
		t.Errorf("answer %+v", got)
	}
}

func TestSignatureIsStable(t *testing.T) {
	// printf '1700000000.body' | openssl dgst -sha256 -hmac s3cret
	const want = "t=1700000000,v1=067ca2b7916a15b29d55afb28498ad9dc9495a40829e9c2e4e20dd8ed42f04fa"
	got := events.Sign([]byte("s3cret"), time.Unix(1700000000, 0), []byte("body"))
	if got != want {
		t.Errorf("signature %s, want %s", got, want)
	}
}

func TestDeliverRefusesThisMachine(t *testing.T) {
	var reached atomic.Bool
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached.Store(true) }))
	defer server.Close()
	_, port, err := net.SplitHostPort(strings.TrimPrefix(server.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	o := outbound(t, &events.Outbound{})
	for _, host := range []string{"127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "0.0.0.0"} {
		got := o.Deliver(t.Context(), delivery("http://"+net.JoinHostPort(strings.Trim(host, "[]"), port)+"/"))
		if got.Err == nil {
			t.Errorf("%s: answer %+v, want a refusal", host, got)
		}
		verdict := events.Decide(orchestrator.DefaultSpec().Async, events.Try{Answer: got})
		if host == "127.0.0.1" && (!errors.Is(got.Err, orchestrator.ErrInvalid) || verdict.Status != orchestrator.InvocationFailed) {
			t.Errorf("%s: %v, then %+v; want a failure that is not tried again", host, got.Err, verdict)
		}
	}
	if reached.Load() {
		t.Error("the server was reached")
	}
}

func TestDeliverFollowsNoRedirect(t *testing.T) {
	var hits atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		hits.Add(1)
		http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
	}))
	defer server.Close()
	got := outbound(t, &events.Outbound{AllowPrivate: true}).Deliver(t.Context(), delivery(server.URL))
	if !errors.Is(got.Err, orchestrator.ErrInvalid) || hits.Load() != 1 {
		t.Errorf("answer %+v after %d requests", got, hits.Load())
	}
}

func TestDeliverToNobody(t *testing.T) {
	got := outbound(t, &events.Outbound{AllowPrivate: true}).Deliver(t.Context(), delivery("http://"+porttest.Address(t)))
	if v := events.Decide(orchestrator.DefaultSpec().Async, events.Try{Answer: got}); !v.Counted || v.Status != orchestrator.InvocationWaiting {
		t.Errorf("%v, then %+v; want an attempt that counts", got.Err, v)
	}
}

func TestDeliverToSubject(t *testing.T) {
	var subject string
	o := outbound(t, &events.Outbound{Publish: func(_ context.Context, s string, _ http.Header, _ []byte) error {
		subject = s
		return nil
	}})
	if got := o.Deliver(t.Context(), delivery("nats:orders.done")); got.Err != nil || subject != "orders.done" {
		t.Errorf("answer %+v, subject %q", got, subject)
	}
}

func TestPublic(t *testing.T) {
	for address, want := range map[string]bool{
		"1.1.1.1": true, "2606:4700:4700::1111": true, "93.184.216.34": true,
		"127.0.0.1": false, "10.1.2.3": false, "172.16.0.1": false, "192.168.1.1": false, "169.254.169.254": false, "0.0.0.0": false,
		"100.64.0.1": false, "224.0.0.1": false, "255.255.255.255": false, "::": false, "::1": false, "fe80::1": false, "fc00::1": false, "fd00::1": false,
		"::ffff:127.0.0.1": false, "::ffff:10.0.0.1": false, "64:ff9b::7f00:1": false, "2002:7f00:1::": false, "ff02::1": false, "::ffff:1.1.1.1": true,
	} {
		if got := events.Public(netip.MustParseAddr(address)); got != want {
			t.Errorf("%s: public %v, want %v", address, got, want)
		}
	}
}

func TestCheckCallback(t *testing.T) {
	for text, ok := range map[string]bool{
		"https://example.com/cb?x=1": true, "http://example.com:8080": true,
		"": false, "ftp://example.com": false, "/relative": false, "https://": false, "https://user:pass@example.com": false, "https://example.com/" + strings.Repeat("x", 2000): false,
	} {
		if err := events.CheckCallback(text); (err == nil) != ok {
			t.Errorf("%.60q: %v", text, err)
		}
	}
}
