package templates_test

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
)

const (
	opText   = 1
	opBinary = 2
	opClose  = 8
	opPing   = 9
	opPong   = 10
)

// socket is a WebSocket client of a few frames.
type socket struct {
	t    *testing.T
	conn net.Conn
	r    *bufio.Reader
}

func dialSocket(t *testing.T, i *instance) *socket {
	t.Helper()
	conn, r := i.dial()
	fmt.Fprintf(conn, "GET /socket HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
	response, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	// The example of RFC 6455, section 1.3.
	if got := response.Header.Get("Sec-WebSocket-Accept"); response.StatusCode != 101 || got != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" {
		t.Fatalf("got %d %q, want the switch of protocols", response.StatusCode, got)
	}
	return &socket{t, conn, r}
}

// send writes one frame, masked as clients must.
func (s *socket) send(opcode byte, final bool, data string) {
	s.t.Helper()
	mask := [4]byte{1, 2, 3, 4}
	first := opcode
	if final {
		first |= 0x80
	}
	frame := []byte{first}
	switch n := len(data); {
	case n < 126:
		frame = append(frame, 0x80|byte(n))
	case n < 1<<16:
		frame = binary.BigEndian.AppendUint16(append(frame, 0x80|126), uint16(n))
	default:
		frame = binary.BigEndian.AppendUint64(append(frame, 0x80|127), uint64(n))
	}
	frame = append(frame, mask[:]...)
	for at := range len(data) {
		frame = append(frame, data[at]^mask[at%4])
	}
	if _, err := s.conn.Write(frame); err != nil {
		s.t.Fatal(err)
	}
}

func (s *socket) expect(opcode byte, data string) {
	s.t.Helper()
	head := make([]byte, 2)
	if _, err := io.ReadFull(s.r, head); err != nil {
		s.t.Fatal(err)
	}
	size := uint64(head[1])
	switch size {
	case 126:
		var n uint16
		binary.Read(s.r, binary.BigEndian, &n)
		size = uint64(n)
	case 127:
		binary.Read(s.r, binary.BigEndian, &size)
	}
	got := make([]byte, size)
	if _, err := io.ReadFull(s.r, got); err != nil {
		s.t.Fatal(err)
	}
	if head[0] != 0x80|opcode || string(got) != data {
		s.t.Fatalf("got frame %#x %.40q, want %#x %.40q", head[0], got, 0x80|opcode, data)
	}
}

func asgiInstance(t *testing.T) *instance {
	t.Helper()
	c := embedded(t)
	for _, k := range kits(t, c) {
		if k.variant == "asgi" {
			i := runImage(t, k.image(t, c, buildKit), nil, k.env())
			i.waitReady()
			return i
		}
	}
	t.Fatal("there is no asgi kit")
	return nil
}

func TestPython_webSocket(t *testing.T) {
	requireDocker(t)
	i := asgiInstance(t)
	s := dialSocket(t, i)
	for _, message := range []string{"", "hällo", strings.Repeat("x", 300), strings.Repeat("y", 100_000)} {
		s.send(opText, true, message)
		s.expect(opText, message)
		s.send(opBinary, true, message)
		s.expect(opBinary, message)
	}
	s.send(opText, false, "in ")
	s.send(opPing, true, "between")
	s.send(0, true, "parts")
	s.expect(opPong, "between")
	s.expect(opText, "in parts")
	s.send(opClose, true, "\x03\xe8")
	s.expect(opClose, "\x03\xe8")

	failing := dialSocket(t, i)
	failing.send(opText, true, "fail")
	failing.expect(opClose, "\x03\xf3") // 1011, an error of the server
	until(t, "the stack is in the log", func() bool { return strings.Contains(i.logs(), "kaboom") })
}

// TestPython_webSocketDrain proves that open sockets are told of the end, and the
// app of its own.
func TestPython_webSocketDrain(t *testing.T) {
	requireDocker(t)
	i := asgiInstance(t)
	s := dialSocket(t, i)
	s.send(opText, true, "x")
	s.expect(opText, "x")
	docker(t, "kill", "--signal", "TERM", i.id)
	s.expect(opClose, "\x03\xe9") // 1001, going away
	if code := docker(t, "wait", i.id); code != "0" {
		t.Errorf("the instance ended with %s, want 0", code)
	}
	if !strings.Contains(i.logs(), "lifespan shutdown") {
		t.Errorf("the app was not told of the end: %s", i.logs())
	}
}
