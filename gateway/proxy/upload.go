package proxy

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/kilnfaas/kiln/gateway/auth"
	"github.com/kilnfaas/kiln/gateway/problem"
)

// errUploadLate is the client's own slowness: the deadline passed while its
// body was still coming.
var errUploadLate = problem.RequestTimeout()

// upload sends a request's body from a goroutine of its own, so that the answer
// can come before the body ends. stop waits for it. A nil upload has no body.
type upload struct {
	x      *exchange
	failed atomic.Pointer[error] // why the client's side failed
	whole  atomic.Bool           // the client has sent all of it, and it was read
	done   chan struct{}         // closed when the goroutine has ended
	sent   bool                  // valid once done is closed: all of the body was written
}

func startUpload(x *exchange) *upload {
	_ = x.rc.EnableFullDuplex() // HTTP/2 needs it not, and says so
	_ = x.rc.SetReadDeadline(x.deadline)
	p := &upload{done: make(chan struct{}), x: x}
	go p.run()
	return p
}

// run copies the body. What the client does wrong interrupts the wait for the
// answer; when the instance does not take the body, it may still answer.
func (p *upload) run() {
	defer close(p.done)
	readErr, writeErr := p.copy()
	switch {
	case readErr != nil:
		err := p.explain(readErr)
		p.failed.Store(&err) // before abort: whoever is woken by that asks why
		p.x.u.abort()
	case writeErr == nil:
		p.sent = true
		_ = p.x.rc.SetReadDeadline(time.Time{}) // the server watches the connection from now on
	}
}

func (p *upload) copy() (readErr, writeErr error) {
	buf := copyBuffers.Get().(*[copyBuffer]byte)
	defer copyBuffers.Put(buf)
	var (
		r       = p.x.r
		limit   = int64(p.x.route.Release.Spec.MaxRequest)
		chunked = r.ContentLength < 0
		total   int64
		frame   = make([]byte, 0, 32)
	)
	for {
		room := int64(len(buf))
		if limit > 0 {
			// net/http fills what it is given as long as a chunk goes on: one byte
			// too many must not wait for those behind it.
			room = min(room, limit-total+1)
		}
		n, err := r.Body.Read(buf[:room])
		if total += int64(n); limit > 0 && total > limit {
			return errBodyLimit, nil
		}
		if errors.Is(err, io.EOF) {
			p.whole.Store(true) // before the instance has it, and can have answered
		}
		if n > 0 {
			if chunked {
				frame = fmt.Appendf(frame[:0], "%x\r\n", n)
				if _, err := p.x.u.TCPConn.Write(frame); err != nil {
					return nil, err
				}
			}
			if _, err := p.x.u.TCPConn.Write(buf[:n]); err != nil {
				return nil, err
			}
			if chunked {
				if _, err := io.WriteString(p.x.u.TCPConn, "\r\n"); err != nil {
					return nil, err
				}
			}
		}
		switch {
		case errors.Is(err, io.EOF) && chunked:
			_, err = p.x.u.TCPConn.Write(appendTrailers([]byte("0\r\n"), r.Trailer))
			return nil, err
		case errors.Is(err, io.EOF):
			return nil, nil
		case err != nil:
			return err, nil
		}
	}
}

// appendTrailers appends a trailer section and the end of a chunked body.
func appendTrailers(dst []byte, trailer http.Header) []byte {
	for name, values := range trailer {
		if !passedOn(name, nil) {
			continue
		}
		for _, value := range values {
			if auth.Shows(value) { // as in the head, whatever the field is called
				continue
			}
			dst = appendField(dst, name, value)
		}
	}
	return append(dst, "\r\n"...)
}

// explain says what a failure to read the client's body means.
func (p *upload) explain(err error) error {
	switch {
	case errors.Is(err, errBodyLimit):
		return errTooLarge(p.x.route.Release.Spec.MaxRequest)
	case p.x.overdue():
		return errUploadLate
	case p.x.r.ProtoMajor == 1 && p.x.r.ContentLength < 0 && !gone(err):
		return problem.Malformed("the chunked body is malformed: %w", err)
	}
	return errClientGone
}

// gone says whether a client's connection failed, and not what it carried.
func gone(err error) bool {
	_, network := errors.AsType[net.Error](err)
	return network || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) || errors.Is(err, http.ErrBodyReadAfterClose)
}

// failure returns why the client's side failed, if it did by now.
func (p *upload) failure() error {
	if p == nil {
		return nil
	}
	if err := p.failed.Load(); err != nil {
		return *err
	}
	return nil
}

// uploadGrace is how long the end of a body is waited for after the whole answer
// came. Commonly the last of it was written and the goroutine is about to see
// the end; only a function that does not read its body makes it count.
const uploadGrace = 50 * time.Millisecond

// stop ends the upload, after a grace unless the exchange failed, waits for it
// and reports whether all of it was sent. When some of it was not read, the client's
// connection cannot carry another request: the server closes it after it has
// looked for the rest, for lingerTimeout at most. Once all of it was, the client's
// side is left alone: the server reads there, and would take an interruption for the
// end of the client, this call's and all later ones'.
func (p *upload) stop(failed bool) bool {
	if p == nil {
		return true
	}
	if !failed {
		grace := time.NewTimer(uploadGrace)
		defer grace.Stop()
		select {
		case <-p.done:
			return p.sent
		case <-grace.C:
		}
	}
	interrupted := false
	select {
	case <-p.done:
	default:
		p.x.u.abort()
		if interrupted = !p.whole.Load(); interrupted {
			_ = p.x.rc.SetReadDeadline(past)
		}
		<-p.done
		if p.sent { // it was only about to say so
			_ = p.x.u.SetDeadline(time.Time{})
		}
	}
	if interrupted || !p.whole.Load() {
		p.x.spoiled = true
		if p.x.status == 0 {
			p.x.w.Header().Set("Connection", "close")
		}
	}
	return p.sent
}
