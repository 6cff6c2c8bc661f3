package pool_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/capacity"
	"github.com/kilnfaas/kiln/orchestrator/pool"
)

// ledger checks the pool's promises from outside while everything happens at
// once.
type ledger struct {
	t           *testing.T
	l           *launcher
	concurrency int

	mu       sync.Mutex
	inflight map[string]int
}

func (g *ledger) enter(lease *pool.Lease) {
	id := lease.InstanceID()
	g.mu.Lock()
	defer g.mu.Unlock()
	g.inflight[id]++
	if n := g.inflight[id]; n > g.concurrency {
		g.t.Errorf("%d in flight at %s, %d allowed", n, id, g.concurrency)
	}
	if g.l.state(id) == "frozen" {
		g.t.Errorf("lease on the frozen %s", id)
	}
}

func (g *ledger) leave(lease *pool.Lease) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.inflight[lease.InstanceID()]--
}

// busy returns how many requests are at an instance.
func (g *ledger) busy(id string) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.inflight[id]
}

// strictLauncher fails the test when an instance is frozen with a request in
// flight.
type strictLauncher struct {
	*launcher
	ledger *ledger
}

func (s *strictLauncher) Freeze(ctx context.Context, id string) error {
	if n := s.ledger.busy(id); n > 0 {
		s.t.Errorf("%s is frozen with %d requests in flight", id, n)
	}
	return s.launcher.Freeze(ctx, id)
}

// TestEverythingAtOnce drives a pool with callers that come, give up and fail,
// instances that die, are evicted and frozen as often as can be, on a fake
// clock, and checks the invariants all the while. Whoever has no deadline must be
// served: a lost wake-up would leave the bubble deadlocked.
func TestEverythingAtOnce(t *testing.T) {
	for seed := range uint64(24) {
		c := []int{1, 2, 4, 16}[seed%4]
		t.Run(fmt.Sprintf("seed %d concurrency %d", seed, c), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { everythingAtOnce(t, seed, c) })
		})
	}
}

func everythingAtOnce(t *testing.T, seed uint64, concurrency int) {
	l := newLauncher(t)
	strict := &strictLauncher{launcher: l, ledger: &ledger{t: t, l: l, concurrency: concurrency, inflight: map[string]int{}}}
	source := rand.New(rand.NewPCG(seed, 1))
	l.launchFn = func(n int) error {
		if n%7 == 3 {
			return orchestrator.Errorf(orchestrator.ErrUnavailable, "engine", "the engine hiccups")
		}
		return nil
	}
	r := release(concurrency, func(s *orchestrator.Spec) {
		s.Scale.Max = 1 + source.IntN(5)
		s.Scale.Min = source.IntN(2)
		s.Scale.FreezeAfter = orchestrator.Duration(time.Millisecond) // at every tick
		s.Scale.KeepAlive = orchestrator.Duration(20 * time.Second)
	})
	h := newHarness(t, l, r, func(c *pool.Config) {
		c.Launcher = strict
		c.Capacity = capacity.New(capacity.Config{Memory: 4 * r.Spec.Resources.Memory})
	})

	var work sync.WaitGroup
	for caller := range 4 * concurrency {
		random := rand.New(rand.NewPCG(seed, uint64(caller)+100))
		work.Go(func() { strict.ledger.caller(h, random) })
	}
	end := make(chan struct{})
	var chaos sync.WaitGroup
	chaos.Go(func() { disturb(h, source, end) })
	work.Wait()
	close(end)
	chaos.Wait()

	time.Sleep(90 * time.Second)
	if s := h.Status(); s.InFlight != 0 || s.Waiting != 0 || s.Draining != 0 || s.Starting != 0 {
		t.Errorf("when all is over: %+v", s)
	}
	h.Drain()
	<-h.Gone()
	if _, alive := l.count(); alive != 0 {
		t.Errorf("%d containers left", alive)
	}
}

