// Package pool keeps the instances of one revision: it hands out slots, queues
// requests that find none, decides with package scale when to start, freeze and
// stop, and drains when the revision is replaced.
//
// A Pool is passive: it has no goroutine and no timer of its own. Requests
// drive it, and somebody (the route package) calls Tick once a second while the
// pool is active, which it tells through Config.Activity. What takes time
// (launching, freezing, thawing, stopping) runs in a goroutine for each such
// act, with the pool's mutex released; Close waits for them.
//
// Invariants: an instance never has more than Concurrency requests in flight; a
// lease is only ever on an instance that was ready when it was given, and such
// an instance is not frozen before the lease is released; while a request
// waits, no ready instance has a free slot; requests are served in the order in
// which they came.
package pool

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/capacity"
	"github.com/kilnfaas/kiln/orchestrator/scale"
)

// ErrDraining is returned by Acquire once a pool is being replaced or removed;
// the caller looks the function up again.
var ErrDraining = errors.New("pool is draining")

// Config is what a Pool is given. Pools share one.
type Config struct {
	Launcher Launcher         // required
	Capacity *capacity.Budget // nil = a Budget without bounds
	// NewConns makes the data plane's connection set of an instance; may be nil.
	NewConns func(instance Launched) Conns
	Observer Observer     // nil = NoObserver
	Logger   *slog.Logger // nil = discard
	// NeverFreeze keeps idle instances running until they are removed.
	NeverFreeze bool
	// Activity hears when the pool needs Tick (true) and when it no longer does
	// (false). It is called with the pool's lock held, in order; it must not
	// call the pool. May be nil.
	Activity func(p *Pool, active bool)
}

// instant is time since the pool's epoch, monotonic: reading and comparing it
// costs half of what time.Time does, and the warm path does so twice a call.
type instant = time.Duration

// phase is a pool's own life: serving -> draining or closed.
type phase uint8

const (
	serving  phase = iota
	draining       // replaced or removed: instances end
	closed         // the gateway goes: instances stay
)

// Pool is the instances of one revision. All methods are safe for concurrent
// use.
type Pool struct {
	cfg         *Config
	name        string // of the function
	epoch       time.Time
	concurrency int
	ctx         context.Context // of freezing, thawing and stopping
	cancel      context.CancelFunc
	work        sync.WaitGroup // goroutines, see spawn

	mu      sync.Mutex            // guards all that follows; never held across I/O
	release *orchestrator.Release // never changed, only replaced
	phase   phase
	active  bool          // Activity has been told so
	gone    chan struct{} // closed when draining and nothing is left
	calm    chan struct{} // non-nil while somebody waits for inflight to be 0

	instances []*instance
	count     [states]int // of instances, by state
	ready     []*instance // Ready and not parked
	free      freeList    // of ready, those with a free slot
	queue     queue
	inflight  int

	load    load
	service scale.Average // of requests
	startup scale.Average // of starts
	window  *scale.Window // nil while inactive
	mode    scale.Mode
	idle    scale.Histogram
	planned instant // idle period (load.idleSince) for which a prewarm was made
	calls   int64   // since there are instances
	backlog int     // asynchronous calls that are due and wait elsewhere
	stats   Stats
	crash   crash
	early   []string // ids that died while something was starting
}

// New returns a pool without instances.
func New(config *Config, release orchestrator.Release) *Pool {
	c := *config
	if c.Capacity == nil {
		c.Capacity = capacity.New(capacity.Config{})
	}
	if c.Observer == nil {
		c.Observer = NoObserver{}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	ctx, cancel := context.WithCancel(context.Background())
	p := &Pool{
		cfg: &c, name: release.Spec.Name, epoch: time.Now(), concurrency: max(1, release.Spec.Concurrency),
		ctx: ctx, cancel: cancel, release: &release, gone: make(chan struct{}),
	}
	p.load.idleSince = never
	p.mu.Lock()
	defer p.mu.Unlock()
	p.activate()
	return p
}

func (p *Pool) now() instant { return time.Since(p.epoch) }

// Release returns what the pool serves, with its present settings. It is shared
// and not to be changed.
func (p *Pool) Release() *orchestrator.Release {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.release
}

// Configure replaces the release by one whose instances are the same: other
// settings, or more known of the revision. Concurrency cannot change, as
// instances know it from their environment.
func (p *Pool) Configure(release orchestrator.Release) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.release = &release
	p.activate()
}

