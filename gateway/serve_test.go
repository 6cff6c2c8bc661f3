package gateway_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kilnfaas/kiln/gateway"
	"github.com/kilnfaas/kiln/gateway/api"
	"github.com/kilnfaas/kiln/orchestrator"
)

// serve opens the gateway on a port of its own and returns a client of it.
func serve(t *testing.T, f *fixture) *api.Client {
	t.Helper()
	f.Addr = "127.0.0.1:0"
	if err := f.Open(); err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{}
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		if err := f.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return &api.Client{BaseURL: "http://" + f.Address().String(), HTTP: &http.Client{Transport: transport}}
}

func readAll(response *http.Response) (string, error) {
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return string(body), err
}

func TestHTTP2WithoutTLS(t *testing.T) {
	f := newFixture(t, "a")
	f.functions.lines = logLines()
	f.Invoke = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.Proto) })
	client := serve(t, f)
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	transport := &http.Transport{Protocols: protocols}
	defer transport.CloseIdleConnections()
	client.HTTP = &http.Client{Transport: transport}
	ctx := context.Background()

	response, err := client.Invoke(ctx, api.Invocation{Function: "a"})
	if err != nil {
		t.Fatal(err)
	}
	if body, err := readAll(response); err != nil || body != "HTTP/2.0" {
		t.Errorf("invoke: %q, %v; want HTTP/2.0", body, err)
	}
	deployment, err := client.Deploy(ctx, api.Deploy{Name: "b", Archive: strings.NewReader("x")}, nil)
	if err != nil || deployment.Function.Name != "b" {
		t.Errorf("deploy: %+v, %v", deployment, err)
	}
	for _, err := range client.Logs(ctx, "a", api.LogOptions{Tail: -1}) {
		if err != nil {
			t.Errorf("logs: %v", err)
		}
	}
}

// TestCloseDrains: what runs may finish, followers of logs are ended, deploys
// are told before the end, and new connections are refused.
func TestCloseDrains(t *testing.T) { synctest.Test(t, testCloseDrains) }

func testCloseDrains(t *testing.T) {
	f := newFixture(t, "a")
	entered, release, begun := make(chan struct{}, 3), make(chan struct{}), make(chan struct{})
	f.Invoke = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		entered <- struct{}{}
		<-release
		io.WriteString(w, "finished")
	})
	f.functions.logs = func(ctx context.Context, _ orchestrator.LogOptions) iter.Seq2[orchestrator.FunctionLog, error] {
		return func(func(orchestrator.FunctionLog, error) bool) {
			entered <- struct{}{}
			<-ctx.Done()
		}
	}
	f.functions.deploy = func(ctx context.Context, _ orchestrator.Deploy, _ func(orchestrator.BuildEvent)) error {
		entered <- struct{}{}
		<-ctx.Done()
		return context.Cause(ctx)
	}
	listener := onPipe(t, f)
	transport := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return listener.dial(), nil }}
	defer transport.CloseIdleConnections()
	client := &api.Client{BaseURL: "http://pipe", HTTP: &http.Client{Transport: transport}}
	ctx := context.Background()
	start := time.Now()
	var calls sync.WaitGroup
	calls.Go(func() {
		response, err := client.Invoke(ctx, api.Invocation{Function: "a"})
		if err != nil {
			t.Errorf("invoke: %v", err)
			return
		}
		if body, err := readAll(response); body != "finished" || err != nil {
			t.Errorf("invoke: %q, %v; want it finished", body, err)
		}
	})
	calls.Go(func() {
		for line, err := range client.Logs(ctx, "a", api.LogOptions{Follow: true}) {
			t.Errorf("logs: %v, %v; want their end", line, err)
		}
		close(begun)
	})
	calls.Go(func() {
		_, err := client.Deploy(ctx, api.Deploy{Name: "b", Archive: strings.NewReader("x")}, nil)
		var problem *api.Error
		if !errors.As(err, &problem) || problem.Code != "stopping" {
			t.Errorf("deploy: %v, want that the gateway stops", err)
		}
		if took := time.Since(start); took != 20*time.Second {
			t.Errorf("the deploy could be followed for %v, want two thirds of the shutdown", took)
		}
	})
	for range 3 {
		<-entered
	}
	closed := make(chan error, 1)
	go func() { closed <- f.Close() }()
	<-begun // Close has, as the followers of logs were ended
	close(release)
	calls.Wait()
	if err := <-closed; err != nil {
		t.Errorf("Close = %v", err)
	}
	if err := f.Close(); err != nil {
		t.Errorf("Close again = %v", err)
	}
	if _, err := listener.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the listener is not closed: %v", err)
	}
	if err := f.Serve(&pipeListener{}); err != nil {
		t.Errorf("Serve after Close = %v, want nil at once", err)
	}
}

