package proxy

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// acceptPause and maxAcceptPause are how long accepting pauses when there are
	// no descriptors left: twice as long each time in a row.
	acceptPause    = 10 * time.Millisecond
	maxAcceptPause = time.Second
)

// Listener is a net.Listener that serves common invocations by itself and
// returns the other connections from Accept, with what was read of them, for an
// http.Server to serve. A connection is looked at again with each request until
// it is handed over, and stays with the http.Server from then on.
//
// Close stops accepting; calls under way go on, and their connections are closed
// after them. Shutdown waits for that.
type Listener struct {
	handler *Handler
	logger  *slog.Logger
	inner   *net.TCPListener
	file    *os.File // of inner, for accepting without the runtime's poller
	max     int

	headTimeout, idleTimeout time.Duration

	loops   []*loop
	ctx     context.Context // of waits for slots
	cancel  context.CancelFunc
	work    sync.WaitGroup // goroutines
	looping sync.WaitGroup // of them, the loops

	mu     sync.Mutex
	change sync.Cond  // of what follows
	others []net.Conn // guarded by mu; to be accepted
	count  int        // guarded by mu; connections of clients
	closed bool       // guarded by mu
}

// Listen takes inner over. The Listener closes it.
func Listen(inner *net.TCPListener, config Config) (*Listener, error) {
	file, err := inner.File()
	if err != nil {
		return nil, err
	}
	s := &Listener{
		handler: config.Handler, logger: config.Logger, inner: inner, file: file, max: config.MaxClients,
		headTimeout: config.HeadTimeout, idleTimeout: config.IdleTimeout,
	}
	s.change.L = &s.mu
	if s.logger == nil {
		s.logger = slog.New(slog.DiscardHandler)
	}
	if s.max <= 0 {
		s.max = DefaultMaxClients
	}
	if s.headTimeout <= 0 {
		s.headTimeout = DefaultHeadTimeout
	}
	if s.idleTimeout <= 0 {
		s.idleTimeout = DefaultIdleTimeout
	}
	loops := config.Loops
	if loops <= 0 {
		// Functions and kernel need the other half, and one loop with much to do is
		// cheaper than two with little: it is woken less often.
		loops = (runtime.GOMAXPROCS(0) + 1) / 2
	}
	for range loops {
		l, err := newLoop(s, loops < runtime.GOMAXPROCS(0))
		if err != nil {
			for _, l := range s.loops {
				l.poll.close()
			}
			return nil, errors.Join(err, file.Close())
		}
		s.loops = append(s.loops, l)
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	for _, l := range s.loops {
		s.looping.Go(l.run)
	}
	s.work.Go(s.accept)
	return s, nil
}

// Addr returns the address that clients connect to.
func (s *Listener) Addr() net.Addr { return s.inner.Addr() }

// Accept returns the next connection that is for somebody else. Its error is
// net.ErrClosed after Close.
func (s *Listener) Accept() (net.Conn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.others) == 0 && !s.closed {
		s.change.Wait()
	}
	if s.closed {
		return nil, &net.OpError{Op: "accept", Net: "tcp", Addr: s.Addr(), Err: net.ErrClosed}
	}
	conn := s.others[0]
	s.others = s.others[1:]
	return conn, nil
}

// accept gives new connections to the loops in turn.
func (s *Listener) accept() {
	raw, err := s.file.SyscallConn()
	if err != nil {
		s.logger.Error("accept connections", "error", err)
		return
	}
	pause := acceptPause
	for turn := 0; s.admit(); turn++ {
		var (
			fd   int
			from unix.Sockaddr
			got  error
		)
		err := raw.Read(func(listener uintptr) bool {
			fd, from, got = unix.Accept4(int(listener), unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
			return !errors.Is(got, unix.EAGAIN)
		})
		switch {
		case err != nil: // closed
			s.released()
			return
		case errors.Is(got, unix.ECONNABORTED) || errors.Is(got, unix.EINTR):
			s.released()
			continue
		case got != nil:
			s.released()
			s.logger.Error("accept a connection", "error", got, "pause", pause)
			s.pause(pause)
			pause = min(2*pause, maxAcceptPause)
			continue
		}
		pause = acceptPause
		_ = noDelay(fd) // fails only for a connection that is gone
		s.loops[turn%len(s.loops)].post(message{kind: messageAdopt, fd: fd, peer: address(from)})
	}
}

// admit waits until there may be one more connection and counts it; false once
// closed.
func (s *Listener) admit() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.count >= s.max && !s.closed {
		s.change.Wait()
	}
	if s.closed {
		return false
	}
	s.count++
	return true
}

// released uncounts a connection.
func (s *Listener) released() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.count--
	if s.count == s.max-1 {
		s.change.Broadcast()
	}
}

func (s *Listener) pause(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-s.ctx.Done():
	}
}

// address returns a client's IP address.
func address(from unix.Sockaddr) string {
	switch a := from.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrFrom4(a.Addr).String()
	case *unix.SockaddrInet6:
		return netip.AddrFrom16(a.Addr).Unmap().String()
	}
	return "unknown"
}

// Close stops accepting and has idle connections closed. It does not wait;
// http.Server calls it when it shuts down.
func (s *Listener) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	others := s.others
	s.others = nil
	s.change.Broadcast()
	s.mu.Unlock()
	for _, conn := range others {
		conn.Close()
	}
	err := errors.Join(s.inner.Close(), s.file.Close())
	for _, l := range s.loops {
		l.post(message{kind: messageDrain})
	}
	return err
}

// Shutdown closes the listener and waits until the calls under way have ended.
// When ctx ends first it ends them.
func (s *Listener) Shutdown(ctx context.Context) error {
	err := s.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.looping.Wait()
	}()
	select {
	case <-done:
	case <-ctx.Done():
		err = errors.Join(err, ctx.Err())
		for _, l := range s.loops {
			l.post(message{kind: messageStop})
		}
		<-done
	}
	s.cancel()
	s.work.Wait()
	for _, l := range s.loops {
		l.refund()
	}
	return err
}

// hand gives a connection to Accept; false once closed.
func (s *Listener) hand(conn net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.others = append(s.others, conn)
	s.change.Broadcast()
	return true
}
