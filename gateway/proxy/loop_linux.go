package proxy

import (
	"net/http"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kilnfaas/kiln/gateway/proxy/wire"
	"github.com/kilnfaas/kiln/orchestrator/pool"
)

const (
	// scratchSize is how much a loop reads at once: a whole request or answer of
	// the common kind, and large bodies in few calls.
	scratchSize = 64 << 10
	// bufferSize is that of the buffers a loop keeps for what has to outlive an
	// event: the rest of a pipelined request, a request that may be sent again.
	bufferSize = 4 << 10
	// maxBuffers bounds how many unused buffers a loop keeps (1 MiB).
	maxBuffers = 256
	// maxReads is how often one connection is read before the others have their
	// turn.
	maxReads = 8
)

// loop is one event loop: a goroutine that owns client connections and the
// connections to instances it uses for them. Only it touches them; others send
// messages. It never waits but for events: what may take time (a slot that is
// not free, an unusual request) is done by goroutines elsewhere.
type loop struct {
	s        *Listener
	poll     *poller
	table    []entry
	vacant   []uint32 // free slots of table
	timers   timers
	again    []*client // to go on with before the next wait
	resting  []*client // memory for again
	backends map[*Conns]*backends
	clients  int
	draining bool

	epoch    time.Time
	now      int64  // nanoseconds since epoch, at the last wake-up
	scratch  []byte // what the present event read
	out      []byte // what the present event writes
	buffers  [][]byte
	request  wire.Request
	response wire.Response
	date     []byte // of the Date header
	dateAt   int64  // when the second that it tells began

	asleep atomic.Bool // it may be waiting: post has to wake it
	mu     sync.Mutex
	inbox  []message // guarded by mu
	over   bool      // guarded by mu; the poller is closed
	spare  []message
}

// entry is what a slot of the table holds: one of the two, or nothing.
// Generation tells events of an earlier holder from those of the present one.
type entry struct {
	generation uint32
	client     *client
	backend    *backend
}

// message is something for a loop to do.
type message struct {
	kind  messageKind
	fd    int    // adopt
	peer  string // adopt: the client's address
	c     *client
	id    uint64 // granted, failed: the call that waited
	lease pool.Lease
	err   error
	conns *Conns
	slot  uint32 // forget
}

type messageKind uint8

const (
	messageAdopt     messageKind = iota // take a new client connection
	messageGranted                      // a wait for a slot has ended
	messageFailed                       // why a call failed is known
	messageCloseIdle                    // close the idle connections of conns
	messageTrim                         // close one of them
	messageForget                       // another loop has taken the connection of slot
	messageDrain                        // end when the calls under way have
	messageStop                         // end now
)

// newLoop returns a loop; hold says whether its waits may keep a processor of the
// runtime.
func newLoop(s *Listener, hold bool) (*loop, error) {
	poll, err := newPoller(hold)
	if err != nil {
		return nil, err
	}
	return &loop{
		s: s, poll: poll, backends: map[*Conns]*backends{}, epoch: time.Now(),
		scratch: make([]byte, scratchSize), out: make([]byte, 0, scratchSize+wire.MaxHead),
	}, nil
}

// post hands a message to the loop. It may be called from anywhere.
func (l *loop) post(m message) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.inbox = append(l.inbox, m)
	if l.asleep.Load() && !l.over {
		l.poll.interrupt()
	}
}

// postLater hands over a message that is in no hurry: it does not wake the loop.
func (l *loop) postLater(m message) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.inbox = append(l.inbox, m)
}

// unregister ends the loop's events of a socket. Another loop calls it.
func (l *loop) unregister(fd int) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over {
		return nil
	}
	return l.poll.remove(fd)
}

// run is the loop's goroutine.
func (l *loop) run() {
	defer l.end()
	for {
		if stop := l.receive(); stop {
			return
		}
		for c := l.timers.expired(l.now); c != nil; c = l.timers.expired(l.now) {
			l.overdue(c)
		}
		l.goOn()
		if l.draining && l.clients == 0 {
			return
		}
		events := l.poll.wait(l.patience())
		l.asleep.Store(false)
		l.now = int64(time.Since(l.epoch)) // all that follows, up to the next wait, is now
		for _, e := range events {
			l.event(e)
		}
	}
}

// goOn goes on with those who had more to do than one turn allows.
func (l *loop) goOn() {
	turn := l.again
	l.again = l.resting[:0]
	for i, c := range turn {
		turn[i] = nil
		c.queued = false
		l.resume(c)
	}
	l.resting = turn
}

func (l *loop) resume(c *client) {
	if c.state != clientClosed {
		defer l.guard(c.slot)
		l.advance(c)
	}
}

