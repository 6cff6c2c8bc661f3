package pool_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/capacity"
	"github.com/kilnfaas/kiln/orchestrator/pool"
)

// codeOf returns the class and code of an error for a client.
func codeOf(err error) string {
	var e *orchestrator.Error
	if errors.As(err, &e) {
		return fmt.Sprintf("%v/%s", e.Class, e.Code)
	}
	return fmt.Sprint(err)
}

func TestQueueIsFIFOAndHandsSlotsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t, newLauncher(t), release(1, func(s *orchestrator.Spec) { s.Scale.Max = 1 }))
		first := h.acquire(t.Context())
		var mu sync.Mutex
		var order []int
		var work sync.WaitGroup
		for i := range 5 {
			work.Go(func() {
				lease := h.acquire(context.Background())
				mu.Lock()
				order = append(order, i)
				mu.Unlock()
				time.Sleep(10 * time.Millisecond)
				lease.Release(pool.Done)
			})
			synctest.Wait() // each is in the queue before the next comes
		}
		if s := h.Status(); s.Waiting != 5 || s.InFlight != 1 {
			t.Errorf("waiting %d, in flight %d", s.Waiting, s.InFlight)
		}
		first.Release(pool.Done)
		// A newcomer does not overtake.
		late := h.acquire(t.Context())
		if queue, start := late.Waited(); queue != 50*time.Millisecond || start != 0 {
			t.Errorf("the newcomer waited %v (start %v), want 50ms behind the others", queue, start)
		}
		late.Release(pool.Done)
		work.Wait()
		if !slices.Equal(order, []int{0, 1, 2, 3, 4}) {
			t.Errorf("served in the order %v", order)
		}
	})
}

func TestQueueIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t, newLauncher(t), release(1, func(s *orchestrator.Spec) { s.Scale.Max = 1 }))
		lease := h.acquire(t.Context())
		var work sync.WaitGroup
		for range 10 {
			work.Go(func() {
				l := h.acquire(context.Background())
				l.Release(pool.Done)
			})
		}
		synctest.Wait()
		soon, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := h.Acquire(soon)
		if got, want := codeOf(err), "exhausted/queue-full"; got != want {
			t.Errorf("got %v, want %v", got, want)
		}
		var e *orchestrator.Error
		if errors.As(err, &e) && e.RetryAfter < time.Second {
			t.Errorf("retry after %v", e.RetryAfter)
		}
		lease.Release(pool.Done)
		work.Wait()
		if s := h.Stats(); s.Shed != 1 || s.Acquired != 11 {
			t.Errorf("%+v", s)
		}
	})
}

func TestShedsWhatWouldWaitTooLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t, newLauncher(t), release(1, func(s *orchestrator.Spec) { s.Scale.Max = 1 }))
		h.call(2 * time.Second) // d is known now
		lease := h.acquire(t.Context())
		soon, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		begin := time.Now()
		_, err := h.Acquire(soon)
		if got, want := codeOf(err), "exhausted/overloaded"; got != want {
			t.Errorf("got %v, want %v", got, want)
		}
		if took := time.Since(begin); took != 0 {
			t.Errorf("refused after %v, want at once", took)
		}
		lease.Release(pool.Done)
	})
}

// TestSlowStartsAreForgotten: starts that took longer than requests may wait, as
// on a machine that was too busy for a while, must not have every later request
// refused for good.
func TestSlowStartsAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLauncher(t)
		l.start = 20 * time.Second
		h := newHarness(t, l, release(1, func(s *orchestrator.Spec) {
			s.Scale.Max, s.Scale.KeepAlive = 1, orchestrator.Duration(2*time.Second)
		}))
		h.call(0)
		time.Sleep(10 * time.Second)
		if s := h.Status(); len(s.Instances) > 0 {
			t.Fatalf("the instance is still there: %+v", s)
		}
		l.start = 100 * time.Millisecond
		soon, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		lease, err := h.Acquire(soon)
		if err != nil {
			t.Fatalf("refused for what earlier starts took: %v", err)
		}
		lease.Release(pool.Done)
	})
}

func TestDeadlineAndCancelLeaveTheQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t, newLauncher(t), release(1, func(s *orchestrator.Spec) { s.Scale.Max = 1 }))
		lease := h.acquire(t.Context())
		soon, cancelSoon := context.WithTimeout(t.Context(), time.Second)
		defer cancelSoon()
		begin := time.Now()
		if _, err := h.Acquire(soon); codeOf(err) != "deadline exceeded/deadline-in-queue" {
			t.Errorf("got %v", codeOf(err))
		}
		if took := time.Since(begin); took != time.Second {
			t.Errorf("it waited for %v, want its second", took)
		}
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			time.Sleep(time.Second)
			cancel()
		}()
		if _, err := h.Acquire(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		if s := h.Status(); s.Waiting != 0 {
			t.Errorf("%d still wait", s.Waiting)
		}
		lease.Release(pool.Done)
		again := h.acquire(t.Context())
		again.Release(pool.Done)
	})
}

func TestBurstStartsAsManyAsNeeded(t *testing.T) {
	tests := []struct {
		name        string
		concurrency int
		max         int
		calls       int
		want        int
	}{
		{"one each", 1, 10, 4, 4},
		{"honours max", 1, 3, 8, 3},
		{"shared", 16, 10, 32, 2},
		{"single flight", 64, 10, 10, 1},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHarness(t, newLauncher(t), release(test.concurrency, func(s *orchestrator.Spec) { s.Scale.Max = test.max }))
				var work sync.WaitGroup
				for range test.calls {
					work.Go(func() { h.call(500 * time.Millisecond) }) // over before the windows have a say
				}
				work.Wait()
				if launched, _ := h.count(); launched != test.want {
					t.Errorf("%d launches, want %d", launched, test.want)
				}
			})
		})
	}
}

func TestSaturatedMachineStartsNoMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t, newLauncher(t), release(1), func(c *pool.Config) {
			c.Capacity = capacity.New(capacity.Config{Saturated: func() bool { return true }})
		})
		h.call(time.Second) // from zero one is started all the same
		var work sync.WaitGroup
		for range 5 {
			work.Go(func() { h.call(time.Second) })
		}
		work.Wait()
		if launched, _ := h.count(); launched != 1 {
			t.Errorf("%d launches, want 1", launched)
		}
	})
}

func TestMemoryShortEndsInNoCapacity(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		budget := capacity.New(capacity.Config{Memory: 128 * orchestrator.MiB})
		share := func(c *pool.Config) { c.Capacity = budget }
		busy := newHarness(t, newLauncher(t), release(1), share)
		lease := busy.acquire(t.Context())

		h := newHarness(t, newLauncher(t), release(1), share)
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		if _, err := h.Acquire(ctx); codeOf(err) != "exhausted/no-capacity" {
			t.Errorf("got %v", codeOf(err))
		}
		if s := h.Status(); s.Starting != 0 {
			t.Errorf("a start that nobody waits for goes on")
		}
		// Once the other is idle, it makes room.
		lease.Release(pool.Done)
		begin := time.Now()
		h.call(0)
		if took := time.Since(begin); took > time.Second {
			t.Errorf("took %v to evict and start", took)
		}
		if _, alive := busy.count(); alive != 0 {
			t.Error("the idle instance was not evicted")
		}
	})
}
