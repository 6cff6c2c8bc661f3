package proxy_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kilnfaas/kiln/gateway/requestid"
	"github.com/kilnfaas/kiln/orchestrator"
)

// protocols are the client kinds; every behaviour that does not depend on bytes
// on the wire is tested with each of them on each way.
var protocols = []string{"h1", "h2c"}

func everyClient(t *testing.T, f func(t *testing.T, way, protocol string)) {
	each(t, func(t *testing.T, way string) {
		for _, protocol := range protocols {
			t.Run(protocol, func(t *testing.T) { f(t, way, protocol) })
		}
	})
}

// do sends a request and reads the answer.
func do(t *testing.T, client *http.Client, req *http.Request) (*http.Response, []byte) {
	t.Helper()
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, body
}

func newRequest(t *testing.T, method, url string, body io.Reader) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	return req
}

func TestFunctionSeesTheRequest(t *testing.T) {
	paths := map[string]string{
		"":                   "/",
		"/":                  "/",
		"?a=1":               "/?a=1",
		"/x/y":               "/x/y",
		"//x/../y/.":         "//x/../y/.",
		"/a%2Fb%20c?q=%41&&": "/a%2Fb%20c?q=%41&&",
		"/invoke/echo":       "/invoke/echo",
		"/x?":                "/x?",
	}
	everyClient(t, func(t *testing.T, way, protocol string) {
		in := serveHTTP(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Method", r.Method)
			w.Header().Set("Target", r.RequestURI)
			w.Header().Set("Seen-Host", r.Host)
		})
		g := newRig(t, way, nil, in.addr)
		client := g.client(protocol)
		for path, want := range paths {
			for _, method := range []string{"GET", "POST", "DELETE", "PROPFIND"} {
				req := newRequest(t, method, g.url(""), nil)
				req.URL.Opaque = "/invoke/echo" + path
				req.Host = "example.test:8080"
				resp, _ := do(t, client, req)
				got := []string{resp.Header.Get("Method"), resp.Header.Get("Target"), resp.Header.Get("Seen-Host")}
				if diff := cmp.Diff([]string{method, want, "example.test:8080"}, got); diff != "" {
					t.Errorf("%s %q (-want +got):\n%s", method, path, diff)
				}
			}
		}
	})
}

func TestASpaceInTheQueryEndsNothing(t *testing.T) { // HTTP/1.1 cannot say it
	in := serveHTTP(t, func(w http.ResponseWriter, r *http.Request) { w.Header().Set("Target", r.RequestURI) })
	g := newRig(t, "complete", nil, in.addr)
	req := newRequest(t, "GET", g.url("/x"), nil)
	req.URL.RawQuery = "a=1 HTTP/1.0"
	if resp, _ := do(t, g.client("h2c"), req); resp.Header.Get("Target") != "/x?a=1%20HTTP/1.0" {
		t.Errorf("%d, target %q", resp.StatusCode, resp.Header.Get("Target"))
	}
}