// guard ends the connections that a panic came from, as net/http does for its
// own, so that a defect met by one request does not end all the others.
func (l *loop) guard(slot uint32) {
	p := recover()
	if p == nil {
		return
	}
	l.s.logger.Error("panic in the data plane", "panic", p, "stack", string(debug.Stack()))
	e := l.table[slot]
	c := e.client
	if e.backend != nil {
		c = e.backend.c
	}
	switch {
	case c != nil:
		l.quit(c, pool.Done)
		l.close(c)
	case e.backend != nil:
		l.drop(e.backend)
	}
}

// patience returns how long to wait for events at most, in milliseconds, and
// makes post wake the loop.
func (l *loop) patience() int {
	if len(l.again) > 0 {
		return 0
	}
	l.asleep.Store(true)
	l.mu.Lock()
	waiting := len(l.inbox) > 0
	l.mu.Unlock()
	if waiting {
		return 0
	}
	next := l.timers.next()
	if next == 0 {
		return -1
	}
	left := time.Duration(next - l.now)
	return max(0, int((left+time.Millisecond-1)/time.Millisecond)) // rounded up: not too early
}

// end closes everything.
func (l *loop) end() {
	for i := range l.table {
		switch e := &l.table[i]; {
		case e.client != nil:
			l.abandon(e.client)
		case e.backend != nil:
			l.drop(e.backend)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.over = true
	l.poll.close()
}

// receive does what others asked for.
func (l *loop) receive() (stop bool) {
	l.mu.Lock()
	inbox := l.inbox
	l.inbox = l.spare[:0]
	l.mu.Unlock()
	for i := range inbox {
		m := &inbox[i]
		switch m.kind {
		case messageAdopt:
			l.adopt(m.fd, m.peer)
		case messageGranted:
			l.granted(m)
		case messageFailed:
			l.failed(m)
		case messageCloseIdle:
			l.closeIdle(m.conns, true)
		case messageTrim:
			l.closeIdle(m.conns, false)
		case messageForget:
			l.forgotten(m.slot, m.conns)
		case messageDrain:
			l.drain()
		case messageStop:
			stop = true
		}
		*m = message{}
	}
	l.spare = inbox
	return stop
}

// event passes an event to whom it concerns.
func (l *loop) event(e unix.EpollEvent) {
	if e.Fd < 0 {
		return // a message
	}
	defer l.guard(uint32(e.Fd))
	entry := &l.table[e.Fd]
	if entry.generation != uint32(e.Pad) {
		return // of a connection that is no more
	}
	switch {
	case entry.client != nil:
		c := entry.client
		c.readable = c.readable || e.Events&readyRead != 0
		c.gone = c.gone || e.Events&readyGone != 0
		if len(c.out) > 0 && e.Events&readyWrite != 0 {
			l.flush(c)
		}
		l.advance(c)
	case entry.backend != nil:
		b := entry.backend
		b.readable = b.readable || e.Events&readyRead != 0
		b.gone = b.gone || e.Events&readyGone != 0
		l.progress(b, e.Events&readyWrite != 0)
	}
}

// enter gives a socket a slot of the table and registers it.
func (l *loop) enter(fd int, c *client, b *backend) (slot uint32, err error) {
	if n := len(l.vacant); n > 0 {
		slot = l.vacant[n-1]
		l.vacant = l.vacant[:n-1]
	} else {
		slot = uint32(len(l.table))
		l.table = append(l.table, entry{})
	}
	e := &l.table[slot]
	e.client, e.backend = c, b
	if err := l.poll.add(fd, slot, e.generation); err != nil {
		l.leave(slot)
		return 0, err
	}
	return slot, nil
}

// leave takes a socket out of the table.
func (l *loop) leave(slot uint32) {
	e := &l.table[slot]
	*e = entry{generation: e.generation + 1}
	l.vacant = append(l.vacant, slot)
}

// copied returns a copy of p that outlives the event.
func (l *loop) copied(p []byte) []byte {
	if n := len(l.buffers); n > 0 && len(p) <= bufferSize {
		b := l.buffers[n-1]
		l.buffers = l.buffers[:n-1]
		return append(b, p...)
	}
	return append(make([]byte, 0, max(bufferSize, len(p))), p...)
}

// discard takes a buffer of copied back.
func (l *loop) discard(p []byte) {
	if cap(p) == bufferSize && len(l.buffers) < maxBuffers {
		l.buffers = append(l.buffers, p[:0])
	}
}

// today returns the value of the Date header, which is made once a second.
func (l *loop) today() []byte {
	if l.now-l.dateAt >= int64(time.Second) || l.date == nil {
		now := time.Now()
		l.dateAt = l.now - int64(now.Nanosecond())
		l.date = now.UTC().AppendFormat(l.date[:0], http.TimeFormat)
	}
	return l.date
}
