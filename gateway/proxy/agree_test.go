package proxy_test

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestBothWaysAgree sends random requests through both ways to a function that
// gives random answers: what the function gets and what the client gets must be
// the same, but for order and for what is new each time.
func TestBothWaysAgree(t *testing.T) {
	seen := make(chan string, 1)
	answers := make(chan string, 1)
	in := serve(t, func(p *peer, _ int) {
		for {
			head := p.request()
			if head == "" {
				return
			}
			seen <- head
			if body := lengthOf(head); body > 0 {
				p.br.Discard(body)
			}
			p.say(<-answers)
		}
	})
	peers := map[string]*peer{}
	rigs := map[string]*rig{}
	for _, way := range ways {
		rigs[way] = newRig(t, way, nil, in.addr)
		peers[way] = rigs[way].dial()
	}
	r := rand.New(rand.NewPCG(1, 2))
	for range 500 {
		request, method := randomRequest(r)
		answer := randomAnswer(r, method)
		var got, back []string
		for _, way := range ways {
			p := peers[way]
			p.say(request)
			head := <-seen
			answers <- answer
			got = append(got, normal(head))
			resp, err := http.ReadResponse(p.br, &http.Request{Method: method})
			if err != nil {
				t.Fatalf("%s: %q to %q: %v", way, answer, request, err)
			}
			back = append(back, clientSees(t, p, resp))
			if strings.Contains(request, "Connection: close") {
				p.Close()
				peers[way] = rigs[way].dial()
			}
		}
		if diff := cmp.Diff(got[0], got[1]); diff != "" {
			t.Errorf("%q: the function gets (-%s +%s):\n%s", request, ways[0], ways[1], diff)
		}
		if diff := cmp.Diff(back[0], back[1]); diff != "" {
			t.Errorf("%q: the client gets (-%s +%s):\n%s", answer, ways[0], ways[1], diff)
		}
	}
	if n := rigs["fast"].others.Load(); n != 0 {
		t.Errorf("%d connections were handed over, so that the ways were not compared", n)
	}
}

func pickOf(r *rand.Rand, from ...string) string { return from[r.IntN(len(from))] }