func TestRequestHeaders(t *testing.T) {
	everyClient(t, func(t *testing.T, way, protocol string) {
		seen := make(chan http.Header, 1)
		in := serveHTTP(t, func(w http.ResponseWriter, r *http.Request) { seen <- r.Header })
		g := newRig(t, way, nil, in.addr)
		req := newRequest(t, "GET", g.url("/"), nil)
		req.Header = http.Header{
			"Accept": {"a", "b"}, "Cookie": {"x=1; y=2"}, "Authorization": {"Bearer t"}, "User-Agent": {"test"},
			"Kiln-Revision": {"forged"}, "Kiln-Function": {"forged"}, "Kiln-Token": {"forged"}, "Kiln-Instance-Token": {"forged"},
			"Proxy-Authorization": {"secret"}, "X-Forwarded-For": {"10.1.1.1"}, "X-Forwarded-Proto": {"https"},
			"Traceparent": {"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}, "Tracestate": {"a=b"},
		}
		if protocol == "h1" {
			req.Header["Connection"] = []string{"X-Named, keep-alive", "X-Other"}
			req.Header["X-Named"] = []string{"1"}
			req.Header["X-Other"] = []string{"1"}
			req.Header["Keep-Alive"] = []string{"timeout=5"}
			req.Header["Proxy-Connection"] = []string{"keep-alive"}
		}
		resp, _ := do(t, g.client(protocol), req)
		got := <-seen
		id, deadline := got.Get("Kiln-Request-Id"), got.Get("Kiln-Deadline")
		if !requestid.Valid(id) || id != resp.Header.Get("Kiln-Request-Id") {
			t.Errorf("the function saw the request id %q, the client %q", id, resp.Header.Get("Kiln-Request-Id"))
		}
		if _, err := strconv.ParseInt(deadline, 10, 64); err != nil {
			t.Errorf("Kiln-Deadline = %q, want milliseconds", deadline)
		}
		got.Del("Kiln-Request-Id")
		got.Del("Kiln-Deadline")
		want := http.Header{
			"Accept": {"a", "b"}, "Cookie": {"x=1; y=2"}, "Authorization": {"Bearer t"}, "User-Agent": {"test"},
			"Kiln-Revision": {"r1-abcdef"}, "Kiln-Function": {"echo"}, "Kiln-Instance-Token": {"of-i1"},
			"X-Forwarded-For": {"10.1.1.1, 127.0.0.1"}, "X-Forwarded-Proto": {"https"}, "X-Forwarded-Host": {g.addr},
			"Traceparent": {"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}, "Tracestate": {"a=b"},
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("the function's header (-want +got):\n%s", diff)
		}
	})
}

func TestTraceParent(t *testing.T) {
	const valid = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	tests := map[string]bool{ // sent -> kept
		valid:                       true,
		"":                          false,
		strings.ToUpper(valid):      false,
		valid + "-x":                false,
		"cc" + valid[2:] + "-later": true,
		"cc" + valid[2:] + "x":      false,
		"ff" + valid[2:]:            false,
		"00-" + strings.Repeat("0", 32) + valid[35:]:      false,
		valid[:36] + strings.Repeat("0", 16) + valid[52:]: false,
		strings.Replace(valid, "-b", "_b", 1):             false,
		strings.Replace(valid, "0af", "0xf", 1):           false,
		valid[:len(valid)-1]:                              false,
	}
	each(t, func(t *testing.T, way string) {
		seen := make(chan http.Header, 1)
		in := serveHTTP(t, func(w http.ResponseWriter, r *http.Request) { seen <- r.Header })
		g := newRig(t, way, nil, in.addr)
		client := g.client("h1")
		for sent, kept := range tests {
			req := newRequest(t, "GET", g.url("/"), nil)
			if sent != "" {
				req.Header.Set("Traceparent", sent)
			}
			req.Header.Set("Tracestate", "a=b")
			do(t, client, req)
			header := <-seen
			got := header.Get("Traceparent")
			if (got == sent) != kept || len(got) < 55 {
				t.Errorf("traceparent %q arrived as %q, want kept: %v", sent, got, kept)
			}
			if (header.Get("Tracestate") != "") != kept {
				t.Errorf("with traceparent %q tracestate arrived as %q, want kept: %v", sent, header.Get("Tracestate"), kept)
			}
		}
	})
}

func TestAnswerHeaders(t *testing.T) {
	everyClient(t, func(t *testing.T, way, protocol string) {
		in := serve(t, func(p *peer, _ int) {
			p.request()
			p.say("HTTP/1.1 503 Whatever\nConnection: X-Named, close\nX-Named: 1\nKeep-Alive: timeout=1\nKiln-Revision: forged\n" +
				"Kiln-Other: forged\nServer-Timing: db;dur=1\nSet-Cookie: a=1\nSet-Cookie: b=2\nContent-Length: 2\n\nno")
		})
		g := newRig(t, way, nil, in.addr)
		resp, body := do(t, g.client(protocol), newRequest(t, "GET", g.url("/"), nil))
		header := resp.Header
		timing := header["Server-Timing"]
		if len(timing) != 2 || timing[0] != "db;dur=1" {
			t.Fatalf("Server-Timing = %q, want the function's and ours", timing)
		}
		var queue, start, function float64
		if _, err := fmt.Sscanf(timing[1], "queue;dur=%f, start;dur=%f, function;dur=%f", &queue, &start, &function); err != nil || function <= 0 {
			t.Errorf("Server-Timing = %q (%v)", timing[1], err)
		}
		if !requestid.Valid(header.Get("Kiln-Request-Id")) || header.Get("Date") == "" {
			t.Errorf("there is no request id or no date in %v", header)
		}
		for _, name := range []string{"Server-Timing", "Kiln-Request-Id", "Date"} {
			header.Del(name)
		}
		want := http.Header{
			"Set-Cookie": {"a=1", "b=2"}, "Content-Length": {"2"},
			"Kiln-Revision": {"r1-abcdef"}, "Kiln-Error": {"function"},
		}
		if diff := cmp.Diff(want, header); diff != "" {
			t.Errorf("the answer's header (-want +got):\n%s", diff)
		}
		if resp.StatusCode != 503 || string(body) != "no" {
			t.Errorf("the answer is %d %q", resp.StatusCode, body)
		}
		if o := g.observed(); o.name != "echo" || o.code != 503 || o.function <= 0 || o.start <= 0 {
			t.Errorf("observed %+v, want echo, 503, times above 0", o)
		}
	})
}

func TestRequestIDOfTheClientIsKept(t *testing.T) {
	each(t, func(t *testing.T, way string) {
		in := serveHTTP(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.Header.Get("Kiln-Request-Id")) })
		g := newRig(t, way, nil, in.addr)
		for sent, kept := range map[string]bool{"mine-1": true, "no no": false, strings.Repeat("x", 129): false} {
			req := newRequest(t, "GET", g.url("/"), nil)
			req.Header.Set("Kiln-Request-Id", sent)
			resp, body := do(t, g.client("h1"), req)
			if got := string(body); (got == sent) != kept || got != resp.Header.Get("Kiln-Request-Id") {
				t.Errorf("id %q arrived as %q and came back as %q, want kept: %v", sent, got, resp.Header.Get("Kiln-Request-Id"), kept)
			}
		}
	})
}

