package proxy_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kilnfaas/kiln/gateway/proxy"
	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/porttest"
	"github.com/kilnfaas/kiln/orchestrator/route"
)

func TestUnreachableInstanceIsReplaced(t *testing.T) {
	each(t, func(t *testing.T, way string) {
		in := serveHTTP(t, func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) })
		g := newRig(t, way, nil, porttest.Address(t), in.addr)
		p := g.dial()
		p.say(post)
		if head := p.head(); !strings.HasPrefix(head, "HTTP/1.1 200 ") {
			t.Errorf("head %q", head)
		}
		p.hear("hello")
		if got := g.pool.Stats().Unreachable; got != 1 {
			t.Errorf("%d instances were found unreachable, want 1", got)
		}
	})
}

// deaf returns an address at which packets are dropped, as those to a container
// whose network was cut: more connections than the listener's queue takes.
func deaf(t *testing.T) string {
	t.Helper()
	_, addr := deafSocket(t)
	return addr
}

// deafSocket is deaf with the socket that listens: who accepts from it lets
// connections in that were begun before.
func deafSocket(t *testing.T) (fd int, addr string) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), unix.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	addr = fmt.Sprintf("127.0.0.1:%d", name.(*unix.SockaddrInet4).Port)
	for range 16 {
		conn, err := net.DialTimeout("tcp", addr, 100*time.Millisecond)
		if err != nil {
			return fd, addr
		}
		t.Cleanup(func() { conn.Close() })
	}
	t.Skip("this kernel takes any number of connections")
	return 0, ""
}

// listenerOf returns a listener on a duplicate of a socket.
func listenerOf(t *testing.T, socket int) net.Listener {
	t.Helper()
	fd, err := unix.FcntlInt(uintptr(socket), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	file := os.NewFile(uintptr(fd), "listener")
	defer file.Close()
	listener, err := net.FileListener(file)
	if err != nil {
		t.Fatal(err)
	}
	return listener
}

// TestAddressOfAnotherContainer: while a connection is made, the instance ends and
// the next container gets its address. That one is not asked.
func TestAddressOfAnotherContainer(t *testing.T) {
	each(t, func(t *testing.T, way string) {
		in := serveHTTP(t, func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) })
		socket, addr := deafSocket(t)
		g := newRig(t, way, nil, addr, in.addr)
		p := g.dial()
		p.say(post)
		g.until("a call is at the instance", func(s orchestrator.FunctionStatus) bool { return s.InFlight > 0 })
		g.pool.Displaced(addr, "another")
		listener := listenerOf(t, socket)
		other := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusForbidden)
		})}
		served := make(chan struct{})
		go func() {
			defer close(served)
			other.Serve(listener)
		}()
		t.Cleanup(func() {
			other.Close()
			<-served
		})
		if head := p.head(); !strings.HasPrefix(head, "HTTP/1.1 200 ") {
			t.Errorf("head %q", head)
		}
		p.hear("hello")
	})
}

// TestInstanceThatCannotBeReached: there is time left for another instance.
func TestInstanceThatCannotBeReached(t *testing.T) {
	each(t, func(t *testing.T, way string) {
		in := serveHTTP(t, func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) })
		g := newRig(t, way, timeout(4*time.Second), deaf(t), in.addr)
		p := g.dial()
		p.say(post)
		if head := p.head(); !strings.HasPrefix(head, "HTTP/1.1 200 ") {
			t.Errorf("head %q", head)
		}
		p.hear("hello")
		if got := g.pool.Stats().Unreachable; got != 1 {
			t.Errorf("%d instances were found unreachable, want 1", got)
		}
	})
}

func TestInstancesAreNotBlamedForThisMachine(t *testing.T) {
	each(t, func(t *testing.T, way string) {
		g := newRig(t, way, nil, "127.0.0.1:99999") // no socket can be made for it
		p := g.dial()
		p.say(get)
		problemOf(t, p, 503, "platform", "function-unreachable")
		g.calm()
		if s := g.pool.Status(); s.Ready != 1 || g.pool.Stats().Unreachable != 0 {
			t.Errorf("the instance was taken out: %+v", s)
		}
	})
}

func TestNoInstanceCanBeReached(t *testing.T) {
	each(t, func(t *testing.T, way string) {
		var addrs []string
		for range 8 {
			addrs = append(addrs, porttest.Address(t))
		}
		g := newRig(t, way, nil, addrs...)
		p := g.dial()
		p.say(post)
		problemOf(t, p, 502, "function", "crash-loop") // the pool's judgement after two of them
		g.calm()
	})
}

