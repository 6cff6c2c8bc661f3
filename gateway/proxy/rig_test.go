package proxy_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/kilnfaas/kiln/gateway/problem"
	"github.com/kilnfaas/kiln/gateway/proxy"
	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/pool"
	"github.com/kilnfaas/kiln/orchestrator/route"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait of a test; nothing waits that long when it works. The
// bodies of megabytes change hands hundreds of times, which takes seconds on a
// machine where each change waits for others.
const patience = 30 * time.Second

// loops is how many a Listener of the tests has, so that they share what they share.
const loops = 2

// instances is a pool.Launcher over servers that listen already: each Launch
// takes the next address.
type instances struct {
	mu      sync.Mutex
	addrs   []string
	n       int
	stopped []string

	// unsure, while held, keeps Verify from finding out: a machine may take longer
	// for that than its engine takes to tell of a death.
	unsure *sync.Mutex
}

func (l *instances) Launch(ctx context.Context, order pool.Order) (pool.Launched, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.n >= len(l.addrs) {
		return pool.Launched{}, orchestrator.Errorf(orchestrator.ErrExhausted, "no-capacity", "the test has no more instances")
	}
	l.n++
	id := fmt.Sprintf("i%d", l.n)
	return pool.Launched{ID: id, Addr: l.addrs[l.n-1], Origin: pool.OriginImage, Token: "of-" + id}, nil
}

func (l *instances) Freeze(context.Context, string) error { return nil }
func (l *instances) Thaw(context.Context, string) error   { return nil }

// Verify connects, as the launcher on containers does.
func (l *instances) Verify(_ context.Context, _ orchestrator.Release, in pool.Launched) error {
	l.unsure.Lock()
	defer l.unsure.Unlock()
	conn, err := net.DialTimeout("tcp", in.Addr, patience)
	if err != nil {
		return err
	}
	return conn.Close()
}
func (l *instances) Stop(_ context.Context, id string, _ time.Duration) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stopped = append(l.stopped, id)
	return nil
}

// observation is one call of Observe.
type observation struct {
	name                   string
	code                   int
	queue, start, function time.Duration
}

// rig is a data plane with one function "echo" in front of servers of the test.
type rig struct {
	t      testing.TB
	routes *routes
	pool   *pool.Pool
	addr   string // of the gateway
	seen   chan observation
	fast   *proxy.Listener // of the way "fast"
	others atomic.Int64    // connections that net/http's server got
	unsure sync.Mutex      // see instances
}

type routes struct {
	mu sync.Mutex
	m  map[string]*route.Route
	// left is how often a name is found before it is gone.
	left map[string]int

	asked atomic.Int64 // how often Lookup was called
}

func (r *routes) Lookup(name string) *route.Route {
	r.asked.Add(1)
	r.mu.Lock()
	defer r.mu.Unlock()
	if n, ok := r.left[name]; ok {
		if r.left[name] = n - 1; n == 0 {
			delete(r.m, name)
		}
	}
	return r.m[name]
}

// forgetAfter removes a name once it was found n times more.
func (r *routes) forgetAfter(name string, n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.left = map[string]int{name: n}
}

func (r *routes) set(name string, route *route.Route) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.m[name] = route
}

// spec is the release that tests change.
func spec(change func(*orchestrator.Spec)) orchestrator.Release {
	s := orchestrator.DefaultSpec()
	s.Name = "echo"
	s.Scale.FreezeAfter = 0
	s.Timeout = orchestrator.Duration(patience)
	if change != nil {
		change(&s)
	}
	return orchestrator.Release{Spec: s, Revision: orchestrator.Revision{ID: "r1-abcdef", Function: s.Name, Spec: s}}
}

// ways are the data planes that the conformance tests run on.
var ways = []string{"complete", "fast"}

// each runs a test on every way through the data plane.
func each(t *testing.T, f func(t *testing.T, way string)) {
	for _, way := range ways {
		t.Run(way, func(t *testing.T) { f(t, way) })
	}
}

// newRig starts a data plane of a way in front of addrs.
func newRig(t testing.TB, way string, change func(*orchestrator.Spec), addrs ...string) *rig {
	t.Helper()
	return newRigWith(t, way, proxy.Config{}, change, addrs...)
}

func newRigWith(t testing.TB, way string, config proxy.Config, change func(*orchestrator.Spec), addrs ...string) *rig {
	t.Helper()
	g := &rig{t: t, routes: &routes{m: map[string]*route.Route{}}, seen: make(chan observation, 1024)}
	handler := &proxy.Handler{Routes: g.routes, Fail: problem.Write, Observe: g.observe}
	if config.Handler != nil {
		handler.Fail, handler.Gate = config.Handler.Fail, config.Handler.Gate
		if handler.Fail == nil {
			handler.Fail = problem.Write
		}
	}
	config.Handler = handler
	if config.Loops == 0 {
		config.Loops = loops
	}
	release := spec(change)
	g.pool = g.newPool(release, proxy.NewConns, addrs...)
	g.routes.set("echo", &route.Route{Release: &release, Pool: g.pool})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g.addr = listener.Addr().String()
	if way == "fast" {
		fast, err := proxy.Listen(listener.(*net.TCPListener), config)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			if err := fast.Shutdown(ctx); err != nil {
				t.Errorf("Shutdown: %v", err)
			}
		})
		g.fast, listener = fast, fast
	}
	server := &http.Server{Handler: handler, Protocols: new(http.Protocols), ErrorLog: log.New(io.Discard, "", 0)}
	server.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			g.others.Add(1)
		}
	}
	server.Protocols.SetHTTP1(true)
	server.Protocols.SetUnencryptedHTTP2(true)
	served := make(chan struct{})
	go func() {
		defer close(served)
		server.Serve(listener)
	}()
	t.Cleanup(func() {
		server.Close()
		<-served
	})
	return g
}