// Acquire returns a slot of a ready instance, and waits for one if need be,
// having instances thawed or started. Errors: ErrDraining; *orchestrator.Error
// of the classes ErrExhausted (codes "queue-full", "overloaded",
// "no-capacity"), ErrFunction ("instance-start-failed", "crash-loop"),
// ErrUnavailable ("shutting-down") and ErrDeadline; context.Canceled as is.
func (p *Pool) Acquire(ctx context.Context) (Lease, error) {
	p.mu.Lock()
	now := p.now()
	if lease, ok := p.take(now); ok {
		p.mu.Unlock()
		return lease, nil
	}
	return p.wait(ctx, now)
}

// TryAcquire returns a slot if one is free and nobody waits. It never waits and
// starts nothing.
func (p *Pool) TryAcquire() (Lease, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.take(p.now())
}

// take gives a free slot to a new request; mu is held.
func (p *Pool) take(now instant) (Lease, bool) {
	if p.queue.len > 0 || p.phase != serving {
		return Lease{}, false
	}
	in := p.pick()
	if in == nil {
		return Lease{}, false
	}
	p.arrive(now)
	p.occupy(in)
	p.inflight++
	p.calls++
	p.stats.Acquired++
	return Lease{pool: p, instance: in, since: now}, true
}

// giveBack ends a lease.
func (p *Pool) giveBack(in *instance, since instant, outcome Outcome) {
	p.mu.Lock()
	now := p.now()
	p.inflight--
	switch outcome {
	case Done:
		p.service.Add(now - since)
	case Failed:
		p.stats.Failed++
	case Broken:
		p.stats.Failed++
		p.doubt(in)
	case Unreachable:
		p.stats.Unreachable++
		p.suspect(in, now)
	}
	if in.state == Ready && p.queue.len > 0 && !in.parked {
		// Direct hand-off: the slot goes to the one that has waited longest and
		// nobody can overtake it.
		p.load.leave(now)
		p.serve(p.queue.pop(), in)
		p.mu.Unlock()
		return
	}
	p.vacate(in)
	p.load.leave(now)
	idle := in.inflight == 0
	if idle {
		in.idleSince, in.credit = now, p.cfg.Capacity.Clock()
	}
	if idle && (in.state != Ready || in.parked) {
		p.idleLeaver(in, now)
	}
	if p.inflight == 0 && p.calm != nil {
		close(p.calm)
		p.calm = nil
	}
	p.mu.Unlock()
}

// idleLeaver goes on with an instance that has no request left and is not to
// take more; mu is held.
func (p *Pool) idleLeaver(in *instance, now instant) {
	switch {
	case in.state == Draining:
		p.stop(in, stopGrace)
	case in.state == Dead && in.conns != nil:
		// The data plane may have given a connection back after the death.
		p.spawn(in.conns.CloseIdle)
	case in.parked && p.plan().Freeze > 0:
		p.freeze(in, now)
	}
}

// serve gives a waiter a slot that the instance has already set aside: its
// in-flight count includes it.
func (p *Pool) serve(w *waiter, in *instance) {
	p.inflight++
	p.calls++
	p.stats.Acquired++
	in.prewarmed, in.used = false, true
	w.granted <- grant{in: in}
}

// dispatch gives free slots to those who wait; mu is held. It is called after
// everything that adds slots.
func (p *Pool) dispatch() {
	for p.queue.len > 0 {
		in := p.pick()
		if in == nil {
			return
		}
		p.occupy(in)
		p.serve(p.queue.pop(), in)
	}
}

// activate asks for ticks; mu is held.
func (p *Pool) activate() {
	if p.active || p.phase == closed {
		return
	}
	p.active = true
	p.window = &scale.Window{}
	p.load.restart(p.now())
	if p.cfg.Activity != nil {
		p.cfg.Activity(p, true)
	}
	p.cfg.Capacity.Join(p)
}

// deactivate ends the ticks; mu is held.
func (p *Pool) deactivate() {
	if !p.active {
		return
	}
	p.active, p.window, p.mode = false, nil, scale.Mode{}
	p.queue.spare, p.queue.spares = nil, 0
	if p.cfg.Activity != nil {
		p.cfg.Activity(p, false)
	}
	p.cfg.Capacity.Leave(p)
}

// spawn runs something that takes time; mu is held. A closed pool begins nothing:
// what its instances are then is for the next gateway to find out.
func (p *Pool) spawn(f func()) {
	if p.phase == closed {
		return
	}
	p.work.Add(1)
	go func() {
		defer p.work.Done()
		f()
	}()
}
