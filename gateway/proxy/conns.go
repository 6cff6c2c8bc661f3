package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/kilnfaas/kiln/gateway/api"
	"github.com/kilnfaas/kiln/orchestrator/pool"
)

const (
	// connBuffer is the read buffer of a connection to an instance: an answer
	// head and a small body in one read.
	connBuffer = 8 << 10
	// idleConnLife is how long an unused connection is kept. Servers commonly close
	// theirs after 5 to 60 s; a longer life would only make more dead ones.
	idleConnLife = 30 * time.Second
	// dialTimeout bounds a connect to a container on the same machine, which takes
	// well under a millisecond. A packet that is lost is sent again after a second,
	// so that one more try is waited for; an instance that cannot be reached must
	// not use up the time in which another one can answer.
	dialTimeout = 1500 * time.Millisecond
)

// Conns are the connections to one instance: those of the complete path, and the
// event loops that have their own. Each carries one leased request or is idle,
// so that their number is bounded by the slots. It is safe for concurrent use.
type Conns struct {
	addr  string
	token string // the field that shows the instance's token, with its end; "" = none

	open atomic.Int64 // connections of all kinds

	mu     sync.Mutex
	idle   []*upstream // guarded by mu; the last is the most recently used
	owners []owner     // guarded by mu; who else has connections
}

// owner keeps connections of its own to the instance: an event loop.
type owner interface {
	// shut has the idle connections closed, all or the one unused for longest. It
	// does not wait for it.
	shut(all bool)
	// unused returns how many of them are idle; Conns.mu is held.
	unused() int
}

func (c *Conns) opened() { c.open.Add(1) }
func (c *Conns) closed() { c.open.Add(-1) }

func (c *Conns) join(o owner) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.owners = append(c.owners, o)
}

// leave takes an owner that has no connection in use out of the list, unless it
// has idle ones, and returns how many.
func (c *Conns) leave(o owner) (unused int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if unused = o.unused(); unused == 0 {
		c.owners = slices.DeleteFunc(c.owners, func(other owner) bool { return other == o })
	}
	return unused
}

// makeRoom closes an idle connection, or has it closed, when there are as many
// connections as slots: the complete path and the loops cannot use one
// another's, so that one may lack what the other has to spare.
func (c *Conns) makeRoom(slots int) {
	if c.open.Load() < int64(slots) {
		return
	}
	var oldest *upstream
	var from owner
	c.mu.Lock()
	if len(c.idle) > 0 {
		oldest = c.idle[0]
		c.idle = slices.Delete(c.idle, 0, 1)
	} else if i := slices.IndexFunc(c.owners, func(o owner) bool { return o.unused() > 0 }); i >= 0 {
		from = c.owners[i]
	}
	c.mu.Unlock()
	switch {
	case oldest != nil:
		oldest.Close()
	case from != nil:
		from.shut(false)
	}
}

// NewConns returns the connections to an instance.
func NewConns(instance pool.Launched) pool.Conns {
	c := &Conns{addr: instance.Addr}
	if instance.Token != "" {
		c.token = api.HeaderInstanceToken + ": " + instance.Token + crlf
	}
	return c
}

const crlf = "\r\n"

// CloseIdle closes the connections that carry no request now.
func (c *Conns) CloseIdle() {
	c.mu.Lock()
	idle := c.idle
	c.idle = nil
	owners := slices.Clone(c.owners)
	c.mu.Unlock()
	for _, u := range idle {
		u.Close()
	}
	for _, o := range owners {
		o.shut(true)
	}
}

// get returns a kept connection that is still open, or nil.
func (c *Conns) get() *upstream {
	for {
		c.mu.Lock()
		n := len(c.idle)
		if n == 0 {
			c.mu.Unlock()
			return nil
		}
		u := c.idle[n-1]
		c.idle = c.idle[:n-1]
		c.mu.Unlock()
		if u.alive() {
			u.reused = true
			return u
		}
		u.Close()
	}
}

// put keeps a connection for the next request and closes those unused for long.
func (c *Conns) put(u *upstream) {
	u.idleSince = time.Now()
	var old []*upstream
	c.mu.Lock()
	n := 0
	for n < len(c.idle) && u.idleSince.Sub(c.idle[n].idleSince) > idleConnLife {
		n++
	}
	if n > 0 {
		old = append(old, c.idle[:n]...)
		c.idle = append(c.idle[:0], c.idle[n:]...)
	}
	c.idle = append(c.idle, u)
	c.mu.Unlock()
	for _, u := range old {
		u.Close()
	}
}

// dial makes a connection.
func (c *Conns) dial(ctx context.Context) (*upstream, error) {
	dialer := net.Dialer{Timeout: dialTimeout, KeepAlive: -1} // Go sets TCP_NODELAY itself
	conn, err := dialer.DialContext(ctx, "tcp", c.addr)
	if err != nil {
		return nil, fmt.Errorf("dial the instance: %w", err)
	}
	c.opened()
	return &upstream{TCPConn: conn.(*net.TCPConn), conns: c}, nil
}

// upstream is a connection to an instance. It is used by one invocation at a time.
type upstream struct {
	*net.TCPConn
	conns     *Conns
	shut      sync.Once
	buf       []byte // buf[pos:end] was read and not yet used
	pos, end  int
	reused    bool
	idleSince time.Time
}

// Close closes the connection.
func (u *upstream) Close() error {
	u.shut.Do(u.conns.closed)
	return u.TCPConn.Close()
}

// fill reads more behind what is buffered. The buffer grows as far as a head may.
func (u *upstream) fill() error {
	if u.pos == u.end {
		u.pos, u.end = 0, 0
	}
	if u.end == len(u.buf) {
		if u.pos > 0 {
			u.end = copy(u.buf, u.buf[u.pos:u.end])
			u.pos = 0
		} else {
			u.buf = append(u.buf, make([]byte, max(connBuffer, len(u.buf)))...)
		}
	}
	n, err := u.TCPConn.Read(u.buf[u.end:])
	u.end += n
	if n > 0 {
		return nil
	}
	return err
}

// read takes what is buffered, else reads from the connection.
func (u *upstream) read(p []byte) (int, error) {
	if u.pos < u.end {
		n := copy(p, u.buf[u.pos:u.end])
		u.pos += n
		return n, nil
	}
	return u.TCPConn.Read(p)
}

// pending says whether something is buffered.
func (u *upstream) pending() bool { return u.pos < u.end }

// alive reports whether an idle connection is open and silent: an instance that
// closed it, or that sent something nobody asked for, is found here, before a
// byte of the next request is written.
func (u *upstream) alive() bool {
	if u.pending() {
		return false
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return false
	}
	var peekErr error
	err = raw.Read(func(fd uintptr) bool {
		var b [1]byte
		_, _, peekErr = syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		return true
	})
	return err == nil && errors.Is(peekErr, syscall.EAGAIN)
}

var past = time.Unix(1, 0)

// abort ends a pending and every later read and write.
func (u *upstream) abort() { _ = u.SetDeadline(past) }
