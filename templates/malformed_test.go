package templates_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// TestPython_refusesMalformedRequests proves that the parser, which is Kiln's own
// in this runtime, does not guess where a request ends.
func TestPython_refusesMalformedRequests(t *testing.T) {
	requireDocker(t)
	i := asgiInstance(t)
	const post, chunked = "POST /echo HTTP/1.1\r\nHost: x\r\n", "Transfer-Encoding: chunked\r\n"
	for name, test := range map[string]struct {
		request string
		status  int
	}{
		"both lengths":           {post + chunked + "Content-Length: 3\r\n\r\n0\r\n\r\n", 400},
		"two lengths":            {post + "Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", 400},
		"a signed length":        {post + "Content-Length: +3\r\n\r\nabc", 400},
		"a hexadecimal length":   {post + "Content-Length: 0x3\r\n\r\nabc", 400},
		"an endless length":      {post + "Content-Length: " + strings.Repeat("9", 30) + "\r\n\r\n", 400},
		"another coding":         {post + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501},
		"chunked in HTTP/1.0":    {"POST /echo HTTP/1.0\r\n" + chunked + "\r\n0\r\n\r\n", 501},
		"folding":                {post + "A: b\r\n c: d\r\n\r\n", 400},
		"a blank before a colon": {post + "Content-Length : 3\r\n\r\nabc", 400},
		"a bare line feed":       {post + "A: b\nContent-Length: 3\r\n\r\nabc", 400},
		"a zero byte":            {post + "A: \x00\r\n\r\n", 400},
		"no version":             {"GET /echo\r\n\r\n", 400},
		"another version":        {"GET /echo HTTP/2.0\r\n\r\n", 400},
		"a blank in the target":  {"GET /echo a HTTP/1.1\r\n\r\n", 400},
		"large fields":           {post + "A: " + strings.Repeat("x", 70_000) + "\r\n\r\n", 431},
		"large fields, no end":   {post + "A: " + strings.Repeat("x", 70_000), 431},
	} {
		t.Run(name, func(t *testing.T) {
			at := *i
			at.t = t
			conn, r := at.dial()
			fmt.Fprint(conn, test.request)
			if got := readResponse(t, r, http.MethodPost); got.status != test.status {
				t.Errorf("got %d %s, want %d", got.status, got.body, test.status)
			}
			if rest, err := r.ReadByte(); err == nil {
				t.Errorf("the connection goes on with %q", rest)
			}
		})
	}
	for name, body := range map[string]string{
		"a chunk that is too long": "3\r\nabcd\r\n0\r\n\r\n",
		"no chunk size":            "\r\nabc\r\n0\r\n\r\n",
		"a negative chunk size":    "-3\r\nabc\r\n0\r\n\r\n",
		"an endless chunk size":    strings.Repeat("f", 30) + "\r\n",
		"an endless size line":     strings.Repeat("0", 5000),
	} {
		t.Run(name, func(t *testing.T) {
			at := *i
			at.t = t
			conn, r := at.dial()
			fmt.Fprint(conn, post+chunked+"\r\n"+body)
			response, err := http.ReadResponse(r, nil)
			if err == nil && response.StatusCode < 400 {
				t.Errorf("got %d, want a refusal", response.StatusCode)
			}
		})
	}
	at := *i
	checkEcho(t, &at)
}
