package pool_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/capacity"
	"github.com/kilnfaas/kiln/orchestrator/pool"
)

// launcher is a scripted pool.Launcher that checks the contract it is used under.
type launcher struct {
	t        testing.TB
	start    time.Duration // how long Launch takes
	freeze   time.Duration
	thaw     time.Duration
	stop     time.Duration
	verify   time.Duration
	launchFn func(n int) error // fails the nth launch, from 1

	mu       sync.Mutex
	launched int
	alive    map[string]string // id -> "running" or "frozen"
	stopped  []string
	freezes  int
	thaws    int
	verified int
}

func newLauncher(t testing.TB) *launcher {
	return &launcher{t: t, start: 190 * time.Millisecond, freeze: 8 * time.Millisecond, thaw: 8 * time.Millisecond, stop: 50 * time.Millisecond, alive: map[string]string{}}
}

func pause(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (l *launcher) Launch(ctx context.Context, order pool.Order) (pool.Launched, error) {
	l.mu.Lock()
	l.launched++
	n := l.launched
	l.mu.Unlock()
	if err := pause(ctx, l.start); err != nil {
		return pool.Launched{}, err
	}
	if l.launchFn != nil {
		if err := l.launchFn(n); err != nil {
			return pool.Launched{}, err
		}
	}
	id := fmt.Sprintf("c%d", n)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.alive[id] = "running"
	return pool.Launched{ID: id, Addr: fmt.Sprintf("10.0.0.%d:8080", n), Origin: pool.OriginImage}, nil
}

func (l *launcher) Freeze(ctx context.Context, id string) error {
	l.mu.Lock()
	l.freezes++
	if l.alive[id] == "" {
		l.mu.Unlock()
		return orchestrator.Errorf(orchestrator.ErrNotFound, "container-not-found", "no container %s", id)
	}
	l.alive[id] = "frozen" // from the first instant on: nothing may be in flight
	l.mu.Unlock()
	return pause(ctx, l.freeze)
}

func (l *launcher) Thaw(ctx context.Context, id string) error {
	if err := pause(ctx, l.thaw); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.thaws++
	if l.alive[id] == "" {
		return orchestrator.Errorf(orchestrator.ErrNotFound, "container-not-found", "no container %s", id)
	}
	l.alive[id] = "running"
	return nil
}

func (l *launcher) Verify(ctx context.Context, _ orchestrator.Release, in pool.Launched) error {
	if err := pause(ctx, l.verify); err != nil {
		return nil // busy
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.verified++
	if l.alive[in.ID] == "" {
		return errors.New("connection refused")
	}
	return nil
}

func (l *launcher) Stop(ctx context.Context, id string, grace time.Duration) error {
	err := pause(ctx, l.stop)
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.alive, id)
	l.stopped = append(l.stopped, id)
	return err
}

// kill makes a container disappear, as a crash does.
func (l *launcher) kill(id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.alive, id)
}

// revive makes a container that takes requests.
func (l *launcher) revive(id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.alive[id] = "running"
}

func (l *launcher) state(id string) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.alive[id]
}

func (l *launcher) count() (launched, alive int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.launched, len(l.alive)
}

// release returns a release with c slots per instance.
func release(c int, change ...func(*orchestrator.Spec)) orchestrator.Release {
	spec := orchestrator.DefaultSpec()
	spec.Name, spec.Template, spec.Concurrency = "f", "python", c
	for _, f := range change {
		f(&spec)
	}
	return orchestrator.Release{Spec: spec, Revision: orchestrator.Revision{ID: "r1-abc", Function: "f", Number: 1, Image: "kiln/f:r1-abc"}}
}

// harness is a pool with a ticking clock. Use inside synctest.
type harness struct {
	*pool.Pool
	*launcher
	t    testing.TB
	stop chan struct{}
	done chan struct{}
}

func newHarness(t testing.TB, l *launcher, r orchestrator.Release, change ...func(*pool.Config)) *harness {
	config := pool.Config{Launcher: l, Capacity: capacity.New(capacity.Config{Starts: 4})}
	for _, f := range change {
		f(&config)
	}
	h := &harness{Pool: pool.New(&config, r), launcher: l, t: t, stop: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(h.done)
		ticker := time.NewTicker(time.Second)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
				h.Tick()
			case <-h.stop:
				return
			}
		}
	}()
	t.Cleanup(h.close)
	return h
}

func (h *harness) close() {
	close(h.stop)
	<-h.done
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := h.Pool.Close(ctx); err != nil {
		h.t.Errorf("close: %v", err)
	}
}

// acquire is Acquire that must succeed.
func (h *harness) acquire(ctx context.Context) pool.Lease {
	h.t.Helper()
	lease, err := h.Acquire(ctx)
	if err != nil {
		h.t.Fatalf("acquire: %v", err)
	}
	return lease
}

// call acquires, takes d, and releases.
func (h *harness) call(d time.Duration) {
	h.t.Helper()
	lease := h.acquire(context.Background())
	time.Sleep(d)
	lease.Release(pool.Done)
}
