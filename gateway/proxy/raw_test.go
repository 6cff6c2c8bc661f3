package proxy_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kilnfaas/kiln/orchestrator"
)

// echo answers with the request's target and body.
func echo(t *testing.T) *instance {
	return serveHTTP(t, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		fmt.Fprintf(w, "%s %s", r.RequestURI, body)
	})
}

// answer reads one answer and returns status and body.
func (p *peer) answer(method string) (int, string) {
	p.t.Helper()
	resp, body := p.response(method)
	return resp.StatusCode, body
}

// response reads one answer and its body. Without an answer its status is 0.
func (p *peer) response(method string) (*http.Response, string) {
	p.t.Helper()
	resp, err := http.ReadResponse(p.br, &http.Request{Method: method})
	if err != nil {
		p.t.Errorf("read an answer: %v", err)
		return &http.Response{}, ""
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		p.t.Errorf("read a body: %v", err)
	}
	return resp, string(body)
}

// want checks the next answer.
func (p *peer) want(status int, body string) {
	p.t.Helper()
	if s, b := p.answer("GET"); s != status || b != body {
		p.t.Errorf("got %d %q, want %d %q", s, b, status, body)
	}
}

// smuggling are requests that two parsers may read differently, or that are
// malformed. Each must be refused before anything reaches a function.
var smuggling = map[string]string{
	"length and coding":       "POST /invoke/echo HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	"coding and length":       "POST /invoke/echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
	"two lengths":             "POST /invoke/echo HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
	"the same length twice":   "POST /invoke/echo HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na",
	"a list of lengths":       "POST /invoke/echo HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\na",
	"a length with a sign":    "POST /invoke/echo HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\na",
	"a negative length":       "POST /invoke/echo HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\na",
	"a length in hexadecimal": "POST /invoke/echo HTTP/1.1\r\nHost: a\r\nContent-Length: 0x1\r\n\r\na",
	"an empty length":         "POST /invoke/echo HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\na",
	"a huge length":           "POST /invoke/echo HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\na",
	"two codings":             "POST /invoke/echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	"another coding":          "POST /invoke/echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
	"an unknown coding":       "POST /invoke/echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
	"a coding with a tab":     "POST /invoke/echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
	"identity":                "POST /invoke/echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n",
	"coding in HTTP/1.0":      "POST /invoke/echo HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	"space before the colon":  "POST /invoke/echo HTTP/1.1\r\nHost: a\r\nContent-Length : 1\r\n\r\na",
	"space before a name":     "GET /invoke/echo HTTP/1.1\r\n Host: a\r\n\r\n",
	"folded":                  "GET /invoke/echo HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n",
	"bare LF":                 "GET /invoke/echo HTTP/1.1\nHost: a\n\n",
	"bare LF in the head":     "GET /invoke/echo HTTP/1.1\r\nHost: a\nX: b\r\n\r\n",
	"bare LF at the end":      "GET /invoke/echo HTTP/1.1\r\nHost: a\r\n\n",
	"bare CR":                 "GET /invoke/echo HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n",
	"CR CR LF":                "GET /invoke/echo HTTP/1.1\r\nHost: a\r\nX: a\r\r\n\r\n",
	"NUL in a value":          "GET /invoke/echo HTTP/1.1\r\nHost: a\r\nX: a\x00b\r\n\r\n",
	"NUL in a name":           "GET /invoke/echo HTTP/1.1\r\nHost: a\r\nX\x00: b\r\n\r\n",
	"DEL in a value":          "GET /invoke/echo HTTP/1.1\r\nHost: a\r\nX: a\x7fb\r\n\r\n",
	"no name":                 "GET /invoke/echo HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n",
	"no colon":                "GET /invoke/echo HTTP/1.1\r\nHost: a\r\nX\r\n\r\n",
	"no host":                 "GET /invoke/echo HTTP/1.1\r\nX: a\r\n\r\n",
	"two hosts":               "GET /invoke/echo HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
	"a host with a slash":     "GET /invoke/echo HTTP/1.1\r\nHost: a/b\r\n\r\n",
	"an empty line before":    "\r\nGET /invoke/echo HTTP/1.1\r\nHost: a\r\n\r\n",
	"no version":              "GET /invoke/echo\r\nHost: a\r\n\r\n",
	"another version":         "GET /invoke/echo HTTP/1.2\r\nHost: a\r\n\r\n",
	"version 9":               "GET /invoke/echo HTTP/9.1\r\nHost: a\r\n\r\n",
	"lower-case version":      "GET /invoke/echo http/1.1\r\nHost: a\r\n\r\n",
	"two spaces":              "GET  /invoke/echo HTTP/1.1\r\nHost: a\r\n\r\n",
	"tab":                     "GET\t/invoke/echo\tHTTP/1.1\r\nHost: a\r\n\r\n",
	"a space in the target":   "GET /invoke/echo /x HTTP/1.1\r\nHost: a\r\n\r\n",
	"a fragment":              "GET /invoke/echo#x HTTP/1.1\r\nHost: a\r\n\r\n",
	"a broken escape":         "GET /invoke/echo%zz HTTP/1.1\r\nHost: a\r\n\r\n",
	"a control character":     "GET /invoke/echo\x01 HTTP/1.1\r\nHost: a\r\n\r\n",
	"a method with a colon":   "GE:T /invoke/echo HTTP/1.1\r\nHost: a\r\n\r\n",
	"no method":               " /invoke/echo HTTP/1.1\r\nHost: a\r\n\r\n",
	"a head over 64 KiB":      "GET /invoke/echo HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("x", 64<<10) + "\r\n\r\n",
	"a line over 64 KiB":      "GET /invoke/echo?" + strings.Repeat("x", 64<<10),
	"too many fields":         "GET /invoke/echo HTTP/1.1\r\nHost: a\r\n" + strings.Repeat("A: b\r\n", 300) + "\r\n",
	"nonsense":                "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
}

