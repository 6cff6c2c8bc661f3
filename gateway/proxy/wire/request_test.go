package wire_test

import (
	"bufio"
	"bytes"
	"net/http"
	"net/textproto"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/http/httpguts"

	"github.com/kilnfaas/kiln/gateway/proxy/wire"
)

func TestHeadEnd(t *testing.T) {
	const head = "GET / HTTP/1.1\r\nHost: a\r\n\r\n"
	for cut := range len(head) {
		for scanned := range cut {
			if n, err := wire.HeadEnd([]byte(head[:cut]), scanned); n != 0 || err != nil {
				t.Errorf("%d bytes, %d scanned: %d, %v; want to wait", cut, scanned, n, err)
			}
		}
	}
	for scanned := range len(head) {
		if n, err := wire.HeadEnd([]byte(head+"rest\r\n\r\n"), scanned); n != len(head) || err != nil {
			t.Errorf("%d scanned: %d, %v; want %d", scanned, n, err, len(head))
		}
	}
	for _, bad := range []string{"\n", "GET / HTTP/1.1\n", "GET / HTTP/1.1\r\nHost: a\n", "a\r\n\nb"} {
		if _, err := wire.HeadEnd([]byte(bad), 0); err != wire.ErrLineEnd {
			t.Errorf("%q: %v, want %v", bad, err, wire.ErrLineEnd)
		}
	}
	if _, err := wire.HeadEnd(bytes.Repeat([]byte("x"), wire.MaxHead), 0); err != wire.ErrTooLarge {
		t.Errorf("a head without an end: %v, want %v", err, wire.ErrTooLarge)
	}
	large := append(bytes.Repeat([]byte("x"), wire.MaxHead), "\r\n\r\n"...)
	if _, err := wire.HeadEnd(large, 0); err != wire.ErrTooLarge {
		t.Errorf("a head that is too large: %v, want %v", err, wire.ErrTooLarge)
	}
}

func TestRequest(t *testing.T) {
	type want struct {
		method, target, host string
		fields               []string
		length               int64
		chunked, close, odd  bool
	}
	tests := map[string]want{
		"GET / HTTP/1.1\r\nHost: a\r\n\r\n": {"GET", "/", "a", []string{"Host=a"}, -1, false, false, false},
		"POST /x?y=%zz HTTP/1.1\r\nhOST:  a:80 \t\r\nX:\r\ncontent-length: 0012\r\n\r\n": {
			"POST", "/x?y=%zz", "a:80", []string{"hOST=a:80", "X=", "content-length=0012"}, 12, false, false, false},
		"GET /%41/?é HTTP/1.1\r\nHost:\r\nConnection: close\r\n\r\n":           {"GET", "/%41/?é", "", []string{"Host=", "Connection=close"}, -1, false, true, false},
		"GET / HTTP/1.1\r\nHost: a\r\nConnection: Keep-Alive\r\n\r\n":          {"GET", "/", "a", []string{"Host=a", "Connection=Keep-Alive"}, -1, false, false, false},
		"M-SEARCH / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n": {"M-SEARCH", "/", "a", []string{"Host=a", "Transfer-Encoding=Chunked"}, -1, true, false, false},
		"GET /é HTTP/1.1\r\nHost: a\r\n\r\n":                                   {"GET", "/é", "a", []string{"Host=a"}, -1, false, false, true},
		"GET / HTTP/1.0\r\n\r\n":                                               {"GET", "/", "", nil, -1, false, true, true},
		"PRI * HTTP/2.0\r\n\r\n":                                               {"PRI", "*", "", nil, -1, false, false, true},
		"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n":                                {"OPTIONS", "*", "a", []string{"Host=a"}, -1, false, false, true},
		"GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n":                            {"GET", "http://a/", "a", []string{"Host=a"}, -1, false, false, true},
		"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: x\r\n\r\n":                      {"GET", "/", "a", []string{"Host=a", "Upgrade=x"}, -1, false, false, true},
		"GET / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n":            {"GET", "/", "a", []string{"Host=a", "Expect=100-continue"}, -1, false, false, true},
		"GET / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\n\r\n":                    {"GET", "/", "a", []string{"Host=a", "TE=trailers"}, -1, false, false, true},
		"GET / HTTP/1.1\r\nHost: a\r\nTrailer: x\r\n\r\n":                      {"GET", "/", "a", []string{"Host=a", "Trailer=x"}, -1, false, false, true},
		"GET / HTTP/1.1\r\nHost: a\r\nConnection: close, x\r\n\r\n":            {"GET", "/", "a", []string{"Host=a", "Connection=close, x"}, -1, false, false, true},
		"GET / HTTP/1.1\r\nHost: [::1]:80\r\nX: a, \"b\"; \xff\tc\r\n\r\n":     {"GET", "/", "[::1]:80", []string{"Host=[::1]:80", "X=a, \"b\"; \xff\tc"}, -1, false, false, false},
	}
	var r wire.Request
	for head, want_ := range tests {
		if err := r.Parse([]byte(head)); err != nil {
			t.Errorf("%q: %v", head, err)
			continue
		}
		got := want{string(r.Method), string(r.Target), string(r.Host), nil, r.ContentLength, r.Chunked, r.Close, r.Unusual}
		for _, f := range r.Fields {
			got.fields = append(got.fields, string(f.Name)+"="+string(f.Value))
		}
		if diff := cmp.Diff(want_, got, cmp.AllowUnexported(want{})); diff != "" {
			t.Errorf("%q (-want +got):\n%s", head, diff)
		}
	}
}

