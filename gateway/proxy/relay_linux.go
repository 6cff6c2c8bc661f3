package proxy

import (
	"context"
	"errors"
	"io"
	"strconv"
	"time"

	"github.com/kilnfaas/kiln/gateway/proxy/wire"
	"github.com/kilnfaas/kiln/orchestrator/pool"
)

// relay reads an answer and passes it on, until there is nothing to read, the
// client takes no more, or the answer is whole.
func (l *loop) relay(b *backend) {
	c := b.c
	for range maxReads {
		if b.c != c || !b.readable || len(c.out) > 0 {
			return
		}
		n, err := readSocket(b.fd, l.scratch)
		switch {
		case errors.Is(err, errAgain):
			b.readable = false
			return
		case err == nil && n == 0:
			l.hangUp(b, io.ErrUnexpectedEOF)
			return
		case err != nil:
			l.hangUp(b, err)
			return
		case n < len(l.scratch):
			b.readable = b.gone
		}
		data, scanned := l.scratch[:n], len(b.in)
		if scanned > 0 {
			b.in = append(b.in, data...)
			data = b.in
		}
		l.take(b, data, scanned)
	}
	if b.c == c && b.readable {
		l.soon(c)
	}
}

// take passes on what was read of an answer. The first scanned bytes are known
// to hold no end of a head.
func (l *loop) take(b *backend, data []byte, scanned int) {
	c := b.c
	out := l.out[:0]
	for !b.headed {
		n, err := wire.ResponseHeadEnd(data, scanned)
		if err == nil && n == 0 {
			l.store(b, data)
			l.pass(c, out)
			return
		}
		if err == nil {
			err = l.response.Parse(data[:n])
		}
		if err == nil && l.response.Status == 101 {
			err = errUnasked
		}
		if err != nil {
			l.malformed(b, err)
			return
		}
		data, scanned = data[n:], 0
		if l.response.Status < 200 {
			if l.response.Status != 100 {
				out = appendInform(out, &l.response)
			}
			l.discard(c.call.keep) // it has answered something: the request is not sent again
			c.call.keep = nil
			if len(data) == 0 {
				l.store(b, nil)
				l.pass(c, out)
				return
			}
			continue
		}
		out = l.head(b, out, int64(len(data)))
	}
	rest := data
	out, rest, err := l.body(b, out, data)
	if err != nil {
		l.cut(b, pool.Failed)
		return
	}
	if b.framing == framingNone {
		l.complete(b, out, len(rest) == 0)
		return
	}
	l.store(b, nil)
	l.pass(c, out)
}

// store keeps the part of a head that came.
func (l *loop) store(b *backend, data []byte) {
	switch {
	case len(data) == 0:
		l.discard(b.in)
		b.in = nil
	case len(b.in) == 0:
		b.in = l.copied(data)
	default:
		b.in = append(b.in[:0], data...) // data is its end, or all of it
	}
}

// pass sends a part of an answer to the client.
func (l *loop) pass(c *client, out []byte) {
	if len(out) > 0 && !l.send(c, out) {
		l.abandon(c)
	}
}

// head appends the head of the answer in l.response as the client gets it. After
// it came have bytes.
func (l *loop) head(b *backend, out []byte, have int64) []byte {
	c := b.c
	f := &c.call
	r := &l.response
	b.headed = true
	b.last = b.last || r.Close
	told := r.ContentLength >= 0 && r.Status != 204 && r.Status != 304
	switch {
	case r.Bodyless(f.head):
		b.framing = framingNone
	case r.Chunked:
		b.framing, b.chunks = framingChunks, wire.Chunked{}
	case r.ContentLength >= 0:
		b.framing, b.left = framingLength, r.ContentLength
		if b.left == 0 {
			b.framing = framingNone
		}
	default:
		b.framing, b.last = framingEnd, true
	}
	// An answer that is whole before the request is ends the connection. One that
	// streams back what comes in does not: its end comes after the request's.
	whole := b.framing == framingNone || b.framing == framingLength && b.left <= have
	c.closing = c.closing || l.draining || whole && f.bodyLeft > 0
	f.status = r.Status
	l.discard(f.keep)
	f.keep = nil
	return appendReplyHead(out, r, &reply{
		requestID: f.idBytes(), revision: f.route.Release.Revision.ID,
		queue: f.queue, start: f.start, function: time.Since(f.sent),
		length: told, chunked: b.framing == framingChunks || b.framing == framingEnd,
		close: c.closing, date: l.today(),
	})
}

