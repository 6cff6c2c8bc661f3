package proxy

import (
	"context"
	"errors"
	"net"
	"net/http"
	"time"

	"github.com/kilnfaas/kiln/gateway/api"
	"github.com/kilnfaas/kiln/gateway/problem"
	"github.com/kilnfaas/kiln/gateway/requestid"
	"github.com/kilnfaas/kiln/orchestrator/pool"
	"github.com/kilnfaas/kiln/orchestrator/route"
)

// call is one invocation on the complete path.
type call struct {
	h   *Handler
	w   http.ResponseWriter
	r   *http.Request
	rc  *http.ResponseController
	ctx context.Context // ends with the client's connection or at the deadline

	name, target string // target is the path and query the function sees
	requestID    string
	route        *route.Route

	arrived, deadline time.Time
	sent              time.Time // when the request went to an instance; zero before
	queue, start      time.Duration

	status  int  // of the answer's head once it is sent; 0 before
	touched bool // deadlines of the client's connection were set
	spoiled bool // the rest of the request's body was given up: the connection has to end
	repeats int  // how often it was sent again though it may have been received
	broke   breach
}

// identify gives the invocation its id and says it to the client, whatever comes.
func (c *call) identify() {
	c.requestID = requestid.Of(c.r)
	c.w.Header().Set(api.HeaderRequestID, c.requestID)
}

// lead sets the route that the invocation takes.
func (c *call) lead(route *route.Route) {
	c.route = route
	c.w.Header().Set(api.HeaderRevision, route.Release.Revision.ID)
}

// bound takes the limits of the route: deadline and size.
func (c *call) bound(route *route.Route) (err error) {
	c.lead(route)
	c.deadline, err = deadlineOf(c.arrived, time.Duration(route.Release.Spec.Timeout), c.r.Header.Get(api.HeaderDeadline))
	if err != nil {
		return err
	}
	if limit := route.Release.Spec.MaxRequest; limit > 0 && c.r.ContentLength > int64(limit) {
		return errTooLarge(limit)
	}
	return nil
}

// verdict is how an attempt on one instance ended.
type verdict int

const (
	answered  verdict = iota // the client has an answer, whole or cut off
	elsewhere                // try another instance
)

// run finds an instance and forwards, again while the request may be sent.
func (c *call) run(route *route.Route) {
	var lastErr error
	for range maxAttempts {
		lease, err := route.Pool.Acquire(c.ctx)
		if errors.Is(err, pool.ErrDraining) {
			lastErr = errReplaced()
			if route = c.h.Routes.Lookup(c.name); route == nil {
				c.fail(errUnknown(c.name))
				return
			}
			deadline := c.deadline
			if err := c.bound(route); err != nil {
				c.fail(err)
				return
			}
			c.deadline = deadline // ctx ends then, whatever the new one's timeout is
			continue
		}
		if c.broke.tells(err) {
			err = explained(c.ctx, c.broke.err, c.broke.fate, c.route.Release)
		}
		if err != nil {
			c.fail(acquireError(err))
			return
		}
		queue, start := lease.Waited()
		c.queue += queue
		c.start += start
		var v verdict
		if v, lastErr = c.attempt(lease); v == answered {
			return
		}
	}
	c.fail(lastErr)
}

