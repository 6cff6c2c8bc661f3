package main_test

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"golang.org/x/net/websocket"

	"github.com/rogpeppe/go-internal/testscript"
)

// wireTimeout bounds what is asked for on one connection.
const wireTimeout = 20 * time.Second

// readEvents reads a stream of server-sent events to its end. The second event
// is only sent once a call of .../next asks for it, so the first one has to come
// through while the answer is under way.
func readEvents(ts *testscript.TestScript, _ bool, args []string) {
	url := worldOf(ts).gateway.url() + "/invoke/" + args[0]
	client := &http.Client{Timeout: wireTimeout}
	response, err := client.Get(url + "/events")
	ts.Check(err)
	defer response.Body.Close()
	lines := bufio.NewReader(io.LimitReader(response.Body, maxAnswer))
	if got := nextEvent(ts, lines); got != "data: first" {
		ts.Fatalf("the first event is %q", got)
	}
	next, err := client.Get(url + "/next")
	ts.Check(err)
	next.Body.Close()
	if got := nextEvent(ts, lines); got != "data: second" {
		ts.Fatalf("the second event is %q", got)
	}
	rest, err := io.ReadAll(lines)
	ts.Check(err)
	if len(rest) > 0 {
		ts.Fatalf("after the last event comes %q", rest)
	}
}

// nextEvent reads up to an event's empty line.
func nextEvent(ts *testscript.TestScript, r *bufio.Reader) string {
	var event []string
	for {
		line, err := r.ReadString('\n')
		ts.Check(err)
		if line = strings.TrimRight(line, "\n"); line == "" {
			return strings.Join(event, "\n")
		}
		event = append(event, line)
	}
}

// echoSocket sends a text over a WebSocket and wants it back twice as often as
// it was sent: each answer needs what was sent before it.
func echoSocket(ts *testscript.TestScript, _ bool, args []string) {
	g := worldOf(ts).gateway
	conn, err := websocket.Dial("ws://"+g.address+"/invoke/"+args[0]+"/socket", "", g.url())
	ts.Check(err)
	defer conn.Close()
	ts.Check(conn.SetDeadline(time.Now().Add(wireTimeout)))
	for i := range 3 {
		want := fmt.Sprintf("%s %d", args[1], i)
		ts.Check(websocket.Message.Send(conn, want))
		var got string
		ts.Check(websocket.Message.Receive(conn, &got))
		if got != want {
			ts.Fatalf("sent %q, got %q", want, got)
		}
	}
}

// overHTTP2 posts a body over HTTP/2 without TLS.
func overHTTP2(ts *testscript.TestScript, _ bool, args []string) {
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	client := &http.Client{Transport: &http.Transport{Protocols: &protocols}, Timeout: wireTimeout}
	defer client.CloseIdleConnections()
	response, err := client.Post(worldOf(ts).gateway.url()+"/invoke/"+args[0], "text/plain", strings.NewReader(args[1]))
	ts.Check(err)
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	ts.Check(err)
	if response.ProtoMajor != 2 || response.StatusCode != http.StatusOK || string(body) != args[1] {
		ts.Fatalf("got %s %s %q, want HTTP/2 200 %q", response.Proto, response.Status, body, args[1])
	}
}