// refusedRequests are malformed heads and why. TestSmugglingIsRefused of package
// proxy has more of them, on the wire.
func TestRequestRefused(t *testing.T) {
	line := func(l string) string { return l + "\r\nHost: a\r\n\r\n" }
	field := func(f string) string { return "POST / HTTP/1.1\r\nHost: a\r\n" + f + "\r\n\r\n" }
	tests := map[string]error{
		line("GET / HTTP/1.2"):         wire.ErrVersion,
		line("GET / HTTP/3.0"):         wire.ErrVersion,
		line("GET / HTTP/2.0"):         wire.ErrVersion,
		line("GET / HTTP/1.10"):        wire.ErrLine,
		line("GET /"):                  wire.ErrTarget,
		line("GET"):                    wire.ErrMethod,
		line("G\x00T / HTTP/1.1"):      wire.ErrMethod,
		line("GET /\x80\x7f HTTP/1.1"): wire.ErrTarget,
		line("GET /%4 HTTP/1.1"):       wire.ErrTarget,
		line("GET /a#b HTTP/1.1"):      wire.ErrTarget,
		field("A : b"):                 wire.ErrName,
		field(" A: b"):                 wire.ErrFold,
		field("A"):                     wire.ErrName,
		field("A: b\x01"):              wire.ErrValue,
		field("A: b\rc: d"):            wire.ErrLineEnd,
		field("A: b\nc: d"):            wire.ErrLineEnd,
		field("Host: b"):               wire.ErrHost,
		field("Content-Length: 1a"):    wire.ErrLength,
		field("Content-Length: 1\r\nContent-Length: 1"):            wire.ErrLength,
		field("Transfer-Encoding: gzip"):                           wire.ErrEncoding,
		field("Transfer-Encoding: chunked, chunked"):               wire.ErrEncoding,
		field("Transfer-Encoding: chunked\r\nContent-Length: 1"):   wire.ErrBothLengths,
		"GET / HTTP/1.1\r\n\r\n":                                   wire.ErrHost,
		"GET / HTTP/1.1\r\nHost: a b\r\n\r\n":                      wire.ErrHost,
		"GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n":     wire.ErrEncoding,
		field(strings.Repeat("A: b\r\n", wire.MaxFields) + "A: b"): wire.ErrTooMany,
	}
	var r wire.Request
	for head, want := range tests {
		if err := r.Parse([]byte(head)); err != want {
			t.Errorf("%.60q: %v, want %v", head, err, want)
		}
	}
}

// accepts says what net/http's server makes of a head: what ReadRequest checks,
// and what the server checks after it.
func accepts(head []byte) (*http.Request, bool) {
	req, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(head)))
	if err != nil {
		return nil, false
	}
	if req.ProtoMajor == 1 && req.ProtoMinor == 1 && req.Host == "" && !bytes.Contains(bytes.ToLower(head), []byte("\nhost:")) {
		return nil, false
	}
	if !httpguts.ValidHostHeader(req.Host) {
		return nil, false
	}
	for name, values := range req.Header {
		if !httpguts.ValidHeaderFieldName(name) {
			return nil, false
		}
		for _, value := range values {
			if !httpguts.ValidHeaderFieldValue(value) {
				return nil, false
			}
		}
	}
	return req, true
}

