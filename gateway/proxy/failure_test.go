package proxy_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/pool"
	"github.com/kilnfaas/kiln/orchestrator/porttest"
)

const get = "GET /invoke/echo HTTP/1.1\nHost: a\n\n"

const post = "POST /invoke/echo HTTP/1.1\nHost: a\nContent-Length: 5\n\nhello"

func timeout(d time.Duration) func(*orchestrator.Spec) {
	return func(s *orchestrator.Spec) { s.Timeout = orchestrator.Duration(d) }
}

// problemOf reads an answer and checks that it is the platform's.
func problemOf(t *testing.T, p *peer, status int, fault, code string) {
	t.Helper()
	head := p.head()
	var length int
	for line := range strings.Lines(head) {
		if value, ok := strings.CutPrefix(line, "Content-Length: "); ok {
			length, _ = strconv.Atoi(strings.TrimSpace(value))
		}
	}
	body := make([]byte, length)
	io.ReadFull(p.br, body)
	want := fmt.Sprintf("HTTP/1.1 %d ", status)
	if !strings.HasPrefix(head, want) || !strings.Contains(head, "Kiln-Error: "+fault+"\n") || !strings.Contains(string(body), `"`+code+`"`) {
		t.Errorf("got\n%s%s\nwant %d %s %s", head, body, status, fault, code)
	}
}

// until waits for a state of the pool.
func (g *rig) until(what string, met func(s orchestrator.FunctionStatus) bool) {
	g.t.Helper()
	for end := time.Now().Add(patience); !met(g.pool.Status()); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			g.t.Fatalf("not so within %s: %s; the pool is %+v", patience, what, g.pool.Status())
		}
	}
}

// calm waits until no request is at an instance.
func (g *rig) calm() {
	g.t.Helper()
	g.until("every slot is given back", func(s orchestrator.FunctionStatus) bool { return s.InFlight == 0 })
}

func TestFunctionDiesBeforeItAnswers(t *testing.T) {
	answers := map[string]string{
		"at once":          "",
		"in the head":      "HTTP/1.1 200 OK\nContent-",
		"after early hint": "HTTP/1.1 103 Early Hints\nLink: x\n\n",
	}
	each(t, func(t *testing.T, way string) {
		for name, answer := range answers {
			t.Run(name, func(t *testing.T) {
				in := serve(t, func(p *peer, _ int) {
					p.request()
					p.say(answer)
				})
				g := newRig(t, way, nil, in.addr)
				p := g.dial()
				p.say(get)
				if strings.Contains(answer, "103") {
					if head := p.head(); !strings.Contains(head, "103") {
						t.Errorf("no early hints: %q", head)
					}
				}
				problemOf(t, p, 502, "function", "function-died")
				if o := g.observed(); o.code != 502 {
					t.Errorf("observed %+v", o)
				}
				g.calm()
				p.say(get) // the client's connection is as good as before
				p.head()
			})
		}
	})
}

// TestFunctionEnds: the answer says how, when the engine does; as soon as it does.
func TestFunctionEnds(t *testing.T) {
	for _, tt := range []struct {
		code   int
		oom    bool
		answer string
		want   string
	}{
		{137, true, "function-out-of-memory", "more than its 128MiB of memory"},
		{3, false, "function-died", "exit code 3"},
	} {
		each(t, func(t *testing.T, way string) {
			var g *rig
			in := serve(t, func(p *peer, _ int) {
				p.request()
				g.unsure.Lock()
				defer g.unsure.Unlock()
				p.CloseWrite()
				g.pool.Died("i1", tt.code, tt.oom) // as the engine does, a little later
			})
			g = newRig(t, way, nil, in.addr)
			response, err := g.client("h1").Post(g.url("/"), "text/plain", strings.NewReader("hello"))
			if err != nil {
				t.Fatal(err)
			}
			defer response.Body.Close()
			body, _ := io.ReadAll(response.Body)
			if response.StatusCode != 502 || !strings.Contains(string(body), `"`+tt.answer+`"`) || !strings.Contains(string(body), tt.want) {
				t.Errorf("got %s\n%s\nwant 502 %s: %s", response.Status, body, tt.answer, tt.want)
			}
		})
	}
}