// bodies are the sizes at which something changes: nothing, one read, more than
// a socket's buffers.
var bodies = []int{0, 1, 1 << 10, 32<<10 + 1, 64 << 10, 1 << 20, 3 << 20}

func noise(n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(n)})
	r.Read(b)
	return b
}

func sum(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:4]) + "/" + strconv.Itoa(len(b))
}

func TestBodies(t *testing.T) {
	everyClient(t, func(t *testing.T, way, protocol string) {
		in := serveHTTP(t, func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			if err != nil {
				t.Errorf("the function reads the body: %v", err)
			}
			w.Header().Set("Got-Length", strconv.FormatInt(r.ContentLength, 10))
			if r.URL.Query().Get("answer") == "length" {
				w.Header().Set("Content-Length", strconv.Itoa(len(body)))
			}
			w.Write(body)
		})
		g := newRig(t, way, nil, in.addr)
		client := g.client(protocol)
		for _, size := range bodies {
			for _, framing := range []string{"length", "chunked"} {
				for _, answer := range []string{"length", "chunked"} {
					sent := noise(size)
					var body io.Reader = bytes.NewReader(sent)
					length := int64(size)
					if framing == "chunked" {
						body, length = struct{ io.Reader }{body}, -1
					}
					req := newRequest(t, "POST", g.url("/?answer="+answer), body)
					req.ContentLength = length
					resp, got := do(t, client, req)
					if sum(got) != sum(sent) {
						t.Errorf("%d bytes, %s, %s: got %s, want %s", size, framing, answer, sum(got), sum(sent))
					}
					if got := resp.Header.Get("Got-Length"); size > 0 && got != strconv.FormatInt(length, 10) {
						t.Errorf("%d bytes, %s: the function saw the length %s, want %d", size, framing, got, length)
					}
				}
			}
		}
		// The next request may come when the client has the last byte of an answer
		// and the proxy has not yet given the connection back.
		if n := in.conns.Load(); n > 2 {
			t.Errorf("%d connections to the instance, want them kept", n)
		}
	})
}