func TestSmugglingIsRefused(t *testing.T) {
	in := serve(t, func(p *peer, _ int) {
		if head := p.request(); head != "" {
			t.Errorf("the function saw %q", head)
		}
	})
	g := newRig(t, "fast", nil, in.addr)
	for name, request := range smuggling {
		t.Run(name, func(t *testing.T) {
			p := g.dial()
			p.t = t
			io.WriteString(p.TCPConn, request) // may fail: it is refused before its end
			resp, _ := p.response("GET")
			if resp.StatusCode < 400 || resp.StatusCode >= 600 {
				t.Errorf("the answer is %d, want 4xx or 501 or 505", resp.StatusCode)
			}
			checkTiming(t, resp)
			p.CloseWrite()
			if rest, _ := p.ended(); rest != "" {
				t.Errorf("the connection went on: %q", rest)
			}
		})
	}
}

func TestPipelining(t *testing.T) {
	each(t, func(t *testing.T, way string) {
		g := newRig(t, way, nil, echo(t).addr)
		p := g.dial()
		var all strings.Builder
		for i := range 50 {
			fmt.Fprintf(&all, "POST /invoke/echo/%d HTTP/1.1\nHost: a\nContent-Length: 4\n\nbody", i)
		}
		p.say(all.String())
		for i := range 50 {
			p.want(200, fmt.Sprintf("/%d body", i))
		}
	})
}

// TestHandOver mixes requests that the loops serve with those that they hand
// over, on one connection, pipelined and not.
func TestHandOver(t *testing.T) {
	requests := []struct{ say, want string }{
		{"GET /invoke/echo/a HTTP/1.1\nHost: a\n\n", "/a "},
		{"POST /invoke/echo/b HTTP/1.1\nHost: a\nContent-Length: 5\n\nhello", "/b hello"},
		{"POST /invoke/echo/c HTTP/1.1\nHost: a\nTransfer-Encoding: chunked\n\n2\nhe\n3\nllo\n0\n\n", "/c hello"},
		{"GET /invoke/echo/d HTTP/1.1\nHost: a\n\n", "/d "},
		{"GET http://a/invoke/echo/e HTTP/1.1\nHost: a\n\n", "/e "},
		{"GET /invoke/echo/f HTTP/1.1\nHost: a\nConnection: X-Named\nX-Named: 1\n\n", "/f "},
		{"POST /invoke/echo/g HTTP/1.1\nHost: a\nContent-Length: 5\n\nworld", "/g world"},
	}
	for _, pipelined := range []bool{false, true} {
		each(t, func(t *testing.T, way string) {
			g := newRig(t, way, nil, echo(t).addr)
			for first := range requests {
				p := g.dial()
				for _, r := range requests[first:] {
					p.say(r.say)
					if !pipelined {
						p.want(200, r.want)
					}
				}
				if pipelined {
					for _, r := range requests[first:] {
						p.want(200, r.want)
					}
				}
				p.Close()
			}
		})
	}
}