// TestFunctionEndsEachTime: a call that is made again, and kills the next instance
// too, is answered with the reason and not with that no more are started.
func TestFunctionEndsEachTime(t *testing.T) {
	each(t, func(t *testing.T, way string) {
		var g *rig
		killed := func(id string) *instance {
			return serve(t, func(p *peer, _ int) {
				if p.request() != "" {
					g.unsure.Lock()
					defer g.unsure.Unlock()
					p.CloseWrite()
					g.pool.Died(id, 137, true)
				}
			})
		}
		g = newRig(t, way, nil, killed("i1").addr, killed("i2").addr, killed("i3").addr)
		response, err := g.client("h1").Get(g.url("/"))
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		body, _ := io.ReadAll(response.Body)
		if response.StatusCode != 502 || !strings.Contains(string(body), `"function-out-of-memory"`) {
			t.Errorf("got %s\n%s\nwant 502 function-out-of-memory", response.Status, body)
		}
	})
}

// TestFunctionEndsOnAKeptConnection: that it takes no connection after one broke
// is how its end shows, and the reason is told here too.
func TestFunctionEndsOnAKeptConnection(t *testing.T) {
	each(t, func(t *testing.T, way string) {
		var g *rig
		var in *instance
		in = serve(t, func(p *peer, _ int) {
			p.request()
			p.say("HTTP/1.1 200 OK\nContent-Length: 0\n\n")
			if p.request() != "" {
				in.listener.Close()
				g.pool.Died("i1", 137, true)
			}
		})
		g = newRig(t, way, nil, in.addr, porttest.Address(t), porttest.Address(t), porttest.Address(t))
		p := g.dial()
		p.say(get)
		p.head()
		p.say(get)
		problemOf(t, p, 502, "function", "function-out-of-memory")
	})
}

func TestMalformedAnswers(t *testing.T) {
	answers := map[string]string{
		"not HTTP":           "hello\n\n",
		"two lengths":        "HTTP/1.1 200 OK\nContent-Length: 1\nContent-Length: 2\n\nab",
		"length and chunked": "HTTP/1.1 200 OK\nContent-Length: 1\nTransfer-Encoding: chunked\n\n0\n\n",
		"other coding":       "HTTP/1.1 200 OK\nTransfer-Encoding: gzip\n\n",
		"folded":             "HTTP/1.1 200 OK\nA: b\n c\n\n",
		"unasked upgrade":    "HTTP/1.1 101 Switching Protocols\nUpgrade: x\nConnection: Upgrade\n\n",
		"too large a head":   "HTTP/1.1 200 OK\n" + strings.Repeat("A: "+strings.Repeat("x", 1000)+"\n", 70) + "\n",
		"endless head":       "HTTP/1.1 200 OK\nA: " + strings.Repeat("x", 1<<20),
		"HTTP/2":             "HTTP/2.0 200 OK\n\n",
	}
	each(t, func(t *testing.T, way string) {
		for name, answer := range answers {
			t.Run(name, func(t *testing.T) {
				in := serve(t, func(p *peer, _ int) {
					p.request()
					io.WriteString(p.TCPConn, strings.ReplaceAll(answer, "\n", "\r\n")) // may fail: the proxy hangs up
					io.Copy(io.Discard, p.br)
				})
				g := newRig(t, way, nil, in.addr)
				p := g.dial()
				p.say(get)
				problemOf(t, p, 502, "function", "function-answer-invalid")
				g.calm()
			})
		}
	})
}

func TestFunctionDiesInItsAnswer(t *testing.T) {
	answers := map[string]string{
		"length":       "HTTP/1.1 200 OK\nContent-Length: 10\n\nhello",
		"chunked":      "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n5\nhello\n",
		"in a chunk":   "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\nff\nhello",
		"bad chunk":    "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n5\nhelloXX",
		"in a trailer": "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n5\nhello\n0\nA: b",
	}
	each(t, func(t *testing.T, way string) {
		for name, answer := range answers {
			t.Run(name, func(t *testing.T) {
				die := make(chan struct{})
				in := serve(t, func(p *peer, _ int) {
					p.request()
					p.say(answer)
					<-die
				})
				g := newRig(t, way, nil, in.addr)
				p := g.dial()
				p.say(get)
				if name != "bad chunk" { // of which a client may see nothing but the end
					if head := p.head(); !strings.HasPrefix(head, "HTTP/1.1 200 ") {
						t.Errorf("head %q", head)
					}
				}
				close(die)
				rest, _ := p.ended()
				if strings.HasSuffix(rest, "0\r\n\r\n") || strings.Contains(rest, "problem") {
					t.Errorf("the answer seems whole: %q", rest)
				}
				g.calm()
				if o := g.observed(); o.code != 200 {
					t.Errorf("observed %+v", o)
				}
			})
		}
	})
}