// caller makes calls of all kinds.
func (g *ledger) caller(h *harness, random *rand.Rand) {
	for range 60 {
		ctx, cancel := context.Background(), context.CancelFunc(func() {})
		if random.IntN(3) == 0 {
			ctx, cancel = context.WithTimeout(ctx, time.Duration(random.IntN(400))*time.Millisecond)
		}
		lease, err := h.Acquire(ctx)
		if err == nil {
			g.enter(&lease)
			time.Sleep(time.Duration(random.IntN(300)) * time.Millisecond)
			g.leave(&lease)
			lease.Release([]pool.Outcome{pool.Done, pool.Done, pool.Done, pool.Done, pool.Failed, pool.Unreachable}[random.IntN(6)%(1+random.IntN(6))])
		} else if ctx == context.Background() && !allowed(err) {
			g.t.Errorf("a caller without a deadline got %v", err)
		}
		cancel()
		if random.IntN(8) == 0 {
			time.Sleep(time.Duration(random.IntN(5000)) * time.Millisecond) // long enough to freeze
		}
	}
}

// allowed are the errors that a caller may see although it has time: failed
// starts, crash loops, a full queue.
func allowed(err error) bool {
	return errors.Is(err, orchestrator.ErrUnavailable) || errors.Is(err, orchestrator.ErrFunction) || errors.Is(err, orchestrator.ErrExhausted)
}

// disturb kills and evicts instances and changes the settings.
func disturb(h *harness, random *rand.Rand, end chan struct{}) {
	for {
		select {
		case <-end:
			return
		case <-time.After(time.Duration(random.IntN(700)) * time.Millisecond):
		}
		switch random.IntN(4) {
		case 0:
			h.mu.Lock()
			ids := make([]string, 0, len(h.alive))
			for id := range h.alive {
				ids = append(ids, id)
			}
			h.mu.Unlock()
			if len(ids) > 0 {
				slices.Sort(ids)
				id := ids[random.IntN(len(ids))]
				h.kill(id)
				h.Died(id, 137, false)
			}
		case 1:
			if v, ok := h.Victim(); ok {
				h.Evict(v.ID)
			}
		case 2:
			changed := *h.Release()
			changed.Spec.Scale.Max = 1 + random.IntN(5)
			changed.Spec.Scale.Min = random.IntN(2)
			h.Configure(changed)
		case 3:
			h.Tick()
		}
	}
}

// TestManyGoroutines does the same on real time and real parallelism, for the
// race detector.
func TestManyGoroutines(t *testing.T) {
	const concurrency = 4
	l := newLauncher(t)
	l.start, l.freeze, l.thaw, l.stop = time.Millisecond, 50*time.Microsecond, 50*time.Microsecond, 50*time.Microsecond
	strict := &strictLauncher{launcher: l, ledger: &ledger{t: t, l: l, concurrency: concurrency, inflight: map[string]int{}}}
	p := pool.New(&pool.Config{Launcher: strict}, release(concurrency, func(s *orchestrator.Spec) {
		s.Scale.Max = 3
		s.Scale.FreezeAfter = 1
	}))
	var work sync.WaitGroup
	for caller := range 24 {
		work.Go(func() {
			if caller > 1 { // most leave early, so that there are idle moments
				time.Sleep(time.Duration(caller) * time.Millisecond)
			}
			for i := range 400 / (1 + caller/2) {
				lease, err := p.Acquire(context.Background())
				if err != nil {
					t.Error(err)
					return
				}
				strict.ledger.enter(&lease)
				if i%16 == 0 {
					time.Sleep(100 * time.Microsecond)
				}
				strict.ledger.leave(&lease)
				lease.Release(pool.Done)
				if i%5 == 0 {
					time.Sleep(time.Millisecond)
				}
			}
		})
	}
	done := make(chan struct{})
	go func() {
		for {
			select {
			case <-done:
				return
			case <-time.After(200 * time.Microsecond):
				p.Tick() // freezes whatever is idle
			}
		}
	}()
	work.Wait()
	close(done)
	l.mu.Lock()
	t.Logf("%d freezes, %d thaws, %d launches", l.freezes, l.thaws, l.launched)
	l.mu.Unlock()
	if err := p.Close(t.Context()); err != nil {
		t.Error(err)
	}
}