// TestHeadsInPieces sends two requests byte by byte, and cut in two at each place.
func TestHeadsInPieces(t *testing.T) {
	const requests = "POST /invoke/echo/a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhelloGET /invoke/echo/b HTTP/1.1\r\nHost: a\r\n\r\n"
	each(t, func(t *testing.T, way string) {
		g := newRig(t, way, nil, echo(t).addr)
		p := g.dial()
		for i := range len(requests) {
			p.TCPConn.Write([]byte{requests[i]})
			if i%7 == 0 {
				time.Sleep(time.Microsecond)
			}
		}
		p.want(200, "/a hello")
		p.want(200, "/b ")
		for cut := 1; cut < len(requests); cut += 3 {
			io.WriteString(p.TCPConn, requests[:cut])
			time.Sleep(200 * time.Microsecond)
			io.WriteString(p.TCPConn, requests[cut:])
			p.want(200, "/a hello")
			p.want(200, "/b ")
		}
	})
}

// TestAnswerInPieces has the instance send an answer cut at each place.
func TestAnswerInPieces(t *testing.T) {
	answers := []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\nA: b\r\nKiln-C: d\r\n\r\n",
		"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\nContent-Length: 5\n\nhello",
	}
	each(t, func(t *testing.T, way string) {
		for _, answer := range answers {
			cut := 0
			in := serve(t, func(p *peer, _ int) {
				for p.request() != "" {
					io.WriteString(p.TCPConn, answer[:cut])
					time.Sleep(200 * time.Microsecond)
					io.WriteString(p.TCPConn, answer[cut:])
				}
			})
			g := newRig(t, way, nil, in.addr)
			p := g.dial()
			for cut = 1; cut < len(answer); cut++ {
				p.say(get)
				if strings.Contains(answer, "103") {
					if head := p.head(); !strings.HasPrefix(head, "HTTP/1.1 103") {
						t.Errorf("cut at %d: head %q", cut, head)
					}
				}
				p.want(200, "hello")
			}
		}
	})
}

func TestOldProtocolAndClose(t *testing.T) {
	each(t, func(t *testing.T, way string) {
		g := newRig(t, way, nil, echo(t).addr)
		for _, request := range []string{
			"GET /invoke/echo/a HTTP/1.0\n\n",
			"GET /invoke/echo/a HTTP/1.1\nHost: a\nConnection: close\n\n",
			"GET /invoke/echo/a HTTP/1.1\nHost: a\nConnection: Close\n\n",
		} {
			p := g.dial()
			p.say(request)
			p.want(200, "/a ")
			if rest, err := p.ended(); rest != "" || err != nil {
				t.Errorf("%q: after the answer: %q, %v", request, rest, err)
			}
		}
	})
}

func TestContinue(t *testing.T) {
	each(t, func(t *testing.T, way string) {
		g := newRig(t, way, func(s *orchestrator.Spec) { s.MaxRequest = 10 }, echo(t).addr)
		p := g.dial()
		p.say("POST /invoke/echo/a HTTP/1.1\nHost: a\nExpect: 100-continue\nContent-Length: 5\n\n")
		if head := p.head(); head != "HTTP/1.1 100 Continue\n\n" {
			t.Errorf("head %q", head)
		}
		p.say("hello")
		p.want(200, "/a hello")
		p.say("POST /invoke/echo/a HTTP/1.1\nHost: a\nExpect: 100-continue\nContent-Length: 11\n\n")
		if status, _ := p.answer("POST"); status != 413 {
			t.Errorf("status %d, want 413 without 100", status)
		}
	})
}