// TestCloseCuts what does not end by itself, in time.
func TestCloseCuts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.Invoke = http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
		listener := newPipeListener()
		served := make(chan error, 1)
		go func() { served <- f.Serve(listener) }()
		conn := listener.dial()
		defer conn.Close()
		fmt.Fprint(conn, "GET /invoke/a HTTP/1.1\r\nHost: x\r\n\r\n")
		synctest.Wait()
		start := time.Now()
		if err := f.Close(); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Close = %v, want that connections were cut", err)
		}
		if took := time.Since(start); took != gateway.DefaultShutdown {
			t.Errorf("Close took %v, want %v", took, gateway.DefaultShutdown)
		}
		if err := <-served; err != nil {
			t.Errorf("Serve = %v", err)
		}
	})
}

func TestOpenOnATakenPort(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	f := newFixture(t)
	f.Addr = taken.Addr().String()
	err = f.Open()
	var known *orchestrator.Error
	if !errors.As(err, &known) || known.Code != "listen-failed" || known.Hint == "" {
		t.Errorf("Open = %v, want listen-failed with a hint", err)
	}
	if err := f.Close(); err != nil {
		t.Errorf("Close = %v", err)
	}
}

// pipeListener accepts connections in memory, which synctest's clock governs.
type pipeListener struct {
	conns chan net.Conn
	once  sync.Once
	done  chan struct{}
}

func newPipeListener() *pipeListener {
	return &pipeListener{conns: make(chan net.Conn), done: make(chan struct{})}
}

func (l *pipeListener) dial() net.Conn {
	client, server := net.Pipe()
	l.conns <- server
	return client
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conns:
		return conn, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	l.once.Do(func() {
		if l.done != nil {
			close(l.done)
		}
	})
	return nil
}

func (l *pipeListener) Addr() net.Addr { return &net.UnixAddr{Name: "pipe"} }

// onPipe serves the gateway on a listener in memory inside a synctest bubble.
func onPipe(t *testing.T, f *fixture) *pipeListener {
	listener := newPipeListener()
	served := make(chan error, 1)
	go func() { served <- f.Serve(listener) }()
	t.Cleanup(func() {
		f.Close() // connections may be cut
		if err := <-served; err != nil {
			t.Errorf("Serve = %v", err)
		}
	})
	return listener
}

// TestSlowBody: a client that stops sending is answered and let go.
func TestSlowBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		conn := onPipe(t, f).dial()
		defer conn.Close()
		start := time.Now()
		fmt.Fprint(conn, "PUT /v1/functions/a HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf")
		response, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		document := api.ReadError(response)
		if response.StatusCode != 408 || document.Code != "request-timeout" {
			t.Errorf("answer = %d %+v, want 408", response.StatusCode, document)
		}
		if took := time.Since(start); took != 30*time.Second {
			t.Errorf("it took %v, want 30s", took)
		}
	})
}

// TestDripFedBody: a client that sends a byte now and then does not get longer
// than the whole body's time.
func TestDripFedBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		conn := onPipe(t, f).dial()
		defer conn.Close()
		start := time.Now()
		fmt.Fprint(conn, "PUT /v1/functions/a HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n")
		var drip sync.WaitGroup
		defer drip.Wait()
		defer conn.Close()
		drip.Go(func() {
			for {
				time.Sleep(10 * time.Second) // the bubble's clock
				if _, err := conn.Write([]byte("x")); err != nil {
					return
				}
			}
		})
		response, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); response.StatusCode != 408 || took != 10*time.Minute {
			t.Errorf("answer = %d after %v, want 408 after 10m", response.StatusCode, took)
		}
	})
}

// TestSlowHead: a client that never ends its request's head is dropped.
func TestSlowHead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		conn := onPipe(t, f).dial()
		defer conn.Close()
		start := time.Now()
		fmt.Fprint(conn, "GET /healthz HTTP/1.1\r\nHost:")
		io.Copy(io.Discard, conn)
		if took := time.Since(start); took != 10*time.Second {
			t.Errorf("the connection was kept for %v, want 10s", took)
		}
	})
}

