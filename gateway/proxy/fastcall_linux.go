package proxy

import (
	"bytes"
	"context"
	"errors"
	"time"

	"github.com/kilnfaas/kiln/gateway/problem"
	"github.com/kilnfaas/kiln/gateway/requestid"
	"github.com/kilnfaas/kiln/orchestrator/pool"
	"github.com/kilnfaas/kiln/orchestrator/route"
)

// maxRequestID is what requestid.Valid takes at most.
const maxRequestID = 128

// fastCall is a client's call under way.
type fastCall struct {
	id      uint64
	route   *route.Route
	lease   pool.Lease
	leased  bool
	backend *backend
	cancel  context.CancelFunc // of the wait for a slot

	keep     []byte // the request, to be sent when there is a slot, or again
	headLen  int    // of its head
	bodyLeft int64  // of its body, still to come from the client
	deaf     bool   // the instance takes no more of it
	head     bool   // its method is HEAD
	again    bool   // it may be sent twice: idempotent and without a body
	attempts int
	repeats  int   // how often it was sent again though it may have been received
	torn     error // what ended a kept connection that it had been sent on
	broke    breach

	arrived, deadline time.Time
	sent              time.Time // zero before
	queue, start      time.Duration
	status            int // of the answer's head once it is passed on

	requestIDLen int
	requestID    [maxRequestID]byte
}

func (f *fastCall) idBytes() []byte { return f.requestID[:f.requestIDLen] }

// begin begins a call with l.request, whose head is data[:n], and returns how
// much of data belongs to it.
func (l *loop) begin(c *client, data []byte, n int) int {
	r := &l.request
	c.calls++
	f := &c.call
	*f = fastCall{id: c.calls, arrived: time.Now(), headLen: n}
	said := listen(r.Fields)
	if requestid.Valid(view(said.requestID)) {
		f.requestIDLen = copy(f.requestID[:], said.requestID)
	} else {
		f.requestIDLen = len(appendRequestID(f.requestID[:0], f.arrived))
	}
	length := max(0, r.ContentLength)
	used := n + int(min(length, int64(len(data)-n)))
	f.bodyLeft = length - int64(used-n)
	f.head = view(r.Method) == "HEAD"
	f.again = length == 0 && idempotent(view(r.Method))
	c.closing = c.closing || r.Close

	name, _ := cutName(r.Target)
	if f.route = l.s.handler.Routes.Lookup(view(name)); f.route == nil {
		l.fail(c, errUnknown(string(name)))
		return used
	}
	spec := &f.route.Release.Spec
	if spec.CORS.On() { // browsers' calls, which the complete path knows how to answer
		l.handOver(c, data)
		return len(data)
	}
	if spec.Guarded() {
		if err := l.s.handler.admit(spec, view(valueOf(r.Fields, "authorization"))); err != nil {
			l.fail(c, err)
			return used
		}
	}
	if err := f.bound(said.deadline, length); err != nil {
		l.fail(c, err)
		return used
	}
	l.timers.set(c, l.at(f.deadline))
	l.acquire(c, data[:used])
	return used
}

// bound takes the limits of the route.
func (f *fastCall) bound(deadline []byte, length int64) (err error) {
	spec := &f.route.Release.Spec
	if f.deadline, err = deadlineOf(f.arrived, time.Duration(spec.Timeout), view(deadline)); err != nil {
		return err
	}
	if spec.MaxRequest > 0 && length > int64(spec.MaxRequest) {
		return errTooLarge(spec.MaxRequest)
	}
	return nil
}

// cutName splits a target below Prefix into the function's name and what the
// function sees, which may lack the path's first slash.
func cutName(target []byte) (name, rest []byte) {
	rest = target[len(Prefix):]
	if i := bytes.IndexAny(rest, "/?"); i >= 0 {
		return rest[:i], rest[i:]
	}
	return rest, nil
}

// at returns a time on the loop's clock.
func (l *loop) at(t time.Time) int64 { return max(1, int64(t.Sub(l.epoch))) }

// acquire gets a slot for a call and goes on with it; raw is the request as far
// as it came.
func (l *loop) acquire(c *client, raw []byte) {
	f := &c.call
	if f.lease, f.leased = f.route.Pool.TryAcquire(); f.leased {
		l.connect(c, raw)
		return
	}
	l.preserve(c, raw)
	c.state = clientWaiting
	ctx, cancel := context.WithDeadline(l.s.ctx, f.deadline)
	f.cancel = cancel
	p, id := f.route.Pool, f.id
	l.s.work.Add(1)
	go func() {
		defer l.s.work.Done()
		defer cancel()
		lease, err := p.Acquire(ctx)
		l.post(message{kind: messageGranted, c: c, id: id, lease: lease, err: err})
	}()
}