func TestDeadline(t *testing.T) {
	each(t, func(t *testing.T, way string) {
		ended := make(chan struct{}, 10)
		in := serve(t, func(p *peer, _ int) {
			head := p.request()
			if strings.Contains(head, "/stream") {
				p.say("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n5\nhello\n")
			}
			io.Copy(io.Discard, p.br) // up to the end of the connection
			ended <- struct{}{}
		})
		const limit = 500 * time.Millisecond // an answer must begin within it on a busy machine, too
		t.Run("no answer", func(t *testing.T) {
			g := newRig(t, way, timeout(limit), in.addr)
			p := g.dial()
			p.say(get)
			problemOf(t, p, 504, "function", "invocation-timeout")
			<-ended
			g.calm()
			if o := g.observed(); o.code != 504 || o.function < limit/2 {
				t.Errorf("observed %+v", o)
			}
		})
		t.Run("in the answer", func(t *testing.T) {
			g := newRig(t, way, timeout(limit), in.addr)
			p := g.dial()
			p.say("GET /invoke/echo/stream HTTP/1.1\nHost: a\n\n")
			p.head()
			p.hear("5\nhello\n")
			if rest, _ := p.ended(); rest != "" {
				t.Errorf("after the deadline came %q", rest)
			}
			<-ended
			g.calm()
		})
		t.Run("slow client", func(t *testing.T) {
			g := newRig(t, way, timeout(limit), in.addr)
			p := g.dial()
			p.say("POST /invoke/echo HTTP/1.1\nHost: a\nContent-Length: 5\n\nhe")
			problemOf(t, p, 408, "platform", "request-timeout")
			<-ended
			p.ended()
			g.calm()
		})
		t.Run("no slot", func(t *testing.T) {
			g := newRig(t, way, func(s *orchestrator.Spec) { s.Concurrency, s.Scale.Max = 1, 1 }, in.addr)
			first, second := g.dial(), g.dial()
			first.say(get)
			g.until("the first is at the instance", func(s orchestrator.FunctionStatus) bool { return s.InFlight > 0 })
			second.say("GET /invoke/echo HTTP/1.1\nHost: a\nKiln-Deadline: " + strconv.FormatInt(time.Now().Add(30*time.Millisecond).UnixMilli(), 10) + "\n\n")
			problemOf(t, second, 504, "platform", "deadline-in-queue")
			first.Close()
			<-ended
			g.calm()
		})
	})
}

func TestDeadlineHeader(t *testing.T) {
	now := time.Now()
	tests := map[string]struct {
		sent string
		want time.Time // zero = refused
	}{
		"milliseconds": {strconv.FormatInt(now.Add(5*time.Second).UnixMilli(), 10), now.Add(5 * time.Second)},
		"RFC 3339":     {now.Add(5 * time.Second).UTC().Format(time.RFC3339Nano), now.Add(5 * time.Second)},
		"other zone":   {now.Add(5 * time.Second).In(time.FixedZone("", 3600)).Format(time.RFC3339), now.Add(5 * time.Second)},
		"later":        {now.Add(time.Hour).UTC().Format(time.RFC3339), now.Add(patience)},
		"none":         {"", now.Add(patience)},
		"nonsense":     {"tomorrow", time.Time{}},
		"long":         {strings.Repeat("1", 50), time.Time{}},
	}
	each(t, func(t *testing.T, way string) {
		in := serveHTTP(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.Header.Get("Kiln-Deadline")) })
		g := newRig(t, way, nil, in.addr)
		for name, tt := range tests {
			req := newRequest(t, "GET", g.url("/"), nil)
			if tt.sent != "" {
				req.Header.Set("Kiln-Deadline", tt.sent)
			}
			resp, body := do(t, g.client("h1"), req)
			if tt.want.IsZero() {
				if resp.StatusCode != 400 || !strings.Contains(string(body), "deadline-invalid") {
					t.Errorf("%s: %d %s", name, resp.StatusCode, body)
				}
				checkTiming(t, resp)
				continue
			}
			ms, err := strconv.ParseInt(string(body), 10, 64)
			if off := time.UnixMilli(ms).Sub(tt.want); err != nil || off < -2*time.Second || off > 2*time.Second {
				t.Errorf("%s: the function saw %q, which is off by %s", name, body, off)
			}
		}
		resp, _ := do(t, g.client("h1"), func() *http.Request {
			req := newRequest(t, "GET", g.url("/"), nil)
			req.Header.Set("Kiln-Deadline", "1000")
			return req
		}())
		if resp.StatusCode != 504 {
			t.Errorf("a deadline in the past: %d, want 504", resp.StatusCode)
		}
	})
}

