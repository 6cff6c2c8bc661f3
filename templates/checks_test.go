package templates_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// checks are what every kit answers, from the plain to the destructive; drain
// ends the instance and comes last.
var checks = []struct {
	name string
	run  func(*testing.T, *instance)
}{
	{"echo", checkEcho},
	{"head", checkHead},
	{"keepalive", checkKeepAlive},
	{"pipelined", checkPipelined},
	{"chunked", checkChunked},
	{"large", checkLarge},
	{"continue", checkContinue},
	{"status", checkStatus},
	{"empty", checkEmpty},
	{"cookies", checkCookies},
	{"json", checkJSON},
	{"control", checkControl},
	{"fail", checkFail},
	{"fail-late", checkFailLate},
	{"stream", checkStream},
	{"concurrency", checkConcurrency},
	{"upload", checkUpload},
	{"disconnect", checkDisconnect},
	{"logs", checkLogs},
	{"env", checkEnv},
	{"drain", checkDrain},
}

// checkTimeout bounds one request: generous for a shared machine.
const checkTimeout = 30 * time.Second

type answer struct {
	status int
	header http.Header
	body   string
}

// send makes one request and reads the whole response.
func (i *instance) send(method, path string, header http.Header, body io.Reader) answer {
	i.t.Helper()
	ctx, cancel := context.WithTimeout(i.t.Context(), checkTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, i.base+path, body)
	if err != nil {
		i.t.Fatal(err)
	}
	for name, values := range header {
		request.Header[name] = values
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		i.t.Fatal(err)
	}
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	if err != nil {
		i.t.Fatalf("%s %s: read the body: %v", method, path, err)
	}
	return answer{response.StatusCode, response.Header, string(data)}
}

func (i *instance) get(path string) answer {
	i.t.Helper()
	return i.send(http.MethodGet, path, nil, nil)
}

// dial opens a connection for requests written by hand.
func (i *instance) dial() (net.Conn, *bufio.Reader) {
	i.t.Helper()
	conn, err := net.DialTimeout("tcp", i.addr, checkTimeout)
	if err != nil {
		i.t.Fatal(err)
	}
	i.t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(checkTimeout))
	return conn, bufio.NewReader(conn)
}

func readResponse(t *testing.T, r *bufio.Reader, method string) answer {
	t.Helper()
	response, err := http.ReadResponse(r, &http.Request{Method: method})
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{response.StatusCode, response.Header, string(body)}
}

// until waits for a condition that another process brings about.
func until(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline := time.NewTimer(checkTimeout)
	defer deadline.Stop()
	again := time.NewTicker(10 * time.Millisecond)
	defer again.Stop()
	for !holds() {
		select {
		case <-deadline.C:
			t.Fatalf("in vain waited until %s", what)
		case <-again.C:
		}
	}
}

// touch makes a file in the instance's /tmp, for which a handler waits.
func (i *instance) touch(name string) {
	i.t.Helper()
	docker(i.t, "exec", i.id, "touch", "/tmp/"+name)
}

func (i *instance) exists(name string) bool { return i.get("/exists?file="+name).status == 200 }

func containsFold(s, part string) bool {
	return strings.Contains(strings.ToLower(s), strings.ToLower(part))
}

func checkEcho(t *testing.T, i *instance) {
	header := http.Header{"Content-Type": {"text/x-test"}, "Kiln-Request-Id": {"id-1"}}
	got := i.send(http.MethodPut, "/echo?a=1&b=2", header, strings.NewReader("héllo"))
	want := answer{200, http.Header{"Content-Type": {"text/x-test"}, "X-Method": {"PUT"}, "X-Path": {"/echo"}, "X-Query": {"a=1&b=2"}, "X-Request-Id": {"id-1"}}, "héllo"}
	if got.status != want.status || got.body != want.body {
		t.Fatalf("got %d %q, want %d %q", got.status, got.body, want.status, want.body)
	}
	for name := range want.header {
		if got.header.Get(name) != want.header.Get(name) {
			t.Errorf("%s: got %q, want %q", name, got.header.Get(name), want.header.Get(name))
		}
	}
}