func TestTunnel(t *testing.T) {
	each(t, func(t *testing.T, way string) {
		closed := make(chan string, 1)
		in := serve(t, func(p *peer, _ int) {
			head := p.request()
			for _, want := range []string{"Connection: Upgrade\n", "Upgrade: test\n", "Sec-Websocket-Key: k\n", "Kiln-Instance-Token: of-i1\n"} {
				if !strings.Contains(head, want) {
					t.Errorf("the function got %q", head)
				}
			}
			p.say("HTTP/1.1 101 Switching Protocols\nConnection: Upgrade\nUpgrade: test\nSec-WebSocket-Accept: x\n\nhello")
			for {
				line, err := p.br.ReadString('\n')
				if err != nil {
					closed <- line // the client's half
					break
				}
				io.WriteString(p.TCPConn, strings.ToUpper(line))
			}
			io.WriteString(p.TCPConn, "bye")
		})
		const limit = 500 * time.Millisecond // of the answer, which must come in time on a busy machine, too
		g := newRig(t, way, timeout(limit), in.addr)
		p := g.dial()
		p.say("GET /invoke/echo HTTP/1.1\nHost: a\nConnection: Upgrade\nUpgrade: test\nSec-WebSocket-Key: k\n\nearly\n")
		head := p.head()
		for _, want := range []string{"HTTP/1.1 101 ", "Upgrade: test\n", "Connection: Upgrade\n", "Sec-Websocket-Accept: x\n", "Kiln-Revision: r1-abcdef\n"} {
			if !strings.Contains(head, want) {
				t.Errorf("there is no %q in %q", want, head)
			}
		}
		p.hear("helloEARLY\n")
		time.Sleep(limit + limit/5) // past the timeout, which is for the answer
		for i := range 10 {
			p.say(fmt.Sprintf("line %d\n", i))
			p.hear(fmt.Sprintf("LINE %d\n", i))
		}
		p.say("rest")
		p.CloseWrite()
		if got := <-closed; got != "rest" {
			t.Errorf("at the end of the client's half the function had %q", got)
		}
		if rest, err := p.ended(); rest != "bye" || err != nil {
			t.Errorf("at the end: %q, %v", rest, err)
		}
		g.calm()
		if o := g.observed(); o.code != 101 {
			t.Errorf("observed %+v", o)
		}
	})
}

func TestUpgradeDeclined(t *testing.T) {
	each(t, func(t *testing.T, way string) {
		g := newRig(t, way, nil, echo(t).addr)
		p := g.dial()
		p.say("GET /invoke/echo/a HTTP/1.1\nHost: a\nConnection: Upgrade\nUpgrade: h2c\n\n")
		p.want(200, "/a ")
		p.say("GET /invoke/echo/b HTTP/1.1\nHost: a\n\n")
		p.want(200, "/b ")
	})
}

func TestManyPeopleInTheQueueSeeTheirOwnAnswer(t *testing.T) {
	g := newRig(t, "fast", func(s *orchestrator.Spec) { s.Concurrency, s.Scale.Max = 2, 1 }, echo(t).addr)
	var peers []*peer
	for i := range 15 {
		p := g.dial()
		p.say(fmt.Sprintf("GET /invoke/echo/%d HTTP/1.1\nHost: a\n\nGET /invoke/echo/%d HTTP/1.1\nHost: a\n\n", i, i+100))
		peers = append(peers, p)
	}
	for i, p := range peers {
		p.want(200, fmt.Sprintf("/%d ", i))
		p.want(200, fmt.Sprintf("/%d ", i+100))
	}
}

