package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/kilnfaas/kiln/orchestrator"
)

// Bounds of connections, and their reasons.
const (
	readHeaderTimeout = 10 * time.Second  // a request head is one packet or two
	idleTimeout       = 120 * time.Second // longer than clients and load balancers commonly keep a connection
	maxHeaderBytes    = 64 << 10          // cookies and tokens of several kilobytes, and no more
)

// deployGrace is the part of the shutdown that deploys may use: what is left is
// for telling their clients.
const deployGrace = 2.0 / 3

func (s *Server) server() *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true) // where TLS agrees on it
	protocols.SetUnencryptedHTTP2(true)
	return &http.Server{
		Handler:           s.handler,
		Protocols:         protocols,
		ReadHeaderTimeout: readHeaderTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		// What clients do to their connections is nobody's concern by default.
		ErrorLog: slog.NewLogLogger(s.Log.Handler(), slog.LevelDebug),
	}
}

// Open listens on Addr and serves until Close.
func (s *Server) Open() error {
	listener, err := net.Listen("tcp", s.Addr)
	if err != nil {
		return orchestrator.Errorf(orchestrator.ErrUnavailable, "listen-failed", "listen on %s: %w", s.Addr, err).
			WithHint("choose another address with --listen or KILN_LISTEN")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		listener.Close()
		return http.ErrServerClosed
	}
	s.listener = listener
	s.init()
	s.serving.Go(func() {
		if err := s.http.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			s.Log.Error("no longer listening", "address", s.Addr, "error", err)
		}
	})
	return nil
}

// Address returns where Open listens; nil before.
func (s *Server) Address() net.Addr {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.listener == nil {
		return nil
	}
	return s.listener.Addr()
}

// Serve serves connections of a listener until Close, which closes it, or until
// its owner does, and then returns nil. It may be called for several listeners, besides Open or instead.
func (s *Server) Serve(listener net.Listener) error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		listener.Close()
		return nil
	}
	s.init()
	s.serving.Add(1)
	s.mu.Unlock()
	defer s.serving.Done()
	if err := s.http.Serve(listener); !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("serve %s: %w", listener.Addr(), err)
	}
	return nil
}

// Close stops listening, ends log followers, lets requests finish for Shutdown
// and cuts what is left. Deploys go on in the use cases; their clients are told
// before the end. It is idempotent and returns when nothing is served any more;
// an error tells that connections were cut.
func (s *Server) Close() error {
	s.closing.Do(func() {
		s.mu.Lock()
		s.closed = true
		s.init()
		s.mu.Unlock()
		s.closeErr = s.shutdown()
	})
	return s.closeErr
}

func (s *Server) shutdown() error {
	s.stop()
	last := time.AfterFunc(time.Duration(float64(s.Shutdown)*deployGrace), func() { s.endDeploys(errStopping) })
	defer last.Stop()
	ctx, cancel := context.WithTimeout(context.Background(), s.Shutdown)
	defer cancel()
	err := s.http.Shutdown(ctx)
	if err != nil {
		err = fmt.Errorf("connections were cut after %v: %w", s.Shutdown, errors.Join(err, s.http.Close()))
	}
	s.serving.Wait()
	s.endDeploys(errStopping)
	return err
}

var errStopping = orchestrator.Errorf(orchestrator.ErrUnavailable, "stopping", "the gateway is stopping").
	WithHint("try again in a moment; kiln describe tells what became of a deploy")
