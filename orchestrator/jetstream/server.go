// Package jetstream keeps Kiln's state on NATS JetStream: functions and
// revisions in key-value buckets, archives in an object store. It is the only
// package that knows the NATS server.
//
// The server runs inside the process by default, without a listener unless one is
// asked for (Clients), and with every write synchronised to disk before it is
// acknowledged, or is an external one given by URL; everything above Connect is the
// same code. An external server's durability is its own configuration
// (sync_interval: always).
package jetstream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/kilnfaas/kiln/orchestrator"
)

const (
	// connectTimeout bounds one attempt to reach the server.
	connectTimeout = 10 * time.Second
	// reconnectWait is the pause between attempts once a connection was lost:
	// short, since deploys wait for it; calls of functions do not need the store.
	reconnectWait = time.Second
	// closeTimeout is how long Close waits for the client connection to report
	// its end, which needs no network.
	closeTimeout = 5 * time.Second
)

// Options say where the state is.
type Options struct {
	// Dir is the data folder, made when missing and locked while in use. The
	// embedded server keeps its files in DIR/jetstream. Needed without URL.
	Dir string
	// URL is that of an external server ("nats://host:4222", several separated
	// by commas); empty = the embedded one.
	URL string
	// Replicas is how many servers of an external cluster keep a copy of what is
	// created; 0 = 1. What exists keeps its number.
	Replicas int
	// LeaseLife is how long the owner of an external store may be silent before
	// another gateway takes it over; 0 = 15 s.
	LeaseLife time.Duration
	// MarkerLife is how long the mark of a deleted entry is kept, 0 = an hour.
	// It must be longer than any reader may lag behind; JetStream counts seconds.
	MarkerLife time.Duration
	// CompactEvery is how often the embedded server gives the space of what was
	// deleted back to the disk; 0 = two minutes.
	CompactEvery time.Duration
	// Clients opens the embedded server to others; nil = only this process reaches it.
	Clients *Clients
	// EventsStore bounds the streams that others make on the embedded server, in
	// bytes; 0 = DefaultEventsStore.
	EventsStore int64
	// Logger receives what the server warns of and what happens to the
	// connection; nil = slog.Default().
	Logger *slog.Logger
}

// markerLife outlasts every list and every lagging replica, and is over long
// before marks add up.
const markerLife = time.Hour

// Server is a connection to JetStream and, unless that is external, the server
// behind it. Stores, and later queues, are built on one Server.
type Server struct {
	dir        string // empty when the server is external
	replicas   int
	markerLife time.Duration
	logger     *slog.Logger

	lock     *folderLock    // nil without a data folder
	embedded *server.Server // nil when external
	mender   *mender        // of the embedded server
	url      string         // of the external server
	conn     *nats.Conn
	events   *nats.Conn // where Publish sends; conn when external
	js       jetstream.JetStream
	ended    []<-chan struct{} // each closed by a connection once it has ended

	closeOnce sync.Once
	closeErr  error
}

