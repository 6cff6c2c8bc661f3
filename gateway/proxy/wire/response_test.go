package wire_test

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/http/httputil"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kilnfaas/kiln/gateway/proxy/wire"
)

func TestResponse(t *testing.T) {
	type want struct {
		status                        int
		reason                        string
		fields                        []string
		length                        int64
		chunked, close, trailer, name bool
	}
	tests := map[string]want{
		"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n":                        {200, "OK", []string{"Content-Length=5"}, 5, false, false, false, false},
		"HTTP/1.1 200 OK\nContent-Length: 5\n\n":                              {200, "OK", []string{"Content-Length=5"}, 5, false, false, false, false},
		"HTTP/1.0 404 Not Found\r\n\r\n":                                      {404, "Not Found", nil, -1, false, true, false, false},
		"HTTP/1.1 204\r\n\r\n":                                                {204, "", nil, -1, false, false, false, false},
		"HTTP/1.1 299 \r\nA:b\r\n\r\n":                                        {299, "", []string{"A=b"}, -1, false, false, false, false},
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: A\r\n\r\n": {200, "OK", []string{"Transfer-Encoding=chunked", "Trailer=A"}, -1, true, false, true, false},
		"HTTP/1.1 200 OK\r\nConnection: close, X\r\n\r\n":                     {200, "OK", []string{"Connection=close, X"}, -1, false, true, false, true},
		"HTTP/1.1 200 OK\r\nContent-Length: 1\r\ncontent-length: 1\r\n\r\n":   {200, "OK", []string{"Content-Length=1", "content-length=1"}, 1, false, false, false, false},
	}
	var r wire.Response
	for head, want_ := range tests {
		for scanned := range len(head) {
			if n, err := wire.ResponseHeadEnd([]byte(head+"\r\n\r\n"), scanned); n != len(head) || err != nil {
				t.Errorf("%q, %d scanned: %d, %v; want %d", head, scanned, n, err, len(head))
			}
			if n, err := wire.ResponseHeadEnd([]byte(head[:scanned]), 0); n != 0 || err != nil {
				t.Errorf("%q: %d, %v; want to wait", head[:scanned], n, err)
			}
		}
		if err := r.Parse([]byte(head)); err != nil {
			t.Errorf("%q: %v", head, err)
			continue
		}
		got := want{r.Status, string(r.Reason), nil, r.ContentLength, r.Chunked, r.Close, r.Trailer, r.Named}
		for _, f := range r.Fields {
			got.fields = append(got.fields, string(f.Name)+"="+string(f.Value))
		}
		if diff := cmp.Diff(want_, got, cmp.AllowUnexported(want{})); diff != "" {
			t.Errorf("%q (-want +got):\n%s", head, diff)
		}
	}
}

func TestResponseRefused(t *testing.T) {
	tests := map[string]error{
		"\r\n":                                         wire.ErrStatus,
		"hello\r\n\r\n":                                wire.ErrStatus,
		"HTTP/2.0 200 OK\r\n\r\n":                      wire.ErrStatus,
		"HTTP/1.1 20 OK\r\n\r\n":                       wire.ErrStatus,
		"HTTP/1.1 2000 OK\r\n\r\n":                     wire.ErrStatus,
		"HTTP/1.1 099 OK\r\n\r\n":                      wire.ErrStatus,
		"HTTP/1.1 200 O\x00K\r\n\r\n":                  wire.ErrStatus,
		"HTTP/1.1 200 OK\r\nA\r\n\r\n":                 wire.ErrName,
		"HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n":        wire.ErrName,
		"HTTP/1.1 200 OK\r\nA : b\r\n\r\n":             wire.ErrName,
		"HTTP/1.1 200 OK\r\nA: b\x00\r\n\r\n":          wire.ErrValue,
		"HTTP/1.1 200 OK\r\nA: b\rc\r\n\r\n":           wire.ErrValue,
		"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n": wire.ErrLength,
		"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n":          wire.ErrLength,
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n":                         wire.ErrEncoding,
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n": wire.ErrBothLengths,
	}
	var r wire.Response
	for head, want := range tests {
		if err := r.Parse([]byte(head)); err != want {
			t.Errorf("%q: %v, want %v", head, err, want)
		}
	}
}

// FuzzResponse holds the parser against net/http's client.
func FuzzResponse(f *testing.F) {
	for _, seed := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", "HTTP/1.0 204 No Content\n\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: A\r\nConnection: close, b\r\n\r\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		n, err := wire.ResponseHeadEnd(data, 0)
		if err != nil || n == 0 {
			return
		}
		var r wire.Response
		if r.Parse(data[:n]) != nil {
			return
		}
		resp, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(data[:n])), &http.Request{Method: "GET"})
		if err != nil {
			if strings.Contains(err.Error(), "bad trailer key") {
				return // that field is not passed on
			}
			t.Fatalf("accepted what net/http refuses (%v): %q", err, data[:n])
		}
		if r.Status != resp.StatusCode || r.Chunked != (len(resp.TransferEncoding) == 1) {
			t.Fatalf("%q: read status %d chunked %v, net/http %d %q", data[:n], r.Status, r.Chunked, resp.StatusCode, resp.TransferEncoding)
		}
		if !r.Bodyless(false) && r.ContentLength != resp.ContentLength {
			t.Fatalf("%q: read length %d, net/http %d", data[:n], r.ContentLength, resp.ContentLength)
		}
	})
}