// newPool makes a pool over servers that listen.
func (g *rig) newPool(release orchestrator.Release, conns func(pool.Launched) pool.Conns, addrs ...string) *pool.Pool {
	var mu sync.Mutex
	var made []pool.Conns
	p := pool.New(&pool.Config{Launcher: &instances{addrs: addrs, unsure: &g.unsure}, NewConns: func(in pool.Launched) pool.Conns {
		mu.Lock()
		defer mu.Unlock()
		made = append(made, conns(in))
		return made[len(made)-1]
	}}, release)
	g.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		p.Close(ctx)
		for _, c := range made {
			c.CloseIdle()
		}
	})
	return p
}

func (g *rig) observe(name string, code int, queue, start, function time.Duration) {
	select {
	case g.seen <- observation{name, code, queue, start, function}:
	default: // a test that makes so many does not look at them
	}
}

// observed returns the next counted invocation.
func (g *rig) observed() observation {
	g.t.Helper()
	select {
	case o := <-g.seen:
		return o
	case <-time.After(patience):
		g.t.Fatal("no invocation was counted")
		return observation{}
	}
}

// dial connects to the gateway.
func (g *rig) dial() *peer {
	g.t.Helper()
	conn, err := net.Dial("tcp", g.addr)
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(patience))
	return &peer{t: g.t, TCPConn: conn.(*net.TCPConn), br: bufio.NewReader(conn)}
}

// url returns the address of a path of the function echo.
func (g *rig) url(path string) string { return "http://" + g.addr + "/invoke/echo" + path }

// client returns an HTTP client of protocol "h1" or "h2c".
func (g *rig) client(protocol string) *http.Client {
	transport := &http.Transport{Protocols: new(http.Protocols), DisableCompression: true}
	transport.Protocols.SetHTTP1(protocol == "h1")
	transport.Protocols.SetUnencryptedHTTP2(protocol == "h2c")
	g.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: patience}
}

// peer is one end of a TCP connection that a test speaks on by hand.
type peer struct {
	t testing.TB
	*net.TCPConn
	br *bufio.Reader
}

// say writes text; "\n" is written as CRLF.
func (p *peer) say(text string) {
	p.t.Helper()
	if _, err := io.WriteString(p.TCPConn, strings.ReplaceAll(text, "\n", "\r\n")); err != nil {
		p.t.Errorf("write: %v", err)
	}
}

// hear reads exactly the text; "\n" stands for CRLF.
func (p *peer) hear(want string) {
	p.t.Helper()
	want = strings.ReplaceAll(want, "\n", "\r\n")
	got := make([]byte, len(want))
	n, err := io.ReadFull(p.br, got)
	if string(got[:n]) != want {
		p.t.Errorf("read %q (%v), want %q", got[:n], err, want)
	}
}

// head reads up to an empty line and returns it without CRs.
func (p *peer) head() string {
	p.t.Helper()
	var b strings.Builder
	for {
		line, err := p.br.ReadString('\n')
		b.WriteString(strings.TrimSuffix(line, "\r\n"))
		b.WriteString("\n")
		if err != nil {
			p.t.Errorf("read a head: %v after %q", err, b.String())
			return b.String()
		}
		if line == "\r\n" {
			return b.String()
		}
	}
}

// ended waits for the end of the stream and returns what came before it.
func (p *peer) ended() (string, error) {
	rest, err := io.ReadAll(p.br)
	if err != nil && (errors.Is(err, net.ErrClosed) || isTimeout(err)) {
		p.t.Helper()
		p.t.Errorf("the connection did not end: %v", err)
	}
	return string(rest), err
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

// instance is a server that a test speaks for by hand, one function call a
// connection.
type instance struct {
	addr     string
	conns    atomic.Int64
	listener net.Listener
}

// serve starts an instance. The function is called for each connection, with its
// number from 1; the connection is closed when it returns.
func serve(t testing.TB, f func(p *peer, n int)) *instance {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	in := &instance{addr: listener.Addr().String(), listener: listener}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			n := int(in.conns.Add(1))
			wg.Go(func() {
				defer conn.Close()
				conn.SetDeadline(time.Now().Add(patience))
				f(&peer{t: t, TCPConn: conn.(*net.TCPConn), br: bufio.NewReader(conn)}, n)
			})
		}
	})
	t.Cleanup(func() {
		listener.Close()
		wg.Wait()
	})
	return in
}

// serveHTTP starts an instance with Go's server.
func serveHTTP(t *testing.T, f http.HandlerFunc) *instance {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	in := &instance{addr: listener.Addr().String()}
	server := &http.Server{Handler: f, ConnState: func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			in.conns.Add(1)
		}
	}}
	served := make(chan struct{})
	go func() {
		defer close(served)
		server.Serve(listener)
	}()
	t.Cleanup(func() {
		server.Close()
		<-served
	})
	return in
}

// request reads a request's head on an instance's connection; it returns "" at
// the end of the connection.
func (p *peer) request() string {
	if _, err := p.br.Peek(1); err != nil {
		return ""
	}
	return p.head()
}