func TestClientGoesAway(t *testing.T) {
	requests := map[string]string{
		"waiting for the head": get,
		"in the answer":        "GET /invoke/echo/stream HTTP/1.1\nHost: a\n\n",
		"in its own body":      "POST /invoke/echo HTTP/1.1\nHost: a\nContent-Length: 100\n\nhello",
		"in chunks":            "POST /invoke/echo HTTP/1.1\nHost: a\nTransfer-Encoding: chunked\n\n5\nhello\n",
	}
	each(t, func(t *testing.T, way string) {
		for name, request := range requests {
			t.Run(name, func(t *testing.T) {
				there, ended := make(chan struct{}), make(chan struct{})
				in := serve(t, func(p *peer, _ int) {
					if head := p.request(); strings.Contains(head, "/stream") {
						p.say("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n5\nhello\n")
					}
					close(there)
					io.Copy(io.Discard, p.br)
					close(ended)
				})
				g := newRig(t, way, nil, in.addr)
				p := g.dial()
				p.say(request)
				<-there
				p.Close()
				<-ended // the function's connection ends with the client's
				g.calm()
				if o := g.observed(); o.code != 499 && !(name == "in the answer" && o.code == 200) {
					t.Errorf("observed %+v", o)
				}
			})
		}
	})
}

func TestClientGoesAwayWhileItWaits(t *testing.T) {
	each(t, func(t *testing.T, way string) {
		finish := make(chan struct{})
		in := serve(t, func(p *peer, _ int) {
			for p.request() != "" {
				<-finish
				p.say("HTTP/1.1 200 OK\nContent-Length: 0\n\n")
			}
		})
		g := newRig(t, way, func(s *orchestrator.Spec) { s.Concurrency, s.Scale.Max = 1, 1 }, in.addr)
		first, second := g.dial(), g.dial()
		first.say(get)
		g.until("the first is at the instance", func(s orchestrator.FunctionStatus) bool { return s.InFlight > 0 })
		second.say(get)
		g.until("the second waits", func(s orchestrator.FunctionStatus) bool { return s.Waiting > 0 })
		second.Close()
		g.until("the request of a client that is gone waits no more", func(s orchestrator.FunctionStatus) bool { return s.Waiting == 0 })
		close(finish)
		first.head()
		g.calm()
	})
}

func TestSlowReader(t *testing.T) {
	each(t, func(t *testing.T, way string) {
		const size = 8 << 20
		in := serveHTTP(t, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/length" {
				w.Header().Set("Content-Length", strconv.Itoa(size))
			}
			w.Write(noise(size))
		})
		g := newRig(t, way, nil, in.addr)
		for _, path := range []string{"/length", "/chunked"} {
			resp, err := g.client("h1").Get(g.url(path))
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(50 * time.Millisecond) // the buffers in between fill
			body, err := io.ReadAll(resp.Body)
			if resp.Body.Close(); err != nil || sum(body) != sum(noise(size)) {
				t.Errorf("%s: got %s (%v)", path, sum(body), err)
			}
		}
		g.calm()
	})
}

// TestReaderThatStops: a client that reads no further has the slot until its
// deadline, and no longer.
func TestReaderThatStops(t *testing.T) {
	each(t, func(t *testing.T, way string) {
		in := serveHTTP(t, func(w http.ResponseWriter, _ *http.Request) {
			for part := noise(1 << 20); ; {
				if _, err := w.Write(part); err != nil {
					return
				}
			}
		})
		g := newRig(t, way, timeout(300*time.Millisecond), in.addr)
		p := g.dial()
		p.say(get)
		p.head()
		g.calm()
	})
}

