package proxy

import (
	"errors"

	"golang.org/x/sys/unix"

	"github.com/kilnfaas/kiln/gateway/proxy/wire"
)

// clientState is where a client's connection is.
type clientState uint8

const (
	clientReading   clientState = iota // between requests, or in a head
	clientWaiting                      // its call waits for a slot
	clientCalling                      // its call has a connection to an instance
	clientFlushing                     // the answer is known whole, the client takes it slowly
	clientLingering                    // the last answer was sent; what still comes is thrown away
	clientClosed
)

// client is a client's connection that a loop serves.
type client struct {
	fd       int
	slot     uint32
	state    clientState
	readable bool // there may be something to read
	gone     bool // the client has closed its half
	queued   bool // it is in loop.again
	closing  bool // the connection ends after what is in out
	peer     string

	in      []byte // read and not used: a part of a head, pipelined requests
	scanned int    // how much of in has been searched for a head's end
	out     []byte // not yet written

	due, entry int64 // of timers
	calls      uint64
	call       fastCall
}

// adopt takes a new client.
func (l *loop) adopt(fd int, peer string) {
	c := &client{fd: fd, peer: peer}
	var err error
	if l.draining {
		err = unix.ECANCELED
	} else {
		c.slot, err = l.enter(fd, c, nil)
	}
	if err != nil {
		unix.Close(fd)
		l.s.released()
		return
	}
	l.clients++
	l.timers.set(c, l.now+int64(l.s.headTimeout))
}

// close ends a client's connection.
func (l *loop) close(c *client) {
	if c.state == clientClosed {
		return
	}
	l.detach(c)
	unix.Close(c.fd)
	l.s.released()
}

// detach takes a client out of the loop; its socket stays open.
func (l *loop) detach(c *client) {
	l.leave(c.slot)
	l.discard(c.in)
	l.discard(c.out)
	l.discard(c.call.keep)
	c.in, c.out, c.call.keep = nil, nil, nil
	c.state = clientClosed
	l.timers.set(c, 0)
	l.clients--
}

// advance goes on with a client on which something happened.
func (l *loop) advance(c *client) {
	switch c.state {
	case clientReading:
		l.read(c)
	case clientWaiting:
		if c.gone {
			l.abandon(c)
		}
	case clientCalling:
		if c.gone {
			l.abandon(c)
			return
		}
		b := c.call.backend
		if b.connecting {
			return
		}
		if c.call.bodyLeft > 0 && c.readable {
			l.pump(c)
		}
		if b.c == c && b.readable {
			l.relay(b)
		}
	case clientLingering:
		l.linger(c)
	}
}

// soon makes the loop go on with a client before it waits. Going on at once
// would nest one request in the end of another.
func (l *loop) soon(c *client) {
	if !c.queued {
		c.queued = true
		l.again = append(l.again, c)
	}
}

// read reads requests.
func (l *loop) read(c *client) {
	if len(c.in) > 0 && c.scanned < len(c.in) {
		in := c.in
		c.in = nil
		l.consume(c, in)
		l.discard(in)
	}
	for c.state == clientReading && c.readable {
		n, err := readSocket(c.fd, l.scratch)
		switch {
		case errors.Is(err, errAgain):
			c.readable = false
			return
		case err != nil || n == 0:
			l.close(c)
			return
		case n < len(l.scratch):
			c.readable = c.gone // a hang-up is still to be read
		}
		if len(c.in) == 0 {
			l.consume(c, l.scratch[:n])
			continue
		}
		in := append(c.in, l.scratch[:n]...)
		c.in = nil
		l.consume(c, in)
		l.discard(in)
	}
}

// consume begins calls with what was read and keeps what is left.
func (l *loop) consume(c *client, data []byte) {
	for c.state == clientReading && len(data) > 0 {
		n, err := wire.HeadEnd(data, c.scanned)
		if err == nil && n == 0 {
			if c.scanned == 0 {
				l.timers.set(c, l.now+int64(l.s.headTimeout))
			}
			c.scanned = len(data)
			break
		}
		if err == nil {
			err = l.request.Parse(data[:n])
		}
		c.scanned = 0
		if err != nil {
			l.refuse(c, err)
			return
		}
		if !common(&l.request) {
			l.handOver(c, data)
			return
		}
		data = data[l.begin(c, data, n):]
	}
	if len(data) > 0 && c.state != clientClosed && c.state != clientLingering {
		c.in = l.copied(data)
	}
}

// common says whether a request is one that the loops serve.
func common(r *wire.Request) bool {
	return !r.Unusual && !r.Chunked && len(r.Target) > len(Prefix) && view(r.Target[:len(Prefix)]) == Prefix &&
		r.Target[len(Prefix)] != '/' && r.Target[len(Prefix)] != '?'
}

// send writes to a client; what it does not take at once waits in c.out. It
// reports false when the client is gone, which is not yet handled.
func (l *loop) send(c *client, p []byte) bool {
	if len(c.out) > 0 {
		c.out = append(c.out, p...)
		return true
	}
	n, err := writeSocket(c.fd, p)
	if err != nil && !errors.Is(err, errAgain) {
		return false
	}
	if n < len(p) {
		c.out = l.copied(p[n:])
	}
	return true
}

// flush writes what waits in c.out and goes on when all of it is out.
func (l *loop) flush(c *client) {
	n, err := writeSocket(c.fd, c.out)
	switch {
	case err != nil && !errors.Is(err, errAgain):
		l.abandon(c)
		return
	case n < len(c.out):
		c.out = append(c.out[:0], c.out[n:]...)
		return
	}
	l.discard(c.out)
	c.out = nil
	switch {
	case c.state == clientFlushing:
		l.next(c)
	case c.state == clientCalling && c.call.backend != nil && c.call.backend.readable:
		l.relay(c.call.backend)
	}
}

// next makes a client ready for its next request, or ends it.
func (l *loop) next(c *client) {
	switch {
	case len(c.out) > 0:
		c.state = clientFlushing
	case c.closing:
		l.farewell(c)
	default:
		c.state = clientReading
		l.timers.set(c, l.now+int64(l.s.idleTimeout))
		if c.readable || len(c.in) > 0 {
			l.soon(c)
		}
	}
}

// farewell ends a connection such that the client can read all of the last
// answer: closing while something it sent is unread would reset the connection
// and might destroy what it has not yet read.
func (l *loop) farewell(c *client) {
	if c.call.bodyLeft == 0 && !c.readable && len(c.in) == 0 {
		l.close(c)
		return
	}
	_ = unix.Shutdown(c.fd, unix.SHUT_WR) // fails when the client is gone, which the next read tells
	c.state = clientLingering
	l.timers.set(c, l.now+int64(lingerTimeout))
	c.readable = true
	l.soon(c)
}

func (l *loop) linger(c *client) {
	for range maxReads {
		n, err := readSocket(c.fd, l.scratch)
		if errors.Is(err, errAgain) {
			return
		}
		if err != nil || n == 0 {
			l.close(c)
			return
		}
	}
	l.soon(c)
}

// overdue ends what took a client too long.
func (l *loop) overdue(c *client) {
	switch c.state {
	case clientWaiting:
		// Acquire has the same deadline and tells in a moment, with the reason.
	case clientCalling:
		l.timeout(c)
	case clientClosed:
	default:
		l.close(c)
	}
}

// drain ends the idle clients now and the others after their call.
func (l *loop) drain() {
	l.draining = true
	for i := range l.table {
		if c := l.table[i].client; c != nil {
			c.closing = true
			if c.state == clientReading {
				l.close(c)
			}
		}
	}
}
