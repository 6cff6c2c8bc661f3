package jetstream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"golang.org/x/time/rate"

	"github.com/kilnfaas/kiln/orchestrator"
)

const (
	// startTimeout is how long the embedded server may take to read its files:
	// a second covers thousands of functions, the rest is for slow disks.
	startTimeout = 60 * time.Second
	// maxMemory bounds streams kept in memory; Kiln has none.
	maxMemory = 32 << 20
	// maxStore is no limit: what counts is the disk, which is checked before
	// each write. Left at 0 the server would take 75 % of what is free at its
	// start, and refuse more for as long as it runs.
	maxStore = math.MaxInt64 / 2
	// logRate and logBurst bound, per second, the lines that strangers can cause who
	// try passwords.
	logRate  = 1
	logBurst = 50
)

// startEmbedded runs a server in this process, which nobody else reaches unless
// options.Clients is there. The mender is started; its owner stops it before the
// server.
func startEmbedded(ctx context.Context, options Options, room func() error, logger *slog.Logger) (*server.Server, *mender, error) {
	gate := &gate{clients: options.Clients}
	settings := &server.Options{
		ServerName:         "kiln",
		DontListen:         true, // until openEvents
		NoSigs:             true, // signals are the program's
		NoSystemAccount:    true, // nobody watches the server's own events
		JetStream:          true,
		StoreDir:           options.Dir, // the server adds "jetstream"
		SyncAlways:         true,
		SyncInterval:       options.CompactEvery, // with SyncAlways nothing else is left for it to do; 0 = 2 min
		JetStreamMaxMemory: maxMemory,
		JetStreamMaxStore:  maxStore,
		MaxConn:            maxClients,
		// As long as a connection of this process may take on a busy machine.
		AuthTimeout:                connectTimeout.Seconds(),
		CustomClientAuthentication: gate,
	}
	if options.Clients != nil {
		if err := options.Clients.apply(settings); err != nil {
			return nil, nil, err
		}
	}
	srv, err := server.NewServer(settings)
	if err != nil {
		return nil, nil, fmt.Errorf("configure the embedded store: %w", err)
	}
	mend := &mender{
		server: srv,
		config: server.JetStreamConfig{
			StoreDir: settings.StoreDir, SyncAlways: settings.SyncAlways, SyncInterval: settings.SyncInterval,
			MaxMemory: settings.JetStreamMaxMemory, MaxStore: settings.JetStreamMaxStore, Strict: true, CompressOK: true, // as at its start
		},
		open:   func() error { return openEvents(srv, gate, options) },
		room:   room,
		logger: logger,
		failed: make(chan struct{}, 1),
	}
	log := &serverLog{logger: logger.With("component", "nats-server"), lines: rate.NewLimiter(logRate, logBurst), failed: mend.failed}
	srv.SetLoggerV2(log, false, false, false)
	srv.Start() // returns once every stream is restored, or after a fatal message

	deadline := startTimeout
	if d, ok := ctx.Deadline(); ok {
		deadline = min(deadline, time.Until(d))
	}
	reason := log.fatal()
	if reason == "" && !srv.ReadyForConnections(deadline) {
		reason = fmt.Sprintf("not ready after %v", deadline)
	}
	if reason != "" {
		srv.Shutdown()
		srv.WaitForShutdown()
		return nil, nil, orchestrator.Errorf(orchestrator.ErrUnavailable, "store-unavailable", "the embedded store did not start: %s", reason).
			WithHint("its files are in %s/jetstream: are they readable and writable, and is the disk full?", options.Dir)
	}
	err = openEvents(srv, gate, options)
	if err == nil && options.Clients != nil {
		err = listen(srv, log, options.Clients)
	}
	if err != nil {
		srv.Shutdown()
		srv.WaitForShutdown()
		return nil, nil, err
	}
	mend.start()
	return srv, mend, nil
}

// forgetTornStream prepares for creating a stream that the embedded server does
// not know although it may have files of it. The server writes a stream's
// configuration and the checksum of it one after the other; when it dies in
// between it leaves the stream out at every later start. Without the
// configuration, creating the stream writes both again and takes over the
// messages that are there.
func (s *Server) forgetTornStream(name string) error {
	if s.embedded == nil {
		return nil
	}
	folder := filepath.Join(s.dir, server.JetStreamStoreDir, s.embedded.GlobalAccount().Name, "streams", name)
	err := os.Remove(filepath.Join(folder, server.JetStreamMetaFile))
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("repair stream %s: %w", name, err)
	}
	s.logger.Warn("the store's last end left the settings of a stream torn; they are written again", "stream", name)
	return nil
}

// serverLog passes on what the server warns of. Its notices (start, stop, each
// restored stream) say nothing that Kiln does not say itself.
type serverLog struct {
	logger *slog.Logger
	lines  *rate.Limiter
	failed chan<- struct{} // of the mender

	mu   sync.Mutex
	last string // guarded by mu: the last fatal message
}

func (l *serverLog) Noticef(string, ...any) {}
func (l *serverLog) Debugf(string, ...any)  {}
func (l *serverLog) Tracef(string, ...any)  {}

func (l *serverLog) Warnf(format string, args ...any) {
	if l.lines.Allow() {
		l.logger.Warn(fmt.Sprintf(format, args...))
	}
}

func (l *serverLog) Errorf(format string, args ...any) {
	if saysWriteFailed(format) {
		select {
		case l.failed <- struct{}{}:
		default: // it is known
		}
	}
	if l.lines.Allow() {
		l.logger.Error(fmt.Sprintf(format, args...))
	}
}

// Fatalf keeps the message: it becomes the error of startEmbedded.
func (l *serverLog) Fatalf(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last = fmt.Sprintf(format, args...)
}

func (l *serverLog) fatal() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last
}