// dechunk reads a chunked body cut into pieces of a size.
func dechunk(in []byte, size int) (data []byte, trailers []string, rest []byte, err error) {
	var c wire.Chunked
	for len(in) > 0 && !c.Done() {
		piece := in[:min(size, len(in))]
		for len(piece) > 0 && !c.Done() {
			n, err := c.Frame(piece, func(f wire.Field) error {
				trailers = append(trailers, string(f.Name)+"="+string(f.Value))
				return nil
			})
			if err != nil {
				return data, trailers, nil, err
			}
			piece, in = piece[n:], in[n:]
			m := c.Data(len(piece))
			data = append(data, piece[:m]...)
			piece, in = piece[m:], in[m:]
		}
	}
	if !c.Done() {
		return data, trailers, nil, io.ErrUnexpectedEOF
	}
	return data, trailers, in, nil
}

func TestChunked(t *testing.T) {
	tests := []struct {
		in, data, trailers, rest string
		err                      error
	}{
		{"0\r\n\r\nrest", "", "", "rest", nil},
		{"5\r\nhello\r\n0\r\n\r\n", "hello", "", "", nil},
		{"2\r\nhe\r\n003\r\nllo\r\n00\r\n\r\n", "hello", "", "", nil},
		{"A\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n", "01234567890123456789", "", "", nil},
		{"5;a=b;c=\"d\"\r\nhello\r\n0;x\r\n\r\n", "hello", "", "", nil},
		{"5 \r\nhello\r\n0\r\n\r\n", "hello", "", "", nil},
		{"0\r\nA: b\r\nC:d \r\n\r\nrest", "", "A=b C=d", "rest", nil},
		{"5\r\nhel", "hel", "", "", io.ErrUnexpectedEOF},
		{"5\r\nhello", "hello", "", "", io.ErrUnexpectedEOF},
		{"\r\n", "", "", "", wire.ErrChunk},
		{"x\r\n", "", "", "", wire.ErrChunk},
		{"-1\r\n", "", "", "", wire.ErrChunk},
		{"0x5\r\nhello\r\n", "", "", "", wire.ErrChunk},
		{"5\nhello\n0\n\n", "", "", "", wire.ErrChunk},
		{"5\r\nhello\n0\r\n\r\n", "hello", "", "", wire.ErrChunk},
		{"5\r\nhelloo\r\n0\r\n\r\n", "hello", "", "", wire.ErrChunk},
		{"5\rhello", "", "", "", wire.ErrChunk},
		{"1000000000000000\r\n", "", "", "", wire.ErrChunk},
		{"5;a\x00\r\nhello\r\n", "", "", "", wire.ErrChunkExt},
		{"5;a\n\r\nhello\r\n", "", "", "", wire.ErrChunkExt},
		{"5;" + strings.Repeat("a", 300) + "\r\nhello\r\n", "", "", "", wire.ErrChunkExt},
		{"0\r\n\n", "", "", "", wire.ErrTrailer},
		{"0\r\nA : b\r\n\r\n", "", "", "", wire.ErrTrailer},
		{"0\r\nA: b\nC: d\r\n\r\n", "", "", "", wire.ErrTrailer},
		{"0\r\n b\r\n\r\n", "", "", "", wire.ErrTrailer},
		{"0\r\nA: b\rX", "", "", "", wire.ErrTrailer},
		{"0\r\n" + strings.Repeat("A: b\r\n", 2000), "", "", "", wire.ErrTrailerLarge},
	}
	for _, tt := range tests {
		for _, size := range []int{1, 2, 3, 7, 1 << 20} {
			data, trailers, rest, err := dechunk([]byte(tt.in), size)
			if !errors.Is(err, tt.err) || string(data) != tt.data || err == nil && (strings.Join(trailers, " ") != tt.trailers || string(rest) != tt.rest) {
				t.Errorf("%.40q in pieces of %d: %q %q %q %v, want %q %q %q %v",
					tt.in, size, data, trailers, rest, err, tt.data, tt.trailers, tt.rest, tt.err)
			}
		}
	}
}

// TestSkip: what a body's bytes are up to the trailer section.
func TestSkip(t *testing.T) {
	const in = "5\r\nhello\r\n0\r\nA: b\r\n\r\nrest"
	for cut := range len(in) {
		var c wire.Chunked
		n, before, err := c.Skip([]byte(in[:cut]), nil)
		if err != nil || n > cut {
			t.Fatalf("cut at %d: %d, %v", cut, n, err)
		}
		m, after, err := c.Skip([]byte(in[n:]), nil)
		if err != nil || !c.Done() || in[n+m:] != "rest" || before+after != len("5\r\nhello\r\n0\r\n") {
			t.Errorf("cut at %d: %d and %d bytes, of them %d and %d before the trailers, %v", cut, n, m, before, after, err)
		}
	}
}

// FuzzChunked holds the reader against net/http's: what it accepts, net/http
// accepts, with the same data, however it is cut.
func FuzzChunked(f *testing.F) {
	for _, seed := range []string{"5\r\nhello\r\n0\r\n\r\n", "a;b=c\r\n0123456789\r\n0\r\nA: b\r\n\r\nrest", "1 \r\nx\r\n000\r\n\r\n"} {
		f.Add([]byte(seed), 1)
	}
	f.Fuzz(func(t *testing.T, in []byte, size int) {
		data, _, rest, err := dechunk(in, max(1, size&0xff))
		whole, _, wholeRest, wholeErr := dechunk(in, 1<<20)
		if !bytes.Equal(data, whole) || !bytes.Equal(rest, wholeRest) || (err == nil) != (wholeErr == nil) {
			t.Fatalf("in pieces %q %q %v, at once %q %q %v", data, rest, err, whole, wholeRest, wholeErr)
		}
		if err != nil {
			return
		}
		theirs, err := io.ReadAll(httputil.NewChunkedReader(bytes.NewReader(in[:len(in)-len(rest)])))
		if err != nil || !bytes.Equal(theirs, data) {
			t.Fatalf("read %q, net/http %q (%v)", data, theirs, err)
		}
	})
}