// TestFunctionAnswersEarly: the answer comes while the body is still on its way,
// and the function reads no more of it.
func TestFunctionAnswersEarly(t *testing.T) {
	each(t, func(t *testing.T, way string) {
		in := serve(t, func(p *peer, _ int) {
			if p.request() != "" {
				p.say("HTTP/1.1 403 Forbidden\nContent-Length: 2\n\nno")
				io.Copy(io.Discard, p.br)
			}
		})
		g := newRig(t, way, nil, in.addr)
		p := g.dial()
		p.say("POST /invoke/echo HTTP/1.1\nHost: a\nContent-Length: 1000000\n\nhello")
		head := p.head()
		if !strings.HasPrefix(head, "HTTP/1.1 403 ") {
			t.Errorf("head %q", head)
		}
		if way == "fast" && !strings.Contains(head, "Connection: close") { // net/http has told its head before it knows
			t.Errorf("the head does not tell that the connection ends: %q", head)
		}
		p.hear("no")
		p.CloseWrite()
		p.ended()
		g.calm()
	})
}

// TestSlotsAreShared: many clients, one slot. Everybody gets an answer and the
// instance never sees two requests at once.
func TestSlotsAreShared(t *testing.T) {
	each(t, func(t *testing.T, way string) {
		var now atomic.Int64
		in := serveHTTP(t, func(w http.ResponseWriter, r *http.Request) {
			if n := now.Add(1); n > 1 {
				t.Errorf("%d requests at once", n)
			}
			body, _ := io.ReadAll(r.Body)
			now.Add(-1)
			w.Write(body)
		})
		g := newRig(t, way, func(s *orchestrator.Spec) { s.Concurrency, s.Scale.Max = 1, 1 }, in.addr)
		client := g.client("h1")
		errs := make(chan error)
		for i := range 8 {
			go func() {
				var err error
				for j := range 50 {
					text := fmt.Sprint(i, j)
					resp, e := client.Post(g.url("/"), "text/plain", strings.NewReader(text))
					if e != nil {
						err = e
						break
					}
					body, _ := io.ReadAll(resp.Body)
					resp.Body.Close()
					if string(body) != text {
						err = fmt.Errorf("got %d %q, want %q", resp.StatusCode, body, text)
					}
				}
				errs <- err
			}()
		}
		for range 8 {
			if err := <-errs; err != nil {
				t.Error(err)
			}
		}
		if n := in.conns.Load(); n > 20 {
			t.Errorf("%d connections to an instance with one slot", n)
		}
	})
}

func TestIdleConnectionsAreClosed(t *testing.T) {
	each(t, func(t *testing.T, way string) {
		ended := make(chan struct{}, 100)
		in := serve(t, func(p *peer, _ int) {
			for p.request() != "" {
				p.say("HTTP/1.1 200 OK\nContent-Length: 0\n\n")
			}
			ended <- struct{}{}
		})
		g := newRig(t, way, nil, in.addr)
		for range 4 {
			p := g.dial()
			p.say(get)
			p.head()
		}
		g.calm()
		lease, err := g.pool.Acquire(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		lease.Conns().CloseIdle()
		for range in.conns.Load() {
			select {
			case <-ended:
			case <-time.After(patience / 2): // by itself it ends after patience
				t.Fatal("an idle connection is still open")
			}
		}
		lease.Release(0)
		p := g.dial()
		p.say(get)
		if head := p.head(); !strings.HasPrefix(head, "HTTP/1.1 200 ") {
			t.Errorf("head %q", head)
		}
	})
}

// TestConnectionAfterADeadOneIsKnown: the kept connection has died, and the loop
// finds out as it is about to use it, before it has heard of it.
func TestConnectionAfterADeadOneIsKnown(t *testing.T) {
	hangUp, hungUp, ended := make(chan struct{}), make(chan struct{}), make(chan struct{}, 8)
	in := serve(t, func(p *peer, n int) {
		for p.request() != "" {
			p.say("HTTP/1.1 200 OK\nContent-Length: 0\n\n")
			if n == 1 {
				<-hangUp
				p.Close()
				close(hungUp)
				return
			}
		}
		ended <- struct{}{}
	})
	g := newRig(t, "fast", nil, in.addr)
	first := g.dial()
	first.say(get)
	first.head()
	g.calm()
	for range loops - 1 { // the next but these is the same loop's
		g.dial()
	}
	second := g.dial()
	before := g.routes.asked.Load()
	g.routes.mu.Lock() // holds the loop up
	second.say(get)
	for g.routes.asked.Load() == before {
		time.Sleep(time.Millisecond)
	}
	close(hangUp)
	<-hungUp
	g.routes.mu.Unlock()
	second.head()
	g.calm()
	lease, err := g.pool.Acquire(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	lease.Conns().CloseIdle()
	lease.Release(pool.Done)
	select {
	case <-ended:
	case <-time.After(patience / 4):
		t.Error("a connection is not among those that can be closed")
	}
}
