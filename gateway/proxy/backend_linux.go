package proxy

import (
	"errors"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kilnfaas/kiln/gateway/proxy/wire"
)

// backends are a loop's connections to one instance. Loops take one another's
// idle connections before they make new ones, so that there are never more than
// slots.
type backends struct {
	l     *loop
	conns *Conns
	to    unix.Sockaddr
	busy  int
	idle  []*backend // guarded by conns.mu; the last is the most recently used
}

// framing is how the end of an answer's body is told.
type framing uint8

const (
	framingNone   framing = iota // no body
	framingLength                // left bytes
	framingChunks                // chunks, passed on as they are
	framingEnd                   // up to the end of the connection; sent on in chunks
)

// backend is a loop's connection to an instance.
type backend struct {
	fd         int
	slot       uint32
	set        *backends
	c          *client // whose call it carries; nil = idle
	taken      bool    // it is out of the idle ones, and has no call yet
	connecting bool
	readable   bool // there may be something to read
	gone       bool // the instance has closed its half
	reused     bool
	usedAt     time.Time // when it became idle

	out []byte // of the request, not yet written
	in  []byte // of an answer's head, not yet complete

	// Of the answer under way.
	headed   bool // its head was passed on
	framing  framing
	left     int64
	chunks   wire.Chunked
	trailers []byte // of a chunked body, as they are passed on
	last     bool   // the connection ends with the answer
}

// backendsOf returns the loop's connections to an instance.
func (l *loop) backendsOf(conns *Conns) (*backends, error) {
	if set := l.backends[conns]; set != nil {
		return set, nil
	}
	addr, err := netip.ParseAddrPort(conns.addr)
	if err != nil {
		return nil, err
	}
	set := &backends{l: l, conns: conns}
	if ip := addr.Addr().Unmap(); ip.Is4() {
		set.to = &unix.SockaddrInet4{Port: int(addr.Port()), Addr: ip.As4()}
	} else {
		set.to = &unix.SockaddrInet6{Port: int(addr.Port()), Addr: ip.As16()}
	}
	l.backends[conns] = set
	conns.join(set)
	return set, nil
}

// kept returns an idle connection that is open, or nil.
func (l *loop) kept(set *backends) *backend {
	for {
		b := set.take()
		if b == nil {
			return nil
		}
		if b.set != set {
			if b = l.moved(b, set); b == nil {
				continue
			}
		}
		set.busy++
		if !b.gone && !b.readable && silent(b.fd) {
			b.reused = true
			return b
		}
		b.taken = true
		l.drop(b)
	}
}

// take takes the most recently used idle connection of the loop, else the one
// of another loop that was idle longest.
func (s *backends) take() *backend {
	s.conns.mu.Lock()
	defer s.conns.mu.Unlock()
	if n := len(s.idle); n > 0 {
		b := s.idle[n-1]
		s.idle[n-1] = nil
		s.idle = s.idle[:n-1]
		return b
	}
	for _, o := range s.conns.owners {
		if other := o.(*backends); len(other.idle) > 0 {
			b := other.idle[0]
			other.idle = slices.Delete(other.idle, 0, 1)
			return b
		}
	}
	return nil
}

// moved makes another loop's connection, which take took, one of this loop.
func (l *loop) moved(from *backend, set *backends) *backend {
	b := &backend{fd: from.fd, set: set}
	err := from.set.l.unregister(from.fd)
	from.set.l.postLater(message{kind: messageForget, slot: from.slot, conns: set.conns})
	if err == nil {
		b.slot, err = l.enter(b.fd, nil, b)
	}
	if err != nil {
		unix.Close(b.fd)
		set.conns.closed()
		return nil
	}
	return b
}

// forgotten ends what is left of a connection that another loop took.
func (l *loop) forgotten(slot uint32, conns *Conns) {
	l.leave(slot)
	if set := l.backends[conns]; set != nil {
		l.retire(set)
	}
}

