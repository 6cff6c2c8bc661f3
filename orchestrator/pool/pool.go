// Package pool keeps the instances of one revision: it hands out slots, queues
// requests that find none, decides with package scale when to start, freeze and
// stop, and drains when the revision is replaced.
package pool

import (
	"context"
	"errors"
	"time"

	"github.com/kilnfaas/kiln/orchestrator"
)

// ErrDraining is returned by Acquire once a pool is being replaced or removed;
// the caller looks the function up again.
var ErrDraining = errors.New("pool is draining")

// Launcher starts and ends instances. Implementations are safe for concurrent
// use; the launch package has the one on containers.
type Launcher interface {
	// Launch returns an instance that answered ready. Errors are ErrFunction with
	// output, ErrExhausted or ErrUnavailable; nothing is left behind.
	Launch(ctx context.Context, release orchestrator.Release) (Launched, error)
	Freeze(ctx context.Context, id string) error
	Thaw(ctx context.Context, id string) error
	// Stop ends an instance: SIGTERM, grace, SIGKILL, remove.
	Stop(ctx context.Context, id string, grace time.Duration) error
}

// Launched is an instance fresh from a Launcher.
type Launched struct {
	ID     string // container id
	Addr   string // "IP:port"
	Origin string // "image", "cell" or "adopted"
}

// Conns are the data plane's connections to one instance. The pool closes them
// before the instance is frozen or stopped.
type Conns interface {
	// CloseIdle closes the connections that carry no request now.
	CloseIdle()
}
