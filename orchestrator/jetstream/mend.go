package jetstream

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// mendEvery is how often the disk is looked at that has to have room again.
const mendEvery = time.Second

// mender opens the streams of the embedded server again after a write of its own
// has failed. From then on the server takes nothing for that stream until it is
// started again (nats-server pull request 7788), also when there is room again;
// room keeps Kiln from such writes, but not when somebody else fills the disk
// between its look and the write.
type mender struct {
	server *server.Server
	config server.JetStreamConfig
	open   func() error // what Kiln adds to a JetStream that has started
	room   func() error // nil when there is room to write
	logger *slog.Logger

	failed chan struct{} // one token: a write has failed
	cancel context.CancelFunc
	done   sync.WaitGroup
}

// saysWriteFailed recognises how the server tells of a stream, or of a consumer,
// that it takes nothing more for.
func saysWriteFailed(format string) bool { return strings.Contains(format, "critical write error") }

func (m *mender) start() {
	ctx, cancel := context.WithCancel(context.Background())
	m.cancel = cancel
	m.done.Go(func() { m.watch(ctx) })
}

// stop ends the mender; nil is fine.
func (m *mender) stop() {
	if m != nil {
		m.cancel()
		m.done.Wait()
	}
}

func (m *mender) watch(ctx context.Context) {
	look := time.NewTicker(mendEvery)
	defer look.Stop()
	for {
		select {
		case <-m.failed:
		case <-ctx.Done():
			return
		}
		for !m.mended() {
			select {
			case <-look.C:
			case <-ctx.Done():
				return
			}
		}
	}
}

// mended opens the streams again if there is room for them.
func (m *mender) mended() bool {
	if m.room() != nil {
		return false
	}
	config := m.config // EnableJetStream changes it
	err := m.server.ShutdownJetStream()
	if err == nil {
		err = m.server.EnableJetStream(&config)
	}
	if err == nil {
		err = m.open()
	}
	if err != nil {
		m.logger.Error("the store's streams do not open again after a failed write", "error", err)
		return false
	}
	m.logger.Warn("the store's streams were opened again after a failed write")
	return true
}