// preserve keeps the request beyond the present event.
func (l *loop) preserve(c *client, raw []byte) {
	if c.call.keep == nil {
		c.call.keep = l.copied(raw)
	}
}

// granted goes on with a call that waited for a slot.
func (l *loop) granted(m *message) {
	c := m.c
	f := &c.call
	if c.state != clientWaiting || f.id != m.id {
		if m.err == nil {
			m.lease.Release(pool.Done) // the client went away meanwhile
		}
		return
	}
	f.cancel = nil
	switch {
	case errors.Is(m.err, pool.ErrDraining):
		name := f.route.Release.Spec.Name
		if f.attempts++; f.attempts >= maxAttempts {
			l.fail(c, errReplaced())
		} else if f.route = l.s.handler.Routes.Lookup(name); f.route == nil {
			l.fail(c, errUnknown(name))
		} else {
			l.acquire(c, f.keep)
		}
	case f.broke.tells(m.err):
		l.explain(c, f.broke)
	case m.err != nil:
		l.fail(c, acquireError(m.err))
	default:
		f.lease, f.leased = m.lease, true
		queue, start := m.lease.Waited()
		f.queue += queue
		f.start += start
		l.connect(c, f.keep)
	}
}

// connect finds a connection to the leased instance.
func (l *loop) connect(c *client, raw []byte) {
	f := &c.call
	c.state = clientCalling
	conns, ok := f.lease.Conns().(*Conns)
	if !ok {
		f.release(pool.Done)
		l.fail(c, errForeign)
		return
	}
	set, err := l.backendsOf(conns)
	if err == nil {
		if b := l.kept(set); b != nil {
			b.c, b.taken, f.backend = c, false, b
			l.transmit(c, raw)
			return
		}
	}
	l.preserve(c, raw)
	if err != nil {
		l.unreached(c, err)
		return
	}
	l.redialAfter(c, set) // kept may have dropped the last one
}

// redial makes a new connection for a call whose request is kept.
func (l *loop) redial(c *client, set *backends, err error) {
	f := &c.call
	if err == nil {
		set.conns.makeRoom(f.route.Release.Spec.Concurrency)
		var b *backend
		if b, err = l.dial(set); err == nil {
			b.c, b.taken, f.backend = c, false, b
			l.timers.set(c, min(l.at(f.deadline), l.now+int64(dialTimeout)))
			return
		}
	}
	l.unreached(c, err)
}

// connected goes on with a call whose connection was made or not.
func (l *loop) connected(b *backend, err error) {
	c := b.c
	if err == nil && c.call.lease.Gone() {
		err = errGone
	}
	if err != nil {
		l.drop(b)
		l.unreached(c, err)
		return
	}
	b.connecting = false
	c.call.torn = nil
	l.timers.set(c, l.at(c.call.deadline))
	l.transmit(c, c.call.keep)
}

// unreached tries another instance: nothing was sent to this one.
func (l *loop) unreached(c *client, err error) {
	f := &c.call
	f.sent = time.Time{}
	if !itsFault(err) {
		f.release(pool.Done)
		l.fail(c, errUnreachable(err))
		return
	}
	if f.torn != nil { // it was the instance that ended
		f.broke, f.torn = breach{errDied(f.torn), f.lease.Fate()}, nil
	}
	f.release(pool.Unreachable)
	if f.attempts++; f.attempts >= maxAttempts {
		l.fail(c, errUnreachable(err))
		return
	}
	l.acquire(c, f.keep)
}

// release gives the slot back.
func (f *fastCall) release(outcome pool.Outcome) {
	if f.leased {
		f.leased = false
		f.lease.Release(outcome)
	}
}

