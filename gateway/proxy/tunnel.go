package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

// tunnelIdle ends an upgraded connection on which neither side said anything:
// it holds a slot. WebSocket libraries ping every 20 to 60 s.
const tunnelIdle = 10 * time.Minute

// tunnel hands the client's connection over to the instance's after a 101. Each
// side may close its half; the function's timeout does not apply any more, the
// end of the server does.
func (x *exchange) tunnel(a *answer) error {
	if !x.detach() {
		return x.interrupted(nil)
	}
	client, buffered, err := x.rc.Hijack()
	if err != nil {
		return fmt.Errorf("take over the client's connection: %w", err)
	}
	defer client.Close()
	x.status = http.StatusSwitchingProtocols
	_ = client.SetDeadline(time.Time{}) // the server's

	head := x.switchHead(a)
	if _, err := client.Write(head); err != nil {
		return nil // the client is gone: there is nobody to tell
	}

	quit := context.AfterFunc(x.r.Context(), func() { client.Close(); x.u.Close() })
	defer quit()
	var fromClient io.Reader = client
	if n := buffered.Reader.Buffered(); n > 0 {
		peeked, _ := buffered.Reader.Peek(n) // n are there
		fromClient = io.MultiReader(&prefix{peeked}, client)
	}
	up := make(chan struct{})
	go func() {
		defer close(up)
		pipe(x.u.TCPConn, fromClient, client, x.u.TCPConn)
	}()
	pipe(client, readFunc(x.u.read), client, x.u.TCPConn)
	<-up
	return nil
}

// switchHead returns the head of the answer that changes the protocol.
func (x *exchange) switchHead(a *answer) []byte {
	header := x.w.Header()
	x.copyHeader(header, a)
	if header["Content-Type"] == nil {
		delete(header, "Content-Type")
	}
	header.Set("Connection", "Upgrade")
	if values := a.header["Upgrade"]; len(values) > 0 {
		header["Upgrade"] = values
	}
	head := []byte("HTTP/1.1 101 Switching Protocols\r\n")
	for name, values := range header {
		for _, value := range values {
			head = appendField(head, name, value)
		}
	}
	return append(head, "\r\n"...)
}

// readFunc is an io.Reader.
type readFunc func(p []byte) (int, error)

func (f readFunc) Read(p []byte) (int, error) { return f(p) }

// prefix reads bytes once.
type prefix struct{ rest []byte }

func (p *prefix) Read(b []byte) (int, error) {
	if len(p.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(b, p.rest)
	p.rest = p.rest[n:]
	return n, nil
}

// pipe copies one direction of a tunnel. At the end of the source it closes the
// half of the destination; at an error it closes both connections.
func pipe(dst io.Writer, src io.Reader, client, instance net.Conn) {
	buf := copyBuffers.Get().(*[copyBuffer]byte)
	defer copyBuffers.Put(buf)
	for {
		n, err := src.Read(buf[:])
		if n > 0 {
			idle := time.Now().Add(tunnelIdle) // traffic one way keeps the other
			_ = client.SetDeadline(idle)
			_ = instance.SetDeadline(idle)
			if _, werr := dst.Write(buf[:n]); werr != nil {
				err = werr
			}
		}
		if err == nil {
			continue
		}
		half, ok := dst.(interface{ CloseWrite() error })
		if errors.Is(err, io.EOF) && ok && half.CloseWrite() == nil {
			return
		}
		client.Close()
		instance.Close()
		return
	}
}