// Connect locks the data folder, starts the embedded server or finds the
// external one, and returns once it answers. Errors: ErrConflict when another
// process uses the folder, ErrInvalid for unusable options, ErrUnavailable.
func Connect(ctx context.Context, options Options) (_ *Server, err error) {
	s := &Server{
		replicas:   max(1, options.Replicas),
		markerLife: options.MarkerLife,
		logger:     options.Logger,
		url:        options.URL,
	}
	if s.logger == nil {
		s.logger = slog.Default()
	}
	if s.markerLife == 0 {
		s.markerLife = markerLife
	}
	if options.Dir == "" && options.URL == "" {
		return nil, orchestrator.Errorf(orchestrator.ErrInvalid, "data-folder-missing", "the store has neither a data folder nor a URL").
			WithHint("give one with --data or --nats")
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	if options.Dir != "" {
		if err := s.openFolder(options.Dir); err != nil {
			return s, err
		}
	}
	if options.URL == "" {
		s.dir = options.Dir
		room := func() error { return s.room(0) }
		if s.embedded, s.mender, err = startEmbedded(ctx, options, room, s.logger); err != nil {
			return s, err
		}
	}
	if options.URL != "" && options.Clients != nil {
		return s, orchestrator.Errorf(orchestrator.ErrInvalid, "nats-listen-external", "clients are served by the embedded server, and the store is on %s", options.URL).
			WithHint("have them connect to that server, or leave out --nats")
	}
	if err := s.connect(ctx); err != nil {
		return s, err
	}
	return s, nil
}

func (s *Server) openFolder(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return orchestrator.Errorf(orchestrator.ErrUnavailable, "data-folder-unusable", "make the data folder: %w", err).
			WithHint("give another folder with --data")
	}
	lock, err := lockFolder(dir)
	if err != nil {
		if orchestrated := (*orchestrator.Error)(nil); errors.As(err, &orchestrated) {
			return err
		}
		return orchestrator.Errorf(orchestrator.ErrUnavailable, "data-folder-unusable", "%w", err).
			WithHint("make the folder writable, or give another one with --data")
	}
	s.lock = lock
	return nil
}

// link opens a connection that is made again when it is lost, until Close.
func (s *Server) link(dial func(...nats.Option) (*nats.Conn, error)) (*nats.Conn, error) {
	ended := make(chan struct{})
	conn, err := dial(
		nats.Name("kiln"),
		nats.Timeout(connectTimeout),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(reconnectWait),
		nats.ReconnectBufSize(-1), // a write while disconnected fails; it does not wait unseen
		nats.ClosedHandler(func(*nats.Conn) { close(ended) }),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				s.logger.Warn("store connection lost", "error", err)
			}
		}),
		nats.ReconnectHandler(func(c *nats.Conn) {
			s.logger.Info("store connection is back", "server", c.ConnectedUrlRedacted())
		}),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			s.logger.Warn("store connection", "error", err)
		}),
	)
	if err != nil {
		return nil, orchestrator.Errorf(orchestrator.ErrUnavailable, "store-unavailable", "connect to the store: %w", err).
			WithHint("check the address given with --nats and that the server runs")
	}
	s.ended = append(s.ended, ended)
	return conn, nil
}

func (s *Server) connect(ctx context.Context) (err error) {
	s.conn, err = s.link(func(options ...nats.Option) (*nats.Conn, error) {
		if s.embedded != nil {
			options = append(options, nats.InProcessServer(s.embedded))
		}
		return nats.Connect(s.url, options...)
	})
	if err != nil {
		return err
	}
	s.events = s.conn
	if s.embedded != nil {
		if s.events, err = s.link(s.Dial); err != nil {
			return err
		}
	}
	if s.js, err = jetstream.New(s.conn); err != nil {
		return fmt.Errorf("open JetStream: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	if _, err := s.js.AccountInfo(ctx); err != nil {
		return orchestrator.Errorf(orchestrator.ErrUnavailable, "store-unavailable", "the NATS server has no usable JetStream: %w", err).
			WithHint("start it with -js, or enable JetStream for the account")
	}
	return nil
}

// Close ends the connection and the embedded server, waits for both and gives
// the data folder up. It may be called more than once.
func (s *Server) Close() error {
	s.closeOnce.Do(func() {
		for _, conn := range []*nats.Conn{s.events, s.conn} {
			if conn != nil {
				conn.Close()
			}
		}
		patience, cancel := context.WithTimeout(context.Background(), closeTimeout)
		defer cancel()
		for _, ended := range s.ended {
			select {
			case <-ended:
			case <-patience.Done():
				s.closeErr = errors.New("the store's connections did not end")
			}
		}
		s.mender.stop()
		if s.embedded != nil {
			s.embedded.Shutdown()
			s.embedded.WaitForShutdown()
		}
		s.closeErr = errors.Join(s.closeErr, s.lock.release())
	})
	return s.closeErr
}