// body appends what data holds of the body, and returns what comes after it.
// When the body is whole, b.framing becomes framingNone.
func (l *loop) body(b *backend, out, data []byte) (appended, rest []byte, err error) {
	switch b.framing {
	case framingLength:
		n := int(min(int64(len(data)), b.left))
		if b.left -= int64(n); b.left == 0 {
			b.framing = framingNone
		}
		return append(out, data[:n]...), data[n:], nil
	case framingChunks:
		n, before, err := b.chunks.Skip(data, b.trailer)
		if err != nil {
			return out, nil, err
		}
		out = append(out, data[:before]...)
		if b.chunks.Done() {
			out = append(append(out, b.trailers...), crlf...)
			b.framing = framingNone
		}
		return out, data[n:], nil
	case framingEnd:
		if len(data) > 0 {
			out = strconv.AppendInt(out, int64(len(data)), 16)
			out = append(append(append(out, crlf...), data...), crlf...)
		}
		return out, nil, nil
	}
	return out, data, nil
}

// trailer keeps a trailer field that may be passed on.
func (b *backend) trailer(f wire.Field) error {
	if passedOn(view(f.Name), nil) && kindOf(f.Name) != fieldLength {
		b.trailers = appendWire(b.trailers, &f)
	}
	return nil
}

// complete ends a call with the last part of its answer. The connection and the
// slot are given back before the client gets it: both are free, and the next
// caller may wait for them.
func (l *loop) complete(b *backend, out []byte, clean bool) {
	c := b.c
	f := &c.call
	status := f.status
	if clean && !b.last && !b.gone && f.bodyLeft == 0 && len(b.out) == 0 {
		f.backend = nil
		l.keep(b, time.Now())
	} else {
		l.drop(b)
	}
	f.release(pool.Done)
	l.observe(c, status)
	c.closing = c.closing || f.bodyLeft > 0
	c.state = clientFlushing
	if !l.send(c, out) {
		l.close(c)
		return
	}
	l.next(c)
}

// hangUp handles the end of a connection to an instance in the middle of a call.
func (l *loop) hangUp(b *backend, cause error) {
	c := b.c
	f := &c.call
	switch {
	case b.headed && b.framing == framingEnd && errors.Is(cause, io.ErrUnexpectedEOF):
		l.complete(b, append(l.out[:0], "0\r\n\r\n"...), true)
	case b.headed:
		l.cut(b, pool.Broken)
	case f.again && len(b.in) == 0 && f.keep != nil && f.repeats < maxRepeats:
		l.repeat(b, cause)
	default:
		l.drop(b)
		broke := breach{errDied(cause), f.lease.Fate()}
		f.release(pool.Broken)
		l.explain(c, broke)
	}
}

// explain ends a call whose instance broke the connection, with the reason if it
// is known soon.
func (l *loop) explain(c *client, broke breach) {
	f := &c.call
	route, id := f.route, f.id
	c.state = clientWaiting
	ctx, cancel := context.WithDeadline(l.s.ctx, f.deadline)
	f.cancel = cancel
	l.s.work.Go(func() {
		defer cancel()
		l.post(message{kind: messageFailed, c: c, id: id, err: explained(ctx, broke.err, broke.fate, route.Release)})
	})
}

// failed ends a call whose failure is explained.
func (l *loop) failed(m *message) {
	c := m.c
	if c.state != clientWaiting || c.call.id != m.id {
		return // the client went away meanwhile, or its time is over
	}
	c.call.cancel = nil
	l.fail(c, m.err)
}

// malformed ends a call whose answer is not HTTP.
func (l *loop) malformed(b *backend, err error) {
	c := b.c
	l.drop(b)
	c.call.release(pool.Failed)
	l.fail(c, errMalformed(err))
}

// cut ends a call in the middle of its answer: the client sees a connection that
// ends before the message does.
func (l *loop) cut(b *backend, outcome pool.Outcome) {
	c := b.c
	l.quit(c, outcome)
	l.observe(c, c.call.status)
	l.close(c)
}

// lost ends a call for a defect of the platform.
func (l *loop) lost(b *backend, err error) {
	c := b.c
	l.quit(c, pool.Done)
	l.fail(c, err)
}