// attempt forwards over one leased instance and releases it.
func (c *call) attempt(lease pool.Lease) (verdict, error) {
	outcome := pool.Failed // also when a panic passes
	defer func() { lease.Release(outcome) }()
	conns, ok := lease.Conns().(*Conns)
	if !ok {
		outcome = pool.Done
		c.fail(errForeign)
		return answered, nil
	}
	u := conns.get()
	var torn error // what ended a kept connection that the request had been sent on
	for {
		if u == nil {
			conns.makeRoom(c.route.Release.Spec.Concurrency)
			var err error
			if u, err = conns.dial(c.ctx); err == nil && lease.Gone() {
				u.Close()
				err = errGone
			}
			if err != nil {
				if c.ctx.Err() != nil {
					outcome = pool.Done
					c.fail(c.interrupted(err))
					return answered, nil
				}
				if !itsFault(err) {
					outcome = pool.Done
					c.fail(errUnreachable(err))
					return answered, nil
				}
				if torn != nil { // it was the instance that ended
					c.broke = breach{errDied(torn), lease.Fate()}
				}
				outcome = pool.Unreachable
				return elsewhere, errUnreachable(err)
			}
			torn = nil
		}
		x := exchange{call: c, u: u}
		err := x.run()
		if x.reusable {
			conns.put(u)
		} else {
			u.Close()
		}
		if err == nil {
			outcome = x.outcome
			return answered, nil
		}
		again := errors.Is(err, errResend) || errors.Is(err, errRepeat)
		switch {
		case again && u.reused:
			if errors.Is(err, errRepeat) {
				torn = err
			}
			u = nil // a kept connection had died: the instance may be well
			continue
		case errors.Is(err, errResend):
			outcome = pool.Unreachable
			return elsewhere, errUnreachable(err)
		}
		outcome = x.outcome
		if again {
			c.broke = breach{errDied(err), lease.Fate()}
			return elsewhere, c.broke.err
		}
		if outcome == pool.Broken && c.status == 0 {
			fate := lease.Fate()
			lease.Release(outcome)
			err = explained(c.ctx, err, fate, c.route.Release)
		}
		c.fail(err)
		return answered, nil
	}
}

// interrupted returns what to tell when ctx ended: nothing was answered yet.
func (c *call) interrupted(cause error) error {
	if c.overdue() {
		return errTimeout(!c.sent.IsZero())
	}
	if c.ctx.Err() != nil {
		return errClientGone
	}
	return cause
}

func (c *call) overdue() bool { return !time.Now().Before(c.deadline) }

// fail answers with an error, or cuts the answer off when its head is out.
func (c *call) fail(err error) {
	c.restore()
	switch {
	case errors.Is(err, errClientGone):
		c.observe(problem.StatusClientGone)
		panic(http.ErrAbortHandler)
	case c.status != 0:
		c.observe(c.status)
		panic(http.ErrAbortHandler)
	}
	c.w.Header().Set("Server-Timing", string(c.timing()))
	c.share(c.w.Header())
	rec := &statusRecorder{ResponseWriter: c.w}
	c.h.Fail(rec, c.r, err)
	c.observe(rec.status)
}

// timing returns the Server-Timing value up to now.
func (c *call) timing() []byte {
	var function time.Duration
	if !c.sent.IsZero() {
		function = time.Since(c.sent)
	}
	return appendTiming(nil, c.queue, c.start, function)
}

func (c *call) observe(code int) {
	if c.h.Observe == nil || c.route == nil {
		return
	}
	var function time.Duration
	if !c.sent.IsZero() {
		function = time.Since(c.sent)
	}
	c.h.Observe(c.name, code, c.queue, c.start, function)
}

// restore takes back the deadlines of the client's connection, which would else
// hold for its next request.
func (c *call) restore() {
	if c.touched {
		var until time.Time
		if c.spoiled {
			until = time.Now().Add(lingerTimeout)
		}
		_ = c.rc.SetReadDeadline(until)
		_ = c.rc.SetWriteDeadline(time.Time{})
	}
}

// peer returns the client's address without its port.
func (c *call) peer() string {
	host, _, err := net.SplitHostPort(c.r.RemoteAddr)
	if err != nil {
		return c.r.RemoteAddr
	}
	return host
}

// statusRecorder sees the status that an error was answered with.
type statusRecorder struct {
	http.ResponseWriter
	status int
}

func (s *statusRecorder) WriteHeader(code int) {
	if s.status == 0 {
		s.status = code
	}
	s.ResponseWriter.WriteHeader(code)
}

func (s *statusRecorder) Write(p []byte) (int, error) {
	if s.status == 0 {
		s.status = http.StatusOK
	}
	return s.ResponseWriter.Write(p)
}

func (s *statusRecorder) Unwrap() http.ResponseWriter { return s.ResponseWriter }