func TestShutdown(t *testing.T) {
	working, finish := make(chan struct{}), make(chan struct{})
	in := serve(t, func(p *peer, _ int) {
		for strings.Contains(p.request(), "/slow") {
			close(working)
			<-finish
			p.say("HTTP/1.1 200 OK\nContent-Length: 2\n\nok")
		}
	})
	g := newRig(t, "fast", nil, in.addr)
	idle, busy := g.dial(), g.dial()
	busy.say("GET /invoke/echo/slow HTTP/1.1\nHost: a\n\n")
	<-working
	down := make(chan error)
	go func() { down <- g.fast.Shutdown(t.Context()) }()
	if rest, err := idle.ended(); rest != "" || err != nil {
		t.Errorf("an idle connection: %q, %v", rest, err)
	}
	select {
	case err := <-down:
		t.Fatalf("Shutdown returned %v with a call under way", err)
	case <-time.After(20 * time.Millisecond):
	}
	if conn, err := net.Dial("tcp", g.addr); err == nil {
		conn.Close()
		t.Error("a connection is accepted after Shutdown")
	}
	close(finish)
	if head := busy.head(); !strings.Contains(head, "Connection: close\n") {
		t.Errorf("head %q", head)
	}
	busy.hear("ok")
	busy.ended()
	if err := <-down; err != nil {
		t.Errorf("Shutdown: %v", err)
	}
	if _, err := g.fast.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept: %v", err)
	}
	g.calm()
}

func TestShutdownOutOfTime(t *testing.T) {
	working := make(chan struct{})
	in := serve(t, func(p *peer, _ int) {
		p.request()
		close(working)
		io.Copy(io.Discard, p.br)
	})
	g := newRig(t, "fast", nil, in.addr)
	busy := g.dial()
	busy.say(get)
	<-working
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := g.fast.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Shutdown: %v", err)
	}
	busy.ended()
	g.calm()
}

// TestPlatformPathsAreHandedOver: what is not an invocation is the http.Server's.
func TestPlatformPathsAreHandedOver(t *testing.T) {
	g := newRig(t, "fast", nil, echo(t).addr)
	for _, path := range []string{"/", "/healthz", "/invoke", "/invoke/", "/invoke//x", "/invokeecho"} {
		p := g.dial()
		p.say("GET " + path + " HTTP/1.1\nHost: a\n\n")
		problemOf(t, p, 404, "platform", "route-unknown")
	}
}

func TestLargeBodiesBothWaysAtOnce(t *testing.T) {
	each(t, func(t *testing.T, way string) {
		in := serveHTTP(t, func(w http.ResponseWriter, r *http.Request) {
			http.NewResponseController(w).EnableFullDuplex()
			io.Copy(w, r.Body)
		})
		g := newRig(t, way, func(s *orchestrator.Spec) { s.MaxRequest = 0 }, in.addr)
		sent, client := noise(12<<20), g.client("h1")
		for again := range 2 {
			reused := false
			ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) { reused = i.Reused }})
			req, err := http.NewRequestWithContext(ctx, http.MethodPost, g.url("/"), bytes.NewReader(sent))
			if err != nil {
				t.Fatal(err)
			}
			resp, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if diff := cmp.Diff(sum(sent), sum(got)); diff != "" || err != nil {
				t.Errorf("%v (-want +got):\n%s", err, diff)
			}
			if again == 1 && !reused {
				t.Error("the connection was not kept, though all of the request came before the end of the answer")
			}
		}
	})
}

// TestChunksOverTheLimit: a body of unknown length is refused as soon as it is
// too long, while the client still sends and the function still reads.
func TestChunksOverTheLimit(t *testing.T) {
	each(t, func(t *testing.T, way string) {
		in := serveHTTP(t, func(_ http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) })
		g := newRig(t, way, func(s *orchestrator.Spec) { s.MaxRequest = 10 }, in.addr)
		for _, chunks := range []string{"b\nhello world\n", "5\nhello\n6\n world\n", "5\nhello\n6\n world\n0\n\n", "fffffff\nhello world"} {
			p := g.dial()
			p.say("POST /invoke/echo HTTP/1.1\nHost: a\nTransfer-Encoding: chunked\n\n" + chunks)
			problemOf(t, p, 413, "platform", "request-too-large")
			if o := g.observed(); o.code != 413 {
				t.Errorf("observed %+v", o)
			}
			p.ended()
			g.calm()
		}
	})
}