func randomRequest(r *rand.Rand) (request, method string) {
	method = pickOf(r, "GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "REPORT")
	var b strings.Builder
	fmt.Fprintf(&b, "%s /invoke/echo%s HTTP/1.1\n", method, pickOf(r, "", "/", "?", "?a=b&c", "/x", "/x/?y", "//", "/a%2fb/%41", "/p;a=1?ü", "/a?b?c/d", "/:80", "/x%20y?%zz"))
	fields := []string{"Host: " + pickOf(r, "a", "example.test:8080", "[::1]:1", "")}
	for range r.IntN(8) {
		fields = append(fields, pickOf(r,
			"Accept: */*", "accept:  text/html ", "X-Empty:", "Cookie: a=b; c=d", "X-Twice: 1", "X-Twice: 2", "User-Agent: test/1.0",
			"Kiln-Revision: forged", "kiln-anything: forged", "Kiln-Request-Id: fixed", "Keep-Alive: timeout=5", "Proxy-Connection: keep-alive",
			"Proxy-Authorization: secret", "X-Forwarded-For: 10.0.0.1", "x-forwarded-for: 10.0.0.2, 10.0.0.3", "X-Forwarded-Proto: https",
			"X-Forwarded-Host: front.test", "Traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "traceparent: nonsense",
			"Tracestate: a=b", "Authorization: Bearer x", "authorization: Basic eDp5", "Authorization: Bearer kiln_x", "authorization: bearer  kiln_x", "X-Latin: \xe4\xf6", "X-Tab: a\tb", "Content-Type: text/plain", "Origin: null", "Range: bytes=0-1"))
	}
	if c := r.IntN(10); c == 0 {
		fields = append(fields, "Connection: close")
	} else if c == 1 {
		fields = append(fields, "Connection: keep-alive")
	}
	body := ""
	if method != "GET" && method != "HEAD" && r.IntN(2) == 0 {
		body = strings.Repeat("b", r.IntN(3)*700)
		fields = append(fields, fmt.Sprintf("Content-Length: %d", len(body)))
	}
	r.Shuffle(len(fields), func(i, j int) { fields[i], fields[j] = fields[j], fields[i] })
	return b.String() + strings.Join(fields, "\n") + "\n\n" + body, method
}

func randomAnswer(r *rand.Rand, method string) string {
	status := pickOf(r, "200 OK", "200 OK", "201 Created", "204 No Content", "206 Partial Content", "301 Moved", "304 Not Modified", "404 Not Found", "418 I'm a teapot", "500 Oops", "503 Busy")
	var fields []string
	for range r.IntN(6) {
		fields = append(fields, pickOf(r,
			"Content-Type: text/plain", "set-cookie: a=b", "Set-Cookie: c=d", "X-Empty:", "ETag: \"x\"", "Kiln-Revision: forged", "Kiln-Error: platform",
			"Keep-Alive: timeout=5", "Proxy-Authenticate: Basic", "Server-Timing: db;dur=1", "Date: Thu, 01 Jan 1970 00:00:00 GMT", "Server: test",
			"Connection: X-Named", "X-Named: 1", "Upgrade: h2c", "Location: /x", "Vary: a", "Vary: b", "Cache-Control: no-store", "X-Latin: \xe4"))
	}
	bodyless := method == "HEAD" || strings.HasPrefix(status, "204") || strings.HasPrefix(status, "304")
	body := ""
	switch {
	case bodyless:
		if method == "HEAD" && r.IntN(2) == 0 {
			fields = append(fields, "Content-Length: 5")
		}
	case r.IntN(3) == 0:
		fields = append(fields, "Transfer-Encoding: chunked")
		for range 1 + r.IntN(3) {
			body += fmt.Sprintf("%x\n%s\n", 2000, strings.Repeat("c", 2000))
		}
		body += "0\n" + pickOf(r, "", "", "X-Trailer: t\n", "Kiln-Trailer: forged\n") + "\n"
	default:
		body = strings.Repeat("l", r.IntN(3)*3000)
		fields = append(fields, fmt.Sprintf("Content-Length: %d", len(body)))
	}
	r.Shuffle(len(fields), func(i, j int) { fields[i], fields[j] = fields[j], fields[i] })
	return "HTTP/1.1 " + status + "\n" + strings.Join(append(fields, "\n"), "\n") + body
}

// normal makes heads comparable: fields in order of name, with canonical names,
// without what differs from call to call.
func normal(head string) string {
	line, rest, _ := strings.Cut(head, "\n")
	var fields []string
	for field := range strings.Lines(rest) {
		name, value, ok := strings.Cut(strings.TrimSpace(field), ":")
		if !ok {
			continue
		}
		name, value = http.CanonicalHeaderKey(name), strings.TrimSpace(value)
		if name == "Traceparent" && !strings.HasPrefix(value, "00-0af7651916cd43dd8448eb211c80319c") || name == "Kiln-Request-Id" && value != "fixed" || name == "Kiln-Deadline" {
			value = "made"
		}
		fields = append(fields, name+": "+value)
	}
	slices.SortStableFunc(fields, func(a, b string) int {
		x, _, _ := strings.Cut(a, ":")
		y, _, _ := strings.Cut(b, ":")
		return strings.Compare(x, y)
	})
	return line + "\n" + strings.Join(fields, "\n")
}

// clientSees describes an answer.
func clientSees(t *testing.T, p *peer, resp *http.Response) string {
	t.Helper()
	body := bufio.NewReader(resp.Body)
	n, err := body.WriteTo(discard{})
	if err != nil {
		t.Errorf("read a body: %v", err)
	}
	header := resp.Header.Clone()
	if timings := header["Server-Timing"]; len(timings) > 0 {
		header["Server-Timing"] = append(timings[:len(timings)-1:len(timings)-1], "ours")
	}
	if resp.StatusCode == http.StatusNotModified {
		header.Del("Content-Type") // net/http does not send it
	}
	if header.Get("Date") != "Thu, 01 Jan 1970 00:00:00 GMT" {
		header.Set("Date", "made")
	}
	if header.Get("Kiln-Request-Id") != "fixed" {
		header.Set("Kiln-Request-Id", "made")
	}
	header.Del("Content-Length") // net/http tells that of a short chunked body
	var b strings.Builder
	fmt.Fprintln(&b, resp.StatusCode, n, resp.Close)
	header.Write(&b)
	resp.Trailer.Write(&b)
	return b.String()
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }

// lengthOf returns the Content-Length that a head tells.
func lengthOf(head string) (n int) {
	for line := range strings.Lines(head) {
		if name, value, _ := strings.Cut(line, ":"); strings.EqualFold(name, "Content-Length") {
			fmt.Sscan(value, &n)
		}
	}
	return n
}
