package proxy_test

import (
	"context"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/kilnfaas/kiln/gateway/proxy"
	"github.com/kilnfaas/kiln/orchestrator"
)

// TestCommonCallsStayInTheLoops: what the loops are for never reaches net/http.
func TestCommonCallsStayInTheLoops(t *testing.T) {
	g := newRig(t, "fast", func(s *orchestrator.Spec) { s.MaxRequest = 100 }, echo(t).addr)
	p := g.dial()
	for _, request := range []string{
		"GET /invoke/echo HTTP/1.1\nHost: a\n\n",
		"HEAD /invoke/echo/x?y HTTP/1.1\nHost: a\nConnection: keep-alive\nAccept: */*\n\n",
		"POST /invoke/echo HTTP/1.1\nHost: a\nContent-Length: 5\nContent-Type: text/plain\n\nhello",
		"DELETE /invoke/echo HTTP/1.1\nHost: a\nKiln-Deadline: 9999999999999\nKiln-Request-Id: x\n\n",
		"GET /invoke/nobody HTTP/1.1\nHost: a\n\n",
		"POST /invoke/echo HTTP/1.1\nHost: a\nContent-Length: 101\n\n" + strings.Repeat("x", 101),
	} {
		p.say(request)
		p.answer(strings.Fields(request)[0])
	}
	if n := g.others.Load(); n != 0 {
		t.Errorf("%d connections were handed over, want none", n)
	}
	p = g.dial()
	p.say("POST /invoke/echo HTTP/1.1\nHost: a\nTransfer-Encoding: chunked\n\n0\n\n")
	p.want(200, "/ ")
	if n := g.others.Load(); n != 1 {
		t.Errorf("%d connections were handed over, want 1", n)
	}
}

func TestSlowHeadsAndIdleClientsAreClosed(t *testing.T) {
	const head, idling = 500 * time.Millisecond, 600 * time.Millisecond // a busy machine must get a whole head there in time
	g := newRigWith(t, "fast", proxy.Config{HeadTimeout: head, IdleTimeout: idling}, nil, echo(t).addr)
	silent, slow, idle := g.dial(), g.dial(), g.dial()
	begin := time.Now()
	slow.say("GET /invoke/echo HTTP/1.1\nHo")
	idle.say(get)
	idle.want(200, "/ ")
	for name, p := range map[string]*peer{"silent": silent, "slow": slow, "idle": idle} {
		if rest, err := p.ended(); rest != "" || err != nil {
			t.Errorf("%s: %q, %v", name, rest, err)
		}
	}
	if took := time.Since(begin); took < idling {
		t.Errorf("all were closed after %s, which is too early", took)
	}
}

// TestTimesAreNotOfTheLastWakeUp: a client that comes after the loops have slept
// for longer than it has for its head has its whole time.
func TestTimesAreNotOfTheLastWakeUp(t *testing.T) {
	const limit = 500 * time.Millisecond
	g := newRigWith(t, "fast", proxy.Config{HeadTimeout: limit, IdleTimeout: limit}, nil, echo(t).addr)
	time.Sleep(limit + limit/5)
	for range 2 {
		p := g.dial()
		p.say(get)
		p.want(200, "/ ")
		p.say(get)
		p.want(200, "/ ")
	}
}

func TestConnectionsAreBounded(t *testing.T) {
	g := newRigWith(t, "fast", proxy.Config{MaxClients: 2}, nil, echo(t).addr)
	first, second, third := g.dial(), g.dial(), g.dial() // the kernel takes the third
	for _, p := range []*peer{first, second} {
		p.say(get)
		p.want(200, "/ ")
	}
	third.say(get)
	third.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if _, err := third.br.Peek(1); !isTimeout(err) {
		t.Errorf("a third connection was served: %v", err)
	}
	third.SetReadDeadline(time.Now().Add(patience))
	first.say("GET /healthz HTTP/1.1\nHost: a\n\n") // handed over, and still counted
	first.answer("GET")
	third.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if _, err := third.br.Peek(1); !isTimeout(err) {
		t.Errorf("a third connection was served: %v", err)
	}
	third.SetReadDeadline(time.Now().Add(patience))
	first.Close()
	third.want(200, "/ ")
}

// TestPanic: a defect that one request meets ends that request's connection.
func TestPanic(t *testing.T) {
	broken := &proxy.Handler{Fail: func(http.ResponseWriter, *http.Request, error) { panic("test") }}
	g := newRigWith(t, "fast", proxy.Config{Handler: broken}, nil, echo(t).addr)
	well, ill := g.dial(), g.dial()
	ill.say("GET /invoke/nobody HTTP/1.1\nHost: a\n\n")
	ill.ended()
	well.say(get)
	well.want(200, "/ ")
}

// TestLoopsShareConnections: two clients on two loops, one slot. The instance
// sees one connection.
func TestLoopsShareConnections(t *testing.T) {
	in := serve(t, func(p *peer, _ int) {
		for p.request() != "" {
			p.say("HTTP/1.1 200 OK\nContent-Length: 2\n\nok")
		}
	})
	g := newRig(t, "fast", func(s *orchestrator.Spec) { s.Concurrency = 1 }, in.addr)
	one, two := g.dial(), g.dial()
	for range 50 {
		for _, p := range []*peer{one, two} {
			p.say(get)
			p.want(200, "ok")
		}
	}
	if n := in.conns.Load(); n != 1 {
		t.Errorf("%d connections to an instance with one slot, want 1", n)
	}
}

func TestCloseTwice(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	fast, err := proxy.Listen(listener.(*net.TCPListener), proxy.Config{Handler: &proxy.Handler{}})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := fast.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
		if err := fast.Shutdown(context.Background()); err != nil {
			t.Errorf("Shutdown: %v", err)
		}
	}
}
