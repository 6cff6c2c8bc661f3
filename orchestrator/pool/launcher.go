package pool

import (
	"context"
	"time"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/capacity"
)

// Launcher starts and ends instances. Implementations are safe for concurrent
// use; the launch package has the one on containers.
type Launcher interface {
	// Launch returns an instance that answered ready. Errors are ErrFunction with
	// output, ErrExhausted, ErrUnavailable or ctx's; nothing is left behind.
	Launch(ctx context.Context, order Order) (Launched, error)
	// Freeze suspends an instance; idempotent.
	Freeze(ctx context.Context, id string) error
	// Thaw undoes Freeze; idempotent.
	Thaw(ctx context.Context, id string) error
	// Verify returns nil when an instance that was ready still takes requests, and
	// why not otherwise. It is asked when a connection ended in the middle of a
	// call, which may be the first sign of a death of which the engine tells some
	// milliseconds later. One that is merely busy is well.
	Verify(ctx context.Context, release orchestrator.Release, instance Launched) error
	// Stop ends an instance: SIGTERM, grace, SIGKILL, remove. One that does not
	// exist is no error.
	Stop(ctx context.Context, id string, grace time.Duration) error
}

// Order asks for an instance.
type Order struct {
	Release  orchestrator.Release
	Priority capacity.Priority
	// Proof asks for an instance of the revision's image itself, as it is to be
	// proven that the image works; otherwise any way of waking will do.
	Proof bool
}

// Launched is an instance fresh from a Launcher.
type Launched struct {
	ID     string // container id
	Addr   string // "IP:port"
	Origin string // OriginImage, OriginCell or OriginAdopted
	Token  string // what calls of it carry; "" = nothing
}

// Where an instance came from.
const (
	OriginImage   = "image"
	OriginCell    = "cell"
	OriginAdopted = "adopted"
)

// Conns are the data plane's connections to one instance. The pool closes them
// before the instance is frozen or stopped. The data plane gives a connection
// back to its Conns before it releases the lease it was used under.
type Conns interface {
	// CloseIdle closes the connections that carry no request now.
	CloseIdle()
}

// Observer hears about what is not on the warm path. Methods are called without
// locks held and must not wait.
type Observer interface {
	// Started tells of a start that ended: how long it took from the decision,
	// and err if it failed (origin is empty then).
	Started(function, origin string, took time.Duration, err error)
	// Thawed tells of an instance that was thawed.
	Thawed(function string, took time.Duration)
	// Queued tells how long a request waited that found no free slot, whatever
	// came of it.
	Queued(function string, waited time.Duration)
	// Ended tells of an instance that left, and why: one of the Reason constants.
	Ended(function, reason string)
}

// Why an instance left its pool.
const (
	ReasonIdle        = "idle"        // keep-alive over
	ReasonEvicted     = "evicted"     // memory was needed elsewhere
	ReasonSurplus     = "surplus"     // more than max
	ReasonDrained     = "drained"     // the revision was replaced or removed
	ReasonDied        = "died"        // the container ended by itself
	ReasonUnreachable = "unreachable" // it does not accept connections
	ReasonStuck       = "stuck"       // it could not be frozen or thawed
)

// NoObserver hears nothing.
type NoObserver struct{}

// Started does nothing.
func (NoObserver) Started(string, string, time.Duration, error) {}

// Thawed does nothing.
func (NoObserver) Thawed(string, time.Duration) {}

// Queued does nothing.
func (NoObserver) Queued(string, time.Duration) {}

// Ended does nothing.
func (NoObserver) Ended(string, string) {}
