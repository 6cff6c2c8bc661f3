// Package capacity holds the machine-wide bounds that all pools share: memory
// for instances, starts at one time, and whether the CPU has any left.
//
// A Budget hands out memory as Reservations. When it is short, it asks the
// tenants (pools, cells) for idle instances they can spare and has the least
// worth of all ended, by greedy-dual; what cannot be had so waits in line.
// Lines are fair: callers go before background work, and among equals the
// functions take turns, so that a noisy one does not hold up the others. A claim
// that does not fit is passed by those that do, but not for long (hold).
package capacity

import (
	"context"
	"math"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kilnfaas/kiln/orchestrator"
)

// Priority orders those who wait.
type Priority int

// The priorities, first served first.
const (
	Caller     Priority = iota // a request waits for it
	Background                 // prewarming, minimum instances, cells

	priorities = iota
)

const (
	// memoryShare is how much of the engine's memory instances may take: the
	// rest is the gateway's, the engine's, the page cache's and the builds'.
	memoryShare = 0.8
	// startsPerCPU bounds starts at one time. The engine makes about 11 a second
	// on two cores however many are asked of it; more at once only delays each.
	startsPerCPU = 2
	// reclaimInterval is how often one who waits for memory looks again for
	// instances that have become idle.
	reclaimInterval = 100 * time.Millisecond
)

// Config sets a Budget up.
type Config struct {
	// Memory for all instances. 0 = 80 % of EngineMemory; if that is unknown
	// too, without bound.
	Memory       orchestrator.Bytes
	EngineMemory orchestrator.Bytes
	// Starts at one time; 0 = max(2, 2 per CPU). Half of them are for work in the
	// background, and only while no caller's start is under way or waiting: the
	// engine shares itself among all that is asked of it.
	Starts int
	// Saturated says whether the machine's CPU is used up; nil = never.
	Saturated func() bool
}

// Budget is the machine's capacity. All methods are safe for concurrent use.
type Budget struct {
	memory    orchestrator.Bytes
	starts    int
	saturated func() bool
	clock     atomic.Uint64 // greedy-dual clock, bits of a float64

	mu       sync.Mutex // guards what follows; never held while a tenant is asked
	used     orchestrator.Bytes
	evicting orchestrator.Bytes // part of used that is on its way out
	starting [priorities]int    // starts under way
	forSlots line               // starts waiting
	forBytes line               // reservations waiting
	hold     hold               // on what becomes free for them
	tenants  map[Tenant]struct{}
	evicted  uint64
}

// New returns a Budget.
func New(config Config) *Budget {
	b := &Budget{memory: config.Memory, starts: config.Starts, saturated: config.Saturated, tenants: map[Tenant]struct{}{}}
	if b.memory <= 0 {
		b.memory = orchestrator.Bytes(float64(config.EngineMemory) * memoryShare)
	}
	if b.memory <= 0 {
		b.memory = math.MaxInt64
	}
	if b.starts <= 0 {
		b.starts = max(2, startsPerCPU*runtime.NumCPU())
	}
	if b.saturated == nil {
		b.saturated = func() bool { return false }
	}
	return b
}

// Saturated says whether the machine's CPU is used up, so that further
// instances would only slow down those that run.
func (b *Budget) Saturated() bool { return b.saturated() }

// Clock returns the greedy-dual clock: the worth of what was evicted last.
func (b *Budget) Clock() float64 { return math.Float64frombits(b.clock.Load()) }

// Usage is a snapshot of a Budget.
type Usage struct {
	Memory     orchestrator.Bytes // bound
	Used       orchestrator.Bytes
	Starting   int
	MaxStarts  int
	WaitMemory int // reservations in line
	WaitStart  int // starts in line
	Evicted    uint64
}

// Usage returns what is in use.
func (b *Budget) Usage() Usage {
	b.mu.Lock()
	defer b.mu.Unlock()
	return Usage{
		Memory: b.memory, Used: b.used, Starting: b.inStart(), MaxStarts: b.starts,
		WaitMemory: b.forBytes.len(), WaitStart: b.forSlots.len(), Evicted: b.evicted,
	}
}

// Start waits for the turn to start a container and returns the function that
// ends it, which is to be called exactly once. The error is ctx's.
func (b *Budget) Start(ctx context.Context, function string, priority Priority) (done func(), err error) {
	done = func() { b.startDone(priority) }
	t := newTicket(function, priority, 0)
	b.mu.Lock()
	b.forSlots.push(t)
	b.grantStarts()
	b.mu.Unlock()
	select {
	case <-t.granted:
		return done, nil
	case <-ctx.Done():
		b.mu.Lock()
		waiting := b.forSlots.remove(t)
		b.mu.Unlock()
		if !waiting { // granted in the same instant
			done()
		}
		return nil, ctx.Err()
	}
}

func (b *Budget) startDone(priority Priority) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.starting[priority]--
	b.grantStarts()
}

// grantStarts gives turns to those whose it is; mu is held.
func (b *Budget) grantStarts() {
	for {
		t := b.forSlots.pop(b.mayStart)
		if t == nil {
			return
		}
		b.starting[t.priority]++
		close(t.granted)
	}
}

// mayStart says whether a start fits beside those under way; mu is held.
func (b *Budget) mayStart(t *ticket) bool {
	if t.priority == Background {
		return b.starting[Caller] == 0 && !b.forSlots.waiting(Caller) && b.starting[Background] < max(1, b.starts/2)
	}
	return b.inStart() < b.starts
}

// inStart returns how many starts are under way; mu is held.
func (b *Budget) inStart() int { return b.starting[Caller] + b.starting[Background] }