// TestHeadsEnd: a head is read up to 64 KiB, give or take what net/http adds,
// where the event loops do not read: HTTP/2, TLS, what was handed over.
func TestHeadsEnd(t *testing.T) {
	f := newFixture(t)
	f.Invoke = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.Proto) })
	url := serve(t, f).BaseURL + "/invoke/a"
	for _, version := range []string{"HTTP/1.1", "HTTP/2.0"} {
		protocols := new(http.Protocols)
		protocols.SetHTTP1(version == "HTTP/1.1")
		protocols.SetUnencryptedHTTP2(version == "HTTP/2.0")
		transport := &http.Transport{Protocols: protocols}
		defer transport.CloseIdleConnections()
		ask := func(size int) (status int, body string, err error) {
			request, err := http.NewRequest("GET", url, nil)
			if err != nil {
				t.Fatal(err)
			}
			request.Header.Set("X-Long", strings.Repeat("x", size))
			response, err := transport.RoundTrip(request)
			if err != nil {
				return 0, "", err
			}
			body, err = readAll(response)
			return response.StatusCode, body, err
		}
		// A client of HTTP/2 that was told the limit does not even send.
		if status, body, err := ask(72 << 10); err == nil && status != http.StatusRequestHeaderFieldsTooLarge {
			t.Errorf("%s: a head of 72 KiB: got %d %s, want 431 or none", version, status, body)
		}
		if status, body, err := ask(60 << 10); status != http.StatusOK || body != version {
			t.Errorf("%s: a head of 60 KiB: got %d %s, %v; want it taken", version, status, body, err)
		}
	}
}

// TestReaderThatStops: a follower of logs that takes nothing for 30 s is let go,
// and the use case with it.
func TestReaderThatStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, "a")
		ended := make(chan time.Time, 1)
		f.functions.logs = func(context.Context, orchestrator.LogOptions) iter.Seq2[orchestrator.FunctionLog, error] {
			return func(yield func(orchestrator.FunctionLog, error) bool) {
				for yield(orchestrator.FunctionLog{LogLine: orchestrator.LogLine{Text: strings.Repeat("x", 1000)}}, nil) {
				}
				ended <- time.Now()
			}
		}
		conn := onPipe(t, f).dial()
		defer conn.Close()
		start := time.Now()
		fmt.Fprint(conn, "GET /v1/functions/a/logs?follow=true HTTP/1.1\r\nHost: x\r\n\r\n")
		if took := (<-ended).Sub(start); took != 30*time.Second {
			t.Errorf("it was held for %v, want 30s", took)
		}
	})
}

// TestDeadlinesEndWithTheirRequest: an invocation on a connection that the
// control API used before may take as long as it likes, in both directions, and
// a deploy may wait for longer than a body may stall.
func TestDeadlinesEndWithTheirRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, "a")
		f.functions.deploy = func(ctx context.Context, _ orchestrator.Deploy, _ func(orchestrator.BuildEvent)) error {
			select {
			case <-time.After(5 * time.Minute):
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		f.Invoke = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			if err != nil {
				t.Errorf("invocation: %v", err)
			}
			io.WriteString(w, "begin ")
			http.NewResponseController(w).Flush()
			time.Sleep(5 * time.Minute)
			w.Write(body)
		})
		conn := onPipe(t, f).dial()
		defer conn.Close()
		reader := bufio.NewReader(conn)
		ask := func(head, body string) string {
			t.Helper()
			fmt.Fprintf(conn, "%s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", head, len(body))
			go func() {
				time.Sleep(time.Minute)
				io.WriteString(conn, body)
			}()
			response, err := http.ReadResponse(reader, nil)
			if err != nil {
				t.Fatalf("%s: %v", head, err)
			}
			answer, err := readAll(response)
			if err != nil || response.StatusCode > 299 {
				t.Fatalf("%s: %d %q, %v", head, response.StatusCode, answer, err)
			}
			return answer
		}
		ask("GET /healthz", "")
		fmt.Fprint(conn, "PUT /v1/functions/a HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\ncode")
		response, err := http.ReadResponse(reader, nil)
		if err != nil {
			t.Fatal(err)
		}
		if answer, err := readAll(response); err != nil || response.StatusCode != 200 {
			t.Fatalf("deploy: %d %q, %v", response.StatusCode, answer, err)
		}
		if got := ask("POST /invoke/a", "body"); got != "begin body" {
			t.Errorf("invocation = %q", got)
		}
	})
}