// TestKeptConnectionClosedByTheInstance: the instance closes its connection
// after each answer without having said so. The next request must not fail,
// whatever its method, when that was known before it was sent.
func TestKeptConnectionClosedByTheInstance(t *testing.T) {
	each(t, func(t *testing.T, way string) {
		closed := make(chan struct{})
		in := serve(t, func(p *peer, _ int) {
			p.request()
			io.CopyN(io.Discard, p.br, 5)
			p.say("HTTP/1.1 200 OK\nContent-Length: 2\n\nok")
			p.TCPConn.Close()
			closed <- struct{}{}
		})
		g := newRig(t, way, nil, in.addr)
		p := g.dial()
		for range 5 {
			p.say(post)
			if head := p.head(); !strings.HasPrefix(head, "HTTP/1.1 200 ") {
				t.Fatalf("head %q", head)
			}
			p.hear("ok")
			<-closed
		}
	})
}

// TestKeptConnectionDies: the instance reads the second request on a connection
// and closes it. Only what is idempotent and has no body is sent again.
func TestKeptConnectionDies(t *testing.T) {
	tests := []struct {
		request string
		again   bool
	}{
		{get, true},
		{"HEAD /invoke/echo HTTP/1.1\nHost: a\n\n", true},
		{"DELETE /invoke/echo HTTP/1.1\nHost: a\n\n", true},
		{"POST /invoke/echo HTTP/1.1\nHost: a\nContent-Length: 0\n\n", false},
		{"PATCH /invoke/echo HTTP/1.1\nHost: a\n\n", false},
		{"PUT /invoke/echo HTTP/1.1\nHost: a\nContent-Length: 5\n\nhello", false},
		{post, false},
	}
	each(t, func(t *testing.T, way string) {
		for _, tt := range tests {
			t.Run(strings.Fields(tt.request)[0], func(t *testing.T) {
				var received atomic.Int64
				in := serve(t, func(p *peer, n int) {
					for i := 1; p.request() != ""; i++ {
						received.Add(1)
						if n == 1 && i == 2 {
							return
						}
						p.say("HTTP/1.1 200 OK\nContent-Length: 0\n\n")
					}
				})
				g := newRig(t, way, nil, in.addr)
				p := g.dial()
				p.say(get)
				p.head()
				p.say(tt.request)
				wantReceived := int64(2)
				if tt.again {
					wantReceived = 3
					if head := p.head(); !strings.HasPrefix(head, "HTTP/1.1 200 ") {
						t.Errorf("head %q", head)
					}
				} else {
					problemOf(t, p, 502, "function", "function-died")
				}
				if n := received.Load(); n != wantReceived {
					t.Errorf("the function saw %d requests, want %d", n, wantReceived)
				}
				g.calm()
			})
		}
	})
}

func TestReplacedWhileWaiting(t *testing.T) {
	each(t, func(t *testing.T, way string) {
		finish := make(chan struct{})
		old := serve(t, func(p *peer, _ int) {
			for p.request() != "" {
				<-finish
				p.say("HTTP/1.1 200 OK\nContent-Length: 3\n\nold")
			}
		})
		fresh := serve(t, func(p *peer, _ int) {
			for p.request() != "" {
				p.say("HTTP/1.1 200 OK\nContent-Length: 3\n\nnew")
			}
		})
		g := newRig(t, way, func(s *orchestrator.Spec) { s.Concurrency, s.Scale.Max = 1, 1 }, old.addr)
		first, second := g.dial(), g.dial()
		first.say(get)
		g.until("the first is at the instance", func(s orchestrator.FunctionStatus) bool { return s.InFlight > 0 })
		second.say(get)
		g.until("the second waits", func(s orchestrator.FunctionStatus) bool { return s.Waiting > 0 })
		release := spec(nil)
		release.Revision.ID = "r2-fedcba"
		g.routes.set("echo", &route.Route{Release: &release, Pool: g.newPool(release, proxy.NewConns, fresh.addr)})
		g.pool.Drain()
		if head := second.head(); !strings.Contains(head, "Kiln-Revision: r2-fedcba\n") {
			t.Errorf("head %q", head)
		}
		second.hear("new")
		close(finish)
		first.head()
		first.hear("old")
	})
}