// transmit sends the request over the call's connection; raw is the head and
// what has come of the body.
func (l *loop) transmit(c *client, raw []byte) {
	f := &c.call
	b := f.backend
	if f.keep != nil || f.attempts > 0 {
		if err := l.request.Parse(raw[:f.headLen]); err != nil {
			l.lost(b, err) // it was valid before: the buffer was overwritten
			return
		}
	}
	name, rest := cutName(l.request.Target)
	out := appendRequestHead(l.out[:0], &l.request, &forward{
		target: rest, rootless: len(rest) == 0 || rest[0] == '?',
		name: view(name), revision: f.route.Release.Revision.ID,
		requestID: f.idBytes(), peer: c.peer, deadline: f.deadline, said: listen(l.request.Fields),
		token: b.set.conns.token,
	})
	out = append(out, raw[f.headLen:]...)
	l.out = out[:0]
	f.sent = time.Now()
	n, err := writeSocket(b.fd, out)
	if err != nil && !errors.Is(err, errAgain) {
		l.preserve(c, raw)
		l.resend(b, err)
		return
	}
	if n < len(out) {
		b.out = l.copied(out[n:])
	}
	if f.again {
		l.preserve(c, raw)
	} else if f.keep != nil {
		l.discard(f.keep)
		f.keep = nil
	}
	if f.bodyLeft > 0 && c.readable {
		l.pump(c)
	}
}

// resend sends a request again that cannot have been received: over a new
// connection to the same instance when a kept one had died, else to another.
func (l *loop) resend(b *backend, err error) {
	c, set, reused := b.c, b.set, b.reused
	c.call.sent = time.Time{}
	l.drop(b)
	if reused {
		l.redialAfter(c, set)
		return
	}
	l.unreached(c, err)
}

// repeat sends a request again that may have been received, and may be sent
// twice. A kept connection may have ended for its age alone.
func (l *loop) repeat(b *backend, cause error) {
	c := b.c
	f := &c.call
	f.repeats++
	if b.reused {
		f.torn = cause
		l.resend(b, cause)
		return
	}
	f.sent = time.Time{}
	l.drop(b)
	f.broke = breach{errDied(cause), f.lease.Fate()}
	f.release(pool.Broken)
	l.acquire(c, f.keep)
}

// redialAfter dials again after a drop, which may have retired the set.
func (l *loop) redialAfter(c *client, set *backends) {
	fresh, err := l.backendsOf(set.conns)
	l.redial(c, fresh, err)
}

// pump moves more of the request's body to the instance.
func (l *loop) pump(c *client) {
	f := &c.call
	b := f.backend
	for range maxReads {
		if f.bodyLeft == 0 || f.deaf || len(b.out) > 0 || !c.readable {
			return
		}
		p := l.scratch[:min(int64(len(l.scratch)), f.bodyLeft)]
		n, err := readSocket(c.fd, p)
		switch {
		case errors.Is(err, errAgain):
			c.readable = false
			return
		case err != nil || n == 0:
			l.abandon(c)
			return
		case n < len(p):
			c.readable = c.gone
		}
		f.bodyLeft -= int64(n)
		sent, err := writeSocket(b.fd, p[:n])
		switch {
		case err != nil && !errors.Is(err, errAgain):
			l.deaf(b)
			return
		case sent < n:
			b.out = l.copied(p[sent:n])
		}
	}
	l.soon(c)
}

// abandon ends a call whose client has gone, and the client.
func (l *loop) abandon(c *client) {
	switch c.state {
	case clientWaiting, clientCalling:
		l.quit(c, pool.Done)
		l.observe(c, problem.StatusClientGone)
	}
	l.close(c)
}

// quit gives up what a call holds.
func (l *loop) quit(c *client, outcome pool.Outcome) {
	f := &c.call
	if f.cancel != nil {
		f.cancel()
		f.cancel = nil
	}
	if f.backend != nil {
		l.drop(f.backend)
	}
	f.release(outcome)
}

// timeout ends a call whose deadline is over.
func (l *loop) timeout(c *client) {
	f := &c.call
	if b := f.backend; b != nil && b.connecting && time.Now().Before(f.deadline) {
		l.drop(b)
		l.unreached(c, errDialTimeout)
		return
	}
	late := f.bodyLeft > 0 && f.status == 0 && !f.deaf && (f.backend == nil || len(f.backend.out) == 0)
	l.quit(c, pool.Done)
	switch {
	case f.status != 0:
		l.observe(c, f.status)
		l.close(c) // the answer is cut off, which its framing tells
	case late:
		l.fail(c, errUploadLate)
	default:
		l.fail(c, errTimeout(!f.sent.IsZero()))
	}
}

// observe counts a call.
func (l *loop) observe(c *client, code int) {
	f := &c.call
	if l.s.handler.Observe == nil || f.route == nil {
		return
	}
	var function time.Duration
	if !f.sent.IsZero() {
		function = time.Since(f.sent)
	}
	l.s.handler.Observe(f.route.Release.Spec.Name, code, f.queue, f.start, function)
}