func checkHead(t *testing.T, i *instance) {
	conn, r := i.dial()
	for range 2 { // a body by mistake would be read as the second response
		fmt.Fprintf(conn, "HEAD /echo HTTP/1.1\r\nHost: x\r\n\r\n")
		if got := readResponse(t, r, http.MethodHead); got.status != 200 || got.header.Get("X-Method") != "HEAD" {
			t.Errorf("got %d %v, want 200 to HEAD", got.status, got.header)
		}
	}
}

func checkKeepAlive(t *testing.T, i *instance) {
	conn, r := i.dial()
	for n := range 3 {
		body := fmt.Sprintf("number %d", n)
		fmt.Fprintf(conn, "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
		if got := readResponse(t, r, http.MethodPost); got.body != body {
			t.Errorf("got %q, want %q", got.body, body)
		}
	}
}

func checkPipelined(t *testing.T, i *instance) {
	conn, r := i.dial()
	for n := range 3 {
		fmt.Fprintf(conn, "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n%d", n)
	}
	for n := range 3 {
		if got := readResponse(t, r, http.MethodPost); got.body != fmt.Sprint(n) {
			t.Errorf("got %q, want %d", got.body, n)
		}
	}
}

func checkChunked(t *testing.T, i *instance) {
	sent := make([]byte, 300_000)
	rand.Read(sent)
	// Without a length the client sends chunks, of odd sizes here.
	got := i.send(http.MethodPost, "/echo", nil, &oddReader{data: sent})
	if got.status != 200 || got.body != string(sent) {
		t.Errorf("got %d and %d bytes, want the %d that were sent", got.status, len(got.body), len(sent))
	}
	conn, r := i.dial()
	for _, b := range []byte("POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0A\r\n0123456789\r\n0\r\nTrailer: 1\r\n\r\n") {
		conn.Write([]byte{b})
	}
	if got := readResponse(t, r, http.MethodPost); got.body != "abc0123456789" {
		t.Errorf("got %q, want what the chunks carried", got.body)
	}
}

// oddReader hides its length and returns pieces of growing size.
type oddReader struct {
	data []byte
	size int
}

func (o *oddReader) Read(p []byte) (int, error) {
	if len(o.data) == 0 {
		return 0, io.EOF
	}
	o.size = o.size*2%8191 + 1
	n := copy(p[:min(len(p), o.size)], o.data)
	o.data = o.data[n:]
	return n, nil
}

func checkLarge(t *testing.T, i *instance) {
	sent := make([]byte, 8<<20)
	rand.Read(sent)
	got := i.send(http.MethodPost, "/echo", nil, bytes.NewReader(sent))
	if got.status != 200 || got.body != string(sent) {
		t.Errorf("got %d and %d bytes, want the %d that were sent", got.status, len(got.body), len(sent))
	}
}

func checkContinue(t *testing.T, i *instance) {
	conn, r := i.dial()
	fmt.Fprintf(conn, "POST /echo HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
	line, err := r.ReadString('\n')
	if err != nil || !strings.HasPrefix(line, "HTTP/1.1 100") {
		t.Fatalf("got %q %v, want 100 Continue", line, err)
	}
	for line != "\r\n" {
		if line, err = r.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
	}
	fmt.Fprint(conn, "hello")
	if got := readResponse(t, r, http.MethodPost); got.body != "hello" {
		t.Errorf("got %q, want hello", got.body)
	}
}

func checkStatus(t *testing.T, i *instance) {
	if got := i.get("/status?code=418"); got.status != 418 || got.body != "status" {
		t.Errorf("got %d %q, want 418 status", got.status, got.body)
	}
}

func checkEmpty(t *testing.T, i *instance) {
	if got := i.get("/empty"); got.status != 204 || got.body != "" {
		t.Errorf("got %d %q, want 204", got.status, got.body)
	}
}

func checkCookies(t *testing.T, i *instance) {
	got := i.get("/cookies").header.Values("Set-Cookie")
	if diff := cmp.Diff([]string{"a=1", "b=2"}, got); diff != "" {
		t.Errorf("Set-Cookie (-want +got):\n%s", diff)
	}
}

func checkJSON(t *testing.T, i *instance) {
	got := i.get("/json")
	var value any
	if err := json.Unmarshal([]byte(got.body), &value); err != nil {
		t.Fatalf("%q: %v", got.body, err)
	}
	want := map[string]any{"ümläut": []any{1.0, 2.5, nil, true}}
	if diff := cmp.Diff(want, value); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if kind := got.header.Get("Content-Type"); kind != "application/json" {
		t.Errorf("Content-Type: got %q, want application/json", kind)
	}
}

func checkControl(t *testing.T, i *instance) {
	if got := i.get("/_kiln/ready"); got.status != 200 {
		t.Errorf("/_kiln/ready: got %d, want 200", got.status)
	}
	if got := i.get("/_kiln/other"); got.status != 404 {
		t.Errorf("/_kiln/other: got %d, want 404", got.status)
	}
}

func checkProblem(t *testing.T, got answer, status int, code string) {
	t.Helper()
	if got.status != status || got.header.Get("Content-Type") != "application/problem+json" {
		t.Fatalf("got %d %s %q, want %d application/problem+json", got.status, got.header.Get("Content-Type"), got.body, status)
	}
	var document struct {
		Type, Title, Code, Detail, Instance string
		RequestID                           string `json:"request_id"`
		Status                              int
	}
	if err := json.Unmarshal([]byte(got.body), &document); err != nil {
		t.Fatalf("%q: %v", got.body, err)
	}
	if document.Type != "urn:kiln:error:"+code || document.Code != code || document.Status != status || document.Title == "" || document.Detail == "" {
		t.Errorf("got %+v, want a complete document of %s", document, code)
	}
	if got.header.Get("Kiln-Error") != "function" {
		t.Errorf("Kiln-Error: got %q, want function", got.header.Get("Kiln-Error"))
	}
}

func checkFail(t *testing.T, i *instance) {
	got := i.send(http.MethodGet, "/fail", http.Header{"Kiln-Request-Id": {"id-2"}}, nil)
	checkProblem(t, got, 500, "handler-failed")
	if !strings.Contains(got.body, `id-2`) {
		t.Errorf("%s does not name the request", got.body)
	}
	until(t, "the stack is in the log", func() bool { return strings.Contains(i.logs(), "kaboom") })
	checkEcho(t, i)
}

func checkFailLate(t *testing.T, i *instance) {
	conn, r := i.dial()
	fmt.Fprintf(conn, "GET /fail-late HTTP/1.1\r\nHost: x\r\n\r\n")
	response, err := http.ReadResponse(r, nil)
	if err != nil {
		return // broken before the head is as good
	}
	if body, err := io.ReadAll(response.Body); err == nil && response.StatusCode == 200 {
		t.Errorf("got a complete response %q, want a broken one", body)
	}
	checkEcho(t, i)
}

// openStream starts a response that has sent its first part and waits for file.
func openStream(t *testing.T, i *instance, file string) *bufio.Reader {
	t.Helper()
	conn, r := i.dial()
	fmt.Fprintf(conn, "GET /stream?file=%s HTTP/1.1\r\nHost: x\r\n\r\n", file)
	response, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	body := bufio.NewReader(response.Body)
	if line, err := body.ReadString('\n'); line != "first\n" {
		t.Fatalf("got %q %v, want first", line, err)
	}
	return body
}

func endStream(t *testing.T, body *bufio.Reader) {
	t.Helper()
	if rest, err := io.ReadAll(body); string(rest) != "last\n" || err != nil {
		t.Errorf("got %q %v, want last", rest, err)
	}
}

func checkStream(t *testing.T, i *instance) {
	body := openStream(t, i, "stream-end")
	i.touch("stream-end")
	endStream(t, body)
}

func checkConcurrency(t *testing.T, i *instance) {
	const together = 4
	var wg sync.WaitGroup
	for range together {
		wg.Go(func() {
			response, err := http.Get(fmt.Sprintf("%s/barrier?n=%d", i.base, together))
			if err != nil {
				t.Error(err)
				return
			}
			defer response.Body.Close()
			if body, err := io.ReadAll(response.Body); string(body) != "passed" {
				t.Errorf("got %q %v, want passed", body, err)
			}
		})
	}
	wg.Wait()
}

func checkUpload(t *testing.T, i *instance) {
	r, w := io.Pipe()
	result := make(chan answer)
	go func() { result <- i.send(http.MethodPost, "/upload?file=upload-begun", nil, r) }()
	part := bytes.Repeat([]byte("x"), 100_000)
	w.Write(part)
	until(t, "the handler has the first part of the body", func() bool { return i.exists("upload-begun") })
	w.Write(part)
	w.Close()
	if got := <-result; got.body != "200000" {
		t.Errorf("got %d %q, want 200000", got.status, got.body)
	}
}

func checkDisconnect(t *testing.T, i *instance) {
	conn, _ := i.dial()
	fmt.Fprintf(conn, "GET /disconnect?file=gone HTTP/1.1\r\nHost: x\r\n\r\n")
	until(t, "the handler runs", func() bool { return i.exists("gone-begun") })
	conn.Close()
	if got := i.get("/unlocked?file=gone"); got.status == 200 || got.status == 409 {
		until(t, "the process is gone", func() bool { return i.get("/unlocked?file=gone").status == 200 })
		return
	}
	until(t, "the handler was told", func() bool { return i.exists("gone") })
}

func checkLogs(t *testing.T, i *instance) {
	i.get("/print?text=a-line-of-log")
	until(t, "the line is in the log", func() bool { return strings.Contains(i.logs(), "a-line-of-log") })
}

func checkEnv(t *testing.T, i *instance) {
	got := i.get("/env")
	var seen struct {
		Env, Proc map[string]string
	}
	if err := json.Unmarshal([]byte(got.body), &seen); err != nil {
		t.Fatalf("%q: %v", got.body, err)
	}
	if seen.Env["KILN_FUNCTION"] != "kit" || seen.Env["KILN_REVISION"] != "r1-000000" || seen.Env["KILN_CONCURRENCY"] != "8" {
		t.Errorf("the function's environment is %v", seen.Env)
	}
	if seen.Proc["1"] == "" {
		t.Errorf("the kit did not read /proc/1/environ")
	}
	for _, name := range []string{"KILN_CELL", "KILN_CELL_TOKEN", "KILN_LISTEN_FD", "KILN_LOAD_FD"} {
		if value, ok := seen.Env[name]; ok {
			t.Errorf("the function sees %s=%s", name, value)
		}
	}
	if strings.Contains(got.body, cellToken) {
		t.Error("the load token reaches the function")
	}
}

func checkDrain(t *testing.T, i *instance) {
	idle, r := i.dial()
	fmt.Fprintf(idle, "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
	readResponse(t, r, http.MethodPost)
	body := openStream(t, i, "drain-end")
	docker(t, "kill", "--signal", "TERM", i.id)
	until(t, "the port refuses", func() bool { return !i.accepts() })
	if !i.running() {
		t.Fatal("the instance ended with a request in flight")
	}
	i.touch("drain-end")
	endStream(t, body)
	if code := docker(t, "wait", i.id); code != "0" {
		t.Errorf("the instance ended with %s, want 0", code)
	}
}