// FuzzRequest holds the parser against net/http: what the parser accepts,
// net/http accepts, and both understand the same.
func FuzzRequest(f *testing.F) {
	for _, seed := range []string{
		"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
		"POST /invoke/x?y HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello",
		"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"GET / HTTP/1.0\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "GET http://a/b HTTP/1.1\r\nHost: b\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n", "GET /%zz HTTP/1.1\r\nHost: a\r\n\r\n",
		"GET //a:b@c/d HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx",
		"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n", "GET /: HTTP/1.1\r\nHost: a\r\nExpect: x\r\nTE: a\r\nTrailer: b\r\n\r\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		n, err := wire.HeadEnd(data, 0)
		if err != nil || n == 0 {
			return
		}
		var r wire.Request
		if r.Parse(data[:n]) != nil {
			return
		}
		lengths := 0
		for _, f := range r.Fields {
			if wire.EqualFold(f.Name, []byte("Content-Length")) || wire.EqualFold(f.Name, []byte("Transfer-Encoding")) {
				lengths++
			}
		}
		if lengths > 1 { // which net/http makes sense of, and others do otherwise
			t.Fatalf("accepted with %d lengths: %q", lengths, data[:n])
		}
		if r.Unusual {
			return // net/http reads it again
		}
		req, ok := accepts(data[:n])
		if !ok {
			t.Fatalf("accepted what net/http refuses: %q", data[:n])
		}
		compare(t, &r, req)
	})
}

func compare(t *testing.T, r *wire.Request, req *http.Request) {
	t.Helper()
	length := r.ContentLength
	if r.Chunked {
		length = -1
	} else if length < 0 {
		length = 0
	}
	if string(r.Method) != req.Method || string(r.Target) != req.RequestURI || string(r.Host) != req.Host || length != req.ContentLength || r.Close != req.Close {
		t.Fatalf("read %q %q host %q length %d close %v, net/http %q %q host %q length %d close %v",
			r.Method, r.Target, r.Host, length, r.Close, req.Method, req.RequestURI, req.Host, req.ContentLength, req.Close)
	}
	if r.Chunked != (len(req.TransferEncoding) == 1) {
		t.Fatalf("chunked is %v, net/http has %q", r.Chunked, req.TransferEncoding)
	}
	fields := http.Header{}
	for _, f := range r.Fields {
		name := textproto.CanonicalMIMEHeaderKey(string(f.Name))
		switch name {
		case "Host", "Transfer-Encoding", "Content-Length":
			continue // net/http keeps some of them elsewhere
		}
		fields[name] = append(fields[name], string(f.Value))
	}
	req.Header.Del("Content-Length")
	if req.Header.Get("Pragma") == "no-cache" && fields.Get("Cache-Control") == "" {
		req.Header.Del("Cache-Control") // net/http adds it
	}
	if diff := cmp.Diff(fields, req.Header); diff != "" {
		t.Fatalf("fields (-ours +net/http):\n%s", diff)
	}
}

func BenchmarkRequest(b *testing.B) {
	head := []byte("POST /invoke/echo/some/path?and=query HTTP/1.1\r\nHost: kiln.example:8080\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36\r\n" +
		"Accept: text/html,application/json\r\nAccept-Language: en-GB,en;q=0.9\r\nContent-Type: application/json\r\nContent-Length: 1024\r\nCookie: session=0123456789abcdef\r\n\r\n")
	var r wire.Request
	b.SetBytes(int64(len(head)))
	b.ReportAllocs()
	for b.Loop() {
		n, err := wire.HeadEnd(head, 0)
		if err != nil || r.Parse(head[:n]) != nil {
			b.Fatal("not parsed")
		}
	}
}

func TestNothingIsAllocated(t *testing.T) {
	request := []byte("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n")
	response := []byte("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
	var (
		q wire.Request
		a wire.Response
	)
	allocs := testing.AllocsPerRun(100, func() {
		n, _ := wire.HeadEnd(request, 0)
		m, _ := wire.ResponseHeadEnd(response, 0)
		if q.Parse(request[:n]) != nil || a.Parse(response[:m]) != nil {
			t.Fatal("not parsed")
		}
		var c wire.Chunked
		if _, _, err := c.Skip(response[m:], nil); err != nil || !c.Done() {
			t.Fatal("the body was not read")
		}
	})
	if allocs != 0 {
		t.Errorf("%v allocations, want none", allocs)
	}
}