func TestAnswerFramings(t *testing.T) {
	type want struct {
		status int
		body   string
		length int64
	}
	tests := []struct {
		name, method, answer string
		want                 want
		kept                 bool // the connection to the instance
	}{
		{"length", "GET", "HTTP/1.1 200 OK\nContent-Length: 5\n\nhello", want{200, "hello", 5}, true},
		{"no body", "GET", "HTTP/1.1 200 OK\nContent-Length: 0\n\n", want{200, "", 0}, true},
		{"chunked", "GET", "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n3\nhel\n2\nlo\n0\n\n", want{200, "hello", -1}, true},
		{"to the end", "GET", "HTTP/1.1 200 OK\n\nhello", want{200, "hello", -1}, false},
		{"old protocol", "GET", "HTTP/1.0 200 OK\n\nhello", want{200, "hello", -1}, false},
		{"length and close", "GET", "HTTP/1.1 201 Created\nContent-Length: 5\nConnection: close\n\nhello", want{201, "hello", 5}, false},
		{"no content", "GET", "HTTP/1.1 204 No Content\n\n", want{204, "", 0}, true},
		{"not modified", "GET", "HTTP/1.1 304 Not Modified\nContent-Length: 5\n\n", want{304, "", -1}, true},
		{"head", "HEAD", "HTTP/1.1 200 OK\nContent-Length: 5\n\n", want{200, "", 5}, true},
		{"head of chunks", "HEAD", "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n", want{200, "", -1}, true},
		{"no reason", "GET", "HTTP/1.1 299 \nContent-Length: 0\n\n", want{299, "", 0}, true},
		{"unknown status", "GET", "HTTP/1.1 799 Odd\nContent-Length: 1\n\nx", want{799, "x", 1}, true},
	}
	everyClient(t, func(t *testing.T, way, protocol string) {
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				in := serve(t, func(p *peer, _ int) {
					for p.request() != "" {
						p.say(tt.answer)
						if !tt.kept {
							return
						}
					}
				})
				g := newRig(t, way, nil, in.addr)
				client := g.client(protocol)
				for range 2 {
					resp, body := do(t, client, newRequest(t, tt.method, g.url("/"), nil))
					got := want{resp.StatusCode, string(body), resp.ContentLength}
					if tt.want.length < 0 && got.length == int64(len(body)) {
						got.length = -1 // a server may count what it has buffered
					}
					if tt.want.status == 304 || tt.want.status == 204 {
						got.length = tt.want.length // libraries differ
					}
					if diff := cmp.Diff(tt.want, got, cmp.AllowUnexported(want{})); diff != "" {
						t.Errorf("answer (-want +got):\n%s", diff)
					}
				}
				if n := in.conns.Load(); (n == 1) != tt.kept {
					t.Errorf("%d connections to the instance for two requests, want kept: %v", n, tt.kept)
				}
			})
		}
	})
}

func TestEventsAreFlushedAtOnce(t *testing.T) {
	everyClient(t, func(t *testing.T, way, protocol string) {
		next := make(chan struct{})
		in := serveHTTP(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			for i := range 5 {
				fmt.Fprintf(w, "data: %d\n\n", i)
				http.NewResponseController(w).Flush()
				<-next // the client has it
			}
		})
		g := newRig(t, way, nil, in.addr)
		resp, err := g.client(protocol).Do(newRequest(t, "GET", g.url("/"), nil))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		for i := range 5 {
			want := fmt.Sprintf("data: %d\n\n", i)
			got := make([]byte, len(want))
			if _, err := io.ReadFull(resp.Body, got); err != nil || string(got) != want {
				t.Fatalf("event %d is %q (%v)", i, got, err)
			}
			next <- struct{}{}
		}
		if rest, err := io.ReadAll(resp.Body); len(rest) > 0 || err != nil {
			t.Errorf("after the events: %q, %v", rest, err)
		}
	})
}

