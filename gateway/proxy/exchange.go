package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/kilnfaas/kiln/gateway/api"
	"github.com/kilnfaas/kiln/orchestrator/pool"
)

// exchange is one request and its answer over one connection to an instance.
type exchange struct {
	*call
	u      *upstream
	upload *upload // nil without a body

	// detach takes the connection out of the control of ctx; false when ctx has
	// ended and the connection is lost. It may be called again.
	detach func() bool

	outcome  pool.Outcome
	reusable bool // the connection can carry another request
}

// run sends the request and relays the answer. The error is what the client is
// to be told; errResend says that no byte of the request was received. Nothing
// of the exchange goes on when it returns.
func (x *exchange) run() error {
	x.detach = sync.OnceValue(context.AfterFunc(x.ctx, x.u.abort))
	err := x.send()
	if err == nil {
		err = x.answer()
	}
	uploaded := x.upload.stop(err != nil)
	if !x.detach() || !uploaded || x.u.pending() {
		x.reusable = false
	}
	if err == nil {
		x.restore()
		x.observe(x.status)
	}
	return err
}

// send writes the head and begins with the body.
func (x *exchange) send() error {
	head := x.appendHead(nil)
	x.sent = time.Now()
	if n, err := x.u.TCPConn.Write(head); err != nil {
		if x.ctx.Err() != nil {
			return x.interrupted(err)
		}
		if n == 0 {
			x.sent = time.Time{}
			return errResend
		}
		return x.silence(err)
	}
	if x.r.ContentLength != 0 {
		x.touched = true
		x.upload = startUpload(x)
	}
	return nil
}

// answer waits for the answer's head and relays all of it.
func (x *exchange) answer() error {
	a, err := x.awaitHead()
	if err != nil {
		return err
	}
	if a.status == http.StatusSwitchingProtocols {
		if !isUpgrade(x.r) {
			x.outcome = pool.Failed
			return errMalformed(errors.New("101 without a request for it"))
		}
		return x.tunnel(a)
	}
	return x.relay(a)
}

// awaitHead reads the answer's head; informational ones before it go to the
// client at once.
func (x *exchange) awaitHead() (*answer, error) {
	if err := x.u.fill(); err != nil {
		return nil, x.silence(err)
	}
	for {
		a, err := x.u.readAnswer(x.r.Method)
		switch {
		case err != nil:
			return nil, x.broken(err)
		case a.status >= 200 || a.status == http.StatusSwitchingProtocols:
			return a, nil
		case a.status != http.StatusContinue: // net/http says 100 itself
			x.inform(a)
		}
	}
}

// silence explains why not one byte of an answer came.
func (x *exchange) silence(err error) error {
	if cause := x.cause(); cause != nil {
		return cause
	}
	x.outcome = pool.Broken
	if x.r.ContentLength == 0 && idempotent(x.r.Method) && x.repeats < maxRepeats {
		x.repeats++
		x.sent = time.Time{}
		return fmt.Errorf("%w: %w", errRepeat, err)
	}
	return errDied(err)
}

// broken explains why an answer's head could not be read.
func (x *exchange) broken(err error) error {
	if cause := x.cause(); cause != nil {
		return cause
	}
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) || itsFault(err) {
		x.outcome = pool.Broken
		return errDied(err)
	}
	x.outcome = pool.Failed
	return errMalformed(err)
}

// cause returns why the exchange was interrupted from this side, or nil.
func (x *exchange) cause() error {
	if err := x.upload.failure(); err != nil {
		return err
	}
	if x.overdue() || x.ctx.Err() != nil {
		if x.overdue() {
			x.upload.stop(true) // how it ends tells whether it was waiting for the client
			if err := x.upload.failure(); err != nil {
				return err
			}
		}
		return x.interrupted(nil)
	}
	return nil
}

// idempotent says whether a method may be sent twice (RFC 9110, section 9.2.2).
func idempotent(method string) bool {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodPut, http.MethodDelete, http.MethodTrace:
		return true
	}
	return false
}

// inform passes an informational answer on.
func (x *exchange) inform(a *answer) {
	header := x.w.Header()
	saved := header.Clone()
	clear(header)
	for name, values := range a.header {
		if passedOn(name, a.named) {
			header[name] = values
		}
	}
	x.w.WriteHeader(a.status)
	clear(header)
	maps.Copy(header, saved)
}

// relay sends the answer to the client.
func (x *exchange) relay(a *answer) error {
	header := x.w.Header()
	x.copyHeader(header, a)
	if a.trailer != nil {
		header["Trailer"] = a.announce
	}
	x.touched = true
	_ = x.rc.SetWriteDeadline(x.deadline) // else a client that does not read holds the slot
	x.status = a.status
	x.w.WriteHeader(a.status)
	if a.body != http.NoBody {
		if err := x.copyBody(a.body); err != nil {
			return err
		}
	}
	if err := x.copyTrailers(header, a); err != nil {
		return err
	}
	x.reusable = !a.close
	return nil
}

// copyTrailers passes the answer's trailers on, announced or not.
func (x *exchange) copyTrailers(header http.Header, a *answer) error {
	for name, values := range a.trailer {
		if slices.Contains(a.announce, name) {
			header[name] = values
			continue
		}
		// A short body that was not flushed is sent with its length and without
		// trailers.
		if err := x.rc.Flush(); err != nil {
			return errClientGone
		}
		header[http.TrailerPrefix+name] = values
	}
	return nil
}

// copyHeader makes the client's header out of the answer's.
func (x *exchange) copyHeader(header http.Header, a *answer) {
	for name, values := range a.header {
		if passedOn(name, a.named) {
			header[name] = values
		}
	}
	if a.status == http.StatusNotModified {
		delete(header, "Content-Length") // optional there, and HTTP/2 clients wait for as much
	}
	if _, ok := a.header["Content-Type"]; !ok {
		header["Content-Type"] = nil // else net/http guesses one
	}
	header.Add("Server-Timing", string(x.timing()))
	x.share(header)
	if a.status >= 500 {
		header.Set(api.HeaderError, api.FaultFunction)
	}
}

const copyBuffer = 32 << 10

var copyBuffers = sync.Pool{New: func() any { return new([copyBuffer]byte) }}

// copyBody relays a body, flushing whenever the instance pauses.
func (x *exchange) copyBody(body io.Reader) error {
	buf := copyBuffers.Get().(*[copyBuffer]byte)
	defer copyBuffers.Put(buf)
	for {
		if !x.u.pending() {
			if err := x.rc.Flush(); err != nil {
				return errClientGone
			}
		}
		n, err := body.Read(buf[:])
		if n > 0 {
			if _, werr := x.w.Write(buf[:n]); werr != nil {
				return errClientGone
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return x.broken(err)
		}
	}
}