// dial begins to connect for a client.
func (l *loop) dial(set *backends) (*backend, error) {
	fd, err := dialSocket(set.to)
	if err != nil {
		return nil, err
	}
	b := &backend{fd: fd, set: set, connecting: true, taken: true}
	if b.slot, err = l.enter(fd, nil, b); err != nil {
		unix.Close(fd)
		return nil, err
	}
	set.busy++
	set.conns.opened()
	return b, nil
}

// keep makes a connection idle, and closes those that were unused for long.
func (l *loop) keep(b *backend, now time.Time) {
	set := b.set
	readable := b.readable
	*b = backend{fd: b.fd, slot: b.slot, set: set, usedAt: now, readable: readable, trailers: b.trailers[:0]}
	set.busy--
	set.conns.mu.Lock()
	set.idle = append(set.idle, b)
	var old *backend
	if now.Sub(set.idle[0].usedAt) > idleConnLife {
		old = set.idle[0]
	}
	set.conns.mu.Unlock()
	if old != nil {
		l.drop(old)
	}
}

// drop closes a connection, idle or not. One that another loop has taken is left
// to it.
func (l *loop) drop(b *backend) {
	set := b.set
	switch {
	case b.c != nil || b.taken:
		set.busy--
	case !set.forget(b):
		return
	}
	if b.c != nil {
		b.c.call.backend = nil
		b.c = nil
	}
	l.discard(b.out)
	l.discard(b.in)
	l.leave(b.slot)
	unix.Close(b.fd)
	set.conns.closed()
	l.retire(set)
}

// retire forgets an instance to which there is no connection left.
func (l *loop) retire(set *backends) {
	if set.busy > 0 || set.conns.leave(set) > 0 {
		return
	}
	delete(l.backends, set.conns)
}

// forget takes a connection out of the idle ones; false if it is not there.
func (s *backends) forget(b *backend) bool {
	s.conns.mu.Lock()
	defer s.conns.mu.Unlock()
	i := slices.Index(s.idle, b)
	if i >= 0 {
		s.idle = slices.Delete(s.idle, i, i+1)
	}
	return i >= 0
}

// unused returns how many connections are idle; conns.mu is held.
func (s *backends) unused() int { return len(s.idle) }

// shut has idle connections closed.
func (s *backends) shut(all bool) {
	kind := messageTrim
	if all {
		kind = messageCloseIdle
	}
	s.l.post(message{kind: kind, conns: s.conns})
}

// closeIdle closes idle connections to an instance: all, or the one that was
// unused for longest.
func (l *loop) closeIdle(conns *Conns, all bool) {
	set := l.backends[conns]
	if set == nil {
		return
	}
	conns.mu.Lock()
	idle := slices.Clone(set.idle)
	conns.mu.Unlock()
	for i, b := range idle {
		if i == 0 || all {
			l.drop(b)
		}
	}
}

// progress goes on with a connection on which something happened.
func (l *loop) progress(b *backend, writable bool) {
	switch {
	case b.c == nil:
		if b.readable {
			l.drop(b) // closed, or something nobody asked for
		}
	case b.connecting:
		if writable || b.gone {
			l.connected(b, socketError(b.fd))
		}
	default:
		c := b.c
		if writable && len(b.out) > 0 && !l.push(b) {
			return
		}
		if c.call.bodyLeft > 0 && c.readable {
			l.pump(c)
		}
		if b.c != nil && b.readable {
			l.relay(b)
		}
	}
}

// push writes what is left of the request; false when the connection is lost,
// of which the answer or its absence tells.
func (l *loop) push(b *backend) bool {
	n, err := writeSocket(b.fd, b.out)
	switch {
	case n == len(b.out):
		l.discard(b.out)
		b.out = nil
	case err == nil || errors.Is(err, errAgain):
		b.out = append(b.out[:0], b.out[n:]...)
	default:
		l.deaf(b)
	}
	return true
}

// deaf notes that an instance takes no more of the request. It may still answer.
func (l *loop) deaf(b *backend) {
	l.discard(b.out)
	b.out, b.last = nil, true
	b.c.call.deaf = true
	b.readable = true // the answer, or the reason
}
