package gateway_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kilnfaas/kiln/gateway/api"
	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/intake"
	"github.com/kilnfaas/kiln/orchestrator/storetest"
)

// TestSlowInput: what does not come in time is refused with 408, however much is
// still to come, and leaves nothing behind. A head that does not come is
// net/http's to refuse.
func TestSlowInput(t *testing.T) {
	whole, media := formOf(t, part{"spec", "", "{}"}, part{"archive", "x.py", strings.Repeat("x", 1<<10)})
	put := func(headers string) string { return "PUT /v1/functions/x HTTP/1.1\r\nHost: a\r\n" + headers + "\r\n" }
	const long = "Content-Length: 1000000\r\n"
	for _, c := range []struct {
		name, send string
		drip       time.Duration // between the bytes that follow; 0 = none does
		after      time.Duration
		status     int // 0 = net/http's, if any
	}{
		{"nothing", "", 0, 10 * time.Second, 0},
		{"half a head", "GET /v1/functions HTTP/1.1\r\nHos", 0, 10 * time.Second, 0},
		{"a head that drips", "GET /v1/functions HTTP/1.1\r\nX: ", time.Second, 10 * time.Second, 0},
		{"no body", put(long), 0, 30 * time.Second, 408},
		{"half an archive", put(long) + "PK\x03\x04", 0, 30 * time.Second, 408},
		{"an archive that drips", put(long) + "PK\x03\x04", 20 * time.Second, 10 * time.Minute, 408},
		{"a file that drips", put(long), 29 * time.Second, 10 * time.Minute, 408},
		{"a compressed archive that drips", put(long) + "\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x00", 20 * time.Second, 10 * time.Minute, 408},
		{"a chunk of exabytes", put("Transfer-Encoding: chunked\r\n") + "ffffffffffffff\r\nPK\x03\x04", 0, 30 * time.Second, 408},
		{"no chunk", put("Transfer-Encoding: chunked\r\n"), 0, 30 * time.Second, 408},
		{"half a form", put(long+"Content-Type: "+media+"\r\n") + whole[:len(whole)/2], 0, 30 * time.Second, 408},
		{"a form that drips", put(long+"Content-Type: "+media+"\r\n") + whole[:len(whole)/2], 20 * time.Second, 10 * time.Minute, 408},
		{"no settings", "PATCH /v1/functions/a HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 10\r\n\r\n", 0, 30 * time.Second, 408},
		{"half a rollback", "POST /v1/functions/a/rollback HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 10\r\n\r\n{", 0, 30 * time.Second, 408},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { slowInput(t, c.send, c.drip, c.after, c.status) })
		})
	}
}

func slowInput(t *testing.T, send string, drip, after time.Duration, status int) {
	f := newFixture(t, "a")
	store := storetest.NewFake()
	f.Intake = intake.New(store, fakeTemplates{}, badLimits(), f.SpoolDir)
	f.functions.deploy = func(context.Context, orchestrator.Deploy, func(orchestrator.BuildEvent)) error {
		t.Error("half of something was deployed")
		return nil
	}
	conn := onPipe(t, f).dial()
	start := time.Now()
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		io.WriteString(conn, send)
		for drip > 0 {
			time.Sleep(drip)
			if _, err := io.WriteString(conn, "x"); err != nil {
				return
			}
		}
	}()
	defer func() {
		conn.Close()
		<-sent
	}()
	answer, err := readReply(conn)
	if took := time.Since(start); took != after {
		t.Errorf("it took %v, want %v", took, after)
	}
	if status == 0 {
		if err == nil && answer.status != http.StatusBadRequest {
			t.Errorf("got %d, want none or net/http's own 400", answer.status)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	if document := answer.problem(t); answer.status != status || document.Code != "request-timeout" || document.Fault != api.FaultPlatform {
		t.Errorf("got %d %+v, want %d", answer.status, document, status)
	}
	archives, err := store.Archives(t.Context())
	left, dirErr := os.ReadDir(f.SpoolDir)
	if err != nil || dirErr != nil || len(archives) > 0 || len(left) > 0 {
		t.Errorf("left behind: archives %v (%v), files %v (%v)", archives, err, left, dirErr)
	}
}

// readReply reads one answer.
func readReply(conn net.Conn) (reply, error) {
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return reply{}, fmt.Errorf("read an answer: %w", err)
	}
	body, err := io.ReadAll(response.Body)
	return reply{response.StatusCode, response.Header, string(body)}, err
}