func TestDuplex(t *testing.T) {
	everyClient(t, func(t *testing.T, way, protocol string) {
		in := serveHTTP(t, func(w http.ResponseWriter, r *http.Request) {
			rc := http.NewResponseController(w)
			rc.EnableFullDuplex()
			rc.Flush()
			buf := make([]byte, 64)
			for {
				n, err := r.Body.Read(buf)
				w.Write(bytes.ToUpper(buf[:n]))
				rc.Flush()
				if err != nil {
					return
				}
			}
		})
		g := newRig(t, way, nil, in.addr)
		pr, pw := io.Pipe()
		resp, err := g.client(protocol).Do(newRequest(t, "POST", g.url("/"), pr))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		for i := range 5 {
			text := fmt.Sprintf("ping %d", i)
			if _, err := io.WriteString(pw, text); err != nil {
				t.Fatal(err)
			}
			got := make([]byte, len(text))
			if _, err := io.ReadFull(resp.Body, got); err != nil || string(got) != strings.ToUpper(text) {
				t.Fatalf("the answer to %q is %q (%v)", text, got, err)
			}
		}
		pw.Close()
		if rest, err := io.ReadAll(resp.Body); len(rest) > 0 || err != nil {
			t.Errorf("at the end: %q, %v", rest, err)
		}
	})
}

func TestTrailers(t *testing.T) {
	everyClient(t, func(t *testing.T, way, protocol string) {
		in := serveHTTP(t, func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			w.Header().Set("Trailer", "Sum, Kiln-Forged")
			w.Header().Set("Te-Seen", r.Header.Get("Te"))
			w.Write(body)
			w.Header().Set("Sum", r.Trailer.Get("Sum"))
			w.Header().Set("Kiln-Forged", "1")
			w.Header().Set(http.TrailerPrefix+"Late", "2")
		})
		g := newRig(t, way, nil, in.addr)
		req := newRequest(t, "POST", g.url("/"), struct{ io.Reader }{strings.NewReader("hello")})
		req.Trailer = http.Header{"Sum": {"abc"}}
		req.Header.Set("Te", "trailers")
		resp, body := do(t, g.client(protocol), req)
		if string(body) != "hello" || resp.Header.Get("Te-Seen") != "trailers" {
			t.Errorf("the answer is %q, TE arrived as %q", body, resp.Header.Get("Te-Seen"))
		}
		want := http.Header{"Sum": {"abc"}, "Late": {"2"}}
		if diff := cmp.Diff(want, resp.Trailer); diff != "" {
			t.Errorf("trailers (-want +got):\n%s", diff)
		}
	})
}

func TestEarlyHints(t *testing.T) {
	everyClient(t, func(t *testing.T, way, protocol string) {
		in := serve(t, func(p *peer, _ int) {
			for p.request() != "" {
				p.say("HTTP/1.1 100 Continue\n\nHTTP/1.1 103 Early Hints\nLink: </a.css>\nKiln-Forged: 1\n\n")
				p.say("HTTP/1.1 200 OK\nContent-Length: 2\n\nok")
			}
		})
		g := newRig(t, way, nil, in.addr)
		var hints []string
		trace := &httptrace.ClientTrace{Got1xxResponse: func(code int, header textproto.MIMEHeader) error {
			hints = append(hints, fmt.Sprint(code, header["Link"], header["Kiln-Forged"]))
			return nil
		}}
		req := newRequest(t, "GET", g.url("/"), nil)
		req = req.WithContext(httptrace.WithClientTrace(req.Context(), trace))
		resp, body := do(t, g.client(protocol), req)
		if diff := cmp.Diff([]string{"103 [</a.css>] []"}, hints); diff != "" {
			t.Errorf("informational answers (-want +got):\n%s", diff)
		}
		if string(body) != "ok" || resp.Header.Get("Link") != "" || resp.Header.Get("Kiln-Request-Id") == "" {
			t.Errorf("the answer is %q with %v", body, resp.Header)
		}
	})
}

