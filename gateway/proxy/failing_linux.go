package proxy

import (
	"errors"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kilnfaas/kiln/gateway/api"
	"github.com/kilnfaas/kiln/gateway/problem"
	"github.com/kilnfaas/kiln/gateway/proxy/wire"
	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/pool"
)

var errUnasked = errors.New("101 without a request for it")

// fail answers a call with an error. Nothing of an answer has been sent, and the
// call holds no connection and no slot.
func (l *loop) fail(c *client, err error) {
	f := &c.call
	rec := &recorder{header: http.Header{}}
	rec.header.Set(api.HeaderRequestID, string(f.idBytes()))
	if f.route != nil {
		rec.header.Set(api.HeaderRevision, f.route.Release.Revision.ID)
	}
	var function time.Duration
	if !f.sent.IsZero() {
		function = time.Since(f.sent)
	}
	rec.header.Set("Server-Timing", string(appendTiming(nil, f.queue, f.start, function)))
	l.s.handler.Fail(rec, &http.Request{Method: http.MethodGet, URL: &url.URL{Path: Prefix}, Header: http.Header{}}, err)
	l.discard(f.keep)
	f.keep = nil
	if rec.status != 0 {
		l.observe(c, rec.status)
	}
	l.reject(c, rec, f.bodyLeft > 0)
}

// refuse answers what is not a valid request, and ends the connection.
func (l *loop) refuse(c *client, err error) {
	var invalid *wire.Error
	if !errors.As(err, &invalid) {
		invalid = wire.ErrLine
	}
	c.call = fastCall{}
	rec := &recorder{header: http.Header{}}
	rec.header.Set(api.HeaderRequestID, string(appendRequestID(nil, time.Now())))
	rec.header.Set("Server-Timing", string(appendTiming(nil, 0, 0, 0)))
	l.s.handler.Fail(rec, &http.Request{Method: http.MethodGet, URL: &url.URL{Path: "/"}, Header: http.Header{}},
		problem.WithStatus(invalid.Status, orchestrator.Errorf(orchestrator.ErrInvalid, problem.CodeRequestMalformed, "%s", invalid.Text)))
	c.readable = true // whatever else it sent is not looked at
	l.reject(c, rec, true)
}

// reject sends an answer that the platform made.
func (l *loop) reject(c *client, rec *recorder, last bool) {
	c.closing = c.closing || last || l.draining
	out := append(l.out[:0], "HTTP/1.1 "...)
	out = appendUint(out, int64(rec.status))
	out = append(out, ' ')
	out = append(out, problem.Title(rec.status)...)
	out = append(out, crlf+"Date: "...)
	out = append(out, l.today()...)
	out = append(out, crlf...)
	rec.header.Set("Content-Length", strconv.Itoa(len(rec.body)))
	if c.closing {
		rec.header.Set("Connection", "close")
	}
	for name, values := range rec.header {
		for _, value := range values {
			out = appendField(out, name, value)
		}
	}
	out = append(out, crlf...)
	if !c.call.head {
		out = append(out, rec.body...)
	}
	c.state = clientFlushing
	if !l.send(c, out) {
		l.close(c)
		return
	}
	l.next(c)
}

// recorder is a ResponseWriter that keeps what is written.
type recorder struct {
	header http.Header
	status int
	body   []byte
}

func (r *recorder) Header() http.Header { return r.header }

func (r *recorder) WriteHeader(status int) {
	if r.status == 0 {
		r.status = status
	}
}

func (r *recorder) Write(p []byte) (int, error) {
	r.WriteHeader(http.StatusOK)
	r.body = append(r.body, p...)
	return len(p), nil
}

// handOver gives a connection to the http.Server, with what was read of it.
func (l *loop) handOver(c *client, data []byte) {
	prefix := append([]byte(nil), data...)
	err := l.poll.remove(c.fd)
	l.detach(c)
	var conn net.Conn
	if err == nil {
		file := os.NewFile(uintptr(c.fd), "client")
		conn, err = net.FileConn(file) // a duplicate
		file.Close()
	} else {
		unix.Close(c.fd)
	}
	if err != nil {
		l.s.released()
		l.s.logger.Error("hand a connection over", "error", err)
		return
	}
	other := &handed{TCPConn: conn.(*net.TCPConn), prefix: prefix, s: l.s}
	if !l.s.hand(other) {
		other.Close()
	}
}

// refund releases the slots that came to calls which the loop ended.
func (l *loop) refund() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, m := range l.inbox {
		switch {
		case m.kind == messageGranted && m.err == nil:
			m.lease.Release(pool.Done)
		case m.kind == messageAdopt:
			unix.Close(m.fd)
			l.s.released()
		}
	}
	l.inbox = nil
}