func TestReplacedWithALongerTimeoutWhileWaiting(t *testing.T) {
	each(t, func(t *testing.T, way string) {
		hold := make(chan struct{})
		old := serve(t, func(p *peer, _ int) {
			if p.request() != "" {
				<-hold
			}
		})
		defer close(hold)
		g := newRig(t, way, func(s *orchestrator.Spec) {
			s.Concurrency, s.Scale.Max, s.Timeout = 1, 1, orchestrator.Duration(500*time.Millisecond)
		}, old.addr, old.addr)
		first, second := g.dial(), g.dial()
		first.say(get)
		g.until("the first is at the instance", func(s orchestrator.FunctionStatus) bool { return s.InFlight > 0 })
		second.say(get)
		g.until("the second waits", func(s orchestrator.FunctionStatus) bool { return s.Waiting > 0 })
		release := spec(nil) // with more time
		release.Revision.ID = "r2-fedcba"
		g.routes.set("echo", &route.Route{Release: &release, Pool: g.newPool(release, proxy.NewConns, old.addr)})
		g.pool.Drain()
		problemOf(t, second, 504, "function", "invocation-timeout")
		problemOf(t, first, 504, "function", "invocation-timeout")
	})
}

func TestFunctionRemovedWhileWaiting(t *testing.T) {
	each(t, func(t *testing.T, way string) {
		g := newRig(t, way, nil)
		g.pool.Drain()
		g.routes.forgetAfter("echo", 1)
		p := g.dial()
		p.say(get)
		problemOf(t, p, 404, "platform", "function-not-found")
	})
}

// mortal starts an instance that answers its first calls with its name, and then
// dies of the next: it closes its port and the connection that the call came on.
func mortal(t *testing.T, name string, lives int64) (addr string, received *atomic.Int64) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	received = &atomic.Int64{}
	var calls sync.WaitGroup
	calls.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			calls.Go(func() {
				defer conn.Close()
				conn.SetDeadline(time.Now().Add(patience))
				p := &peer{t: t, TCPConn: conn.(*net.TCPConn), br: bufio.NewReader(conn)}
				for head := p.request(); head != ""; head = p.request() {
					if strings.HasPrefix(head, "POST ") {
						p.hear("hello")
					}
					if received.Add(1) > lives {
						listener.Close()
						return
					}
					p.say("HTTP/1.1 200 OK\nContent-Length: 1\n\n" + name)
				}
			})
		}
	})
	t.Cleanup(func() {
		listener.Close()
		calls.Wait()
	})
	return listener.Addr().String(), received
}

// TestInstanceDies: the death of an instance is no error to a call that may be
// sent again, on a kept connection or a new one; any other call gets to one
// instance only. Nothing comes to the dead one afterwards.
func TestInstanceDies(t *testing.T) {
	each(t, func(t *testing.T, way string) {
		for _, lives := range []int64{0, 1} {
			for request, again := range map[string]bool{get: true, post: false} {
				t.Run(fmt.Sprint(lives, strings.Fields(request)[0]), func(t *testing.T) {
					first, firstGot := mortal(t, "1", lives)
					second, secondGot := mortal(t, "2", 100)
					g := newRig(t, way, nil, first, second)
					p := g.dial()
					for range lives {
						p.say(get)
						p.head()
						p.hear("1")
					}
					p.say(request)
					if again {
						if head := p.head(); !strings.HasPrefix(head, "HTTP/1.1 200 ") {
							t.Errorf("head %q", head)
						}
						p.hear("2")
					} else {
						problemOf(t, p, 502, "function", "function-died")
						if n := secondGot.Load(); n != 0 {
							t.Errorf("it was sent to another instance: %d", n)
						}
					}
					p = g.dial() // a body that was not taken ends the client's connection
					for range 3 {
						p.say(post)
						if head := p.head(); !strings.HasPrefix(head, "HTTP/1.1 200 ") {
							t.Errorf("a later call: %q", head)
						}
						p.hear("2")
					}
					if n := firstGot.Load(); n != lives+1 {
						t.Errorf("the dead instance got %d calls, want %d", n, lives+1)
					}
				})
			}
		}
	})
}

// TestDeadlyRequest: a request that kills whatever gets it does not go through
// all instances, idempotent or not.
func TestDeadlyRequest(t *testing.T) {
	each(t, func(t *testing.T, way string) {
		var received atomic.Int64
		in := serve(t, func(p *peer, _ int) {
			if p.request() != "" {
				received.Add(1)
			}
		})
		g := newRig(t, way, nil, in.addr)
		p := g.dial()
		p.say(get)
		problemOf(t, p, 502, "function", "function-died")
		if n := received.Load(); n != 3 {
			t.Errorf("it was sent %d times, want 3", n)
		}
		g.calm()
	})
}