func TestTooLarge(t *testing.T) {
	everyClient(t, func(t *testing.T, way, protocol string) {
		in := serveHTTP(t, func(w http.ResponseWriter, r *http.Request) {
			n, err := io.Copy(io.Discard, r.Body)
			fmt.Fprint(w, n, err)
		})
		g := newRig(t, way, func(s *orchestrator.Spec) { s.MaxRequest = 100 << 10 }, in.addr)
		client := g.client(protocol)
		for _, size := range []int{100 << 10, 100<<10 + 1, 3 << 20} {
			for _, length := range []int64{int64(size), -1} {
				req := newRequest(t, "POST", g.url("/"), struct{ io.Reader }{bytes.NewReader(noise(size))})
				req.ContentLength = length
				resp, err := client.Do(req)
				if err != nil {
					t.Errorf("%d bytes, length %d: %v", size, length, err)
					continue
				}
				body, _ := io.ReadAll(resp.Body)
				resp.Body.Close()
				want, fault := 200, ""
				if size > 100<<10 {
					want, fault = 413, "platform"
				}
				if resp.StatusCode != want || resp.Header.Get("Kiln-Error") != fault {
					t.Errorf("%d bytes, length %d: %d %q, want %d %s", size, length, resp.StatusCode, body, want, fault)
				}
			}
		}
	})
}

func TestUnknownFunction(t *testing.T) {
	everyClient(t, func(t *testing.T, way, protocol string) {
		g := newRig(t, way, nil)
		for _, name := range []string{"nobody", "Nobody%0a", strings.Repeat("x", 100)} {
			resp, body := do(t, g.client(protocol), newRequest(t, "GET", "http://"+g.addr+"/invoke/"+name+"/x", nil))
			if resp.StatusCode != 404 || resp.Header.Get("Kiln-Error") != "platform" || !strings.Contains(string(body), "function-not-found") {
				t.Errorf("%s: %d %s", name, resp.StatusCode, body)
			}
			checkTiming(t, resp)
		}
	})
}

// checkTiming checks that the platform tells where the time of a call went.
func checkTiming(t *testing.T, resp *http.Response) {
	t.Helper()
	var queue, start, function float64
	timings := resp.Header["Server-Timing"]
	if len(timings) != 1 {
		t.Errorf("Server-Timing of a %d = %q, want one of the platform's", resp.StatusCode, timings)
	} else if _, err := fmt.Sscanf(timings[0], "queue;dur=%f, start;dur=%f, function;dur=%f", &queue, &start, &function); err != nil {
		t.Errorf("Server-Timing of a %d = %q (%v)", resp.StatusCode, timings[0], err)
	}
}

func TestManyAtOnce(t *testing.T) {
	everyClient(t, func(t *testing.T, way, protocol string) {
		in := serveHTTP(t, func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			io.WriteString(w, r.URL.Path)
			w.Write(body)
		})
		g := newRig(t, way, nil, in.addr)
		client := g.client(protocol)
		errs := make(chan error, 32)
		for i := range cap(errs) {
			go func() {
				errs <- func() error {
					for j := range 10 {
						path, text := fmt.Sprintf("/%d/%d", i, j), strings.Repeat(strconv.Itoa(i), j*100)
						resp, err := client.Post(g.url(path), "text/plain", strings.NewReader(text))
						if err != nil {
							return err
						}
						body, err := io.ReadAll(resp.Body)
						resp.Body.Close()
						if err != nil || string(body) != path+text {
							return errors.Join(err, fmt.Errorf("%s: got %.80q", path, body))
						}
					}
					return nil
				}()
			}()
		}
		for range cap(errs) {
			if err := <-errs; err != nil {
				t.Error(err)
			}
		}
		if n := in.conns.Load(); n > 2*orchestrator.DefaultConcurrency { // one that a client cut off is replaced
			t.Errorf("%d connections to an instance with %d slots", n, orchestrator.DefaultConcurrency)
		}
	})
}
