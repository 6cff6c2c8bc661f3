package pool_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/pool"
)

func TestAcquireStartsFromZero(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t, newLauncher(t), release(2))
		lease := h.acquire(t.Context())
		queue, start := lease.Waited()
		if queue != 190*time.Millisecond || start != queue {
			t.Errorf("waited %v, of it %v for the start; want 190ms twice", queue, start)
		}
		if lease.Addr() != "10.0.0.1:8080" || lease.InstanceID() != "c1" {
			t.Errorf("lease on %s at %s", lease.InstanceID(), lease.Addr())
		}
		warm := h.acquire(t.Context())
		if queue, start := warm.Waited(); queue != 0 || start != 0 {
			t.Errorf("the second slot waited %v, %v", queue, start)
		}
		lease.Release(pool.Done)
		warm.Release(pool.Done)
		if launched, _ := h.count(); launched != 1 {
			t.Errorf("%d launches, want 1", launched)
		}
	})
}

func TestTryAcquireNeverWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t, newLauncher(t), release(1, func(s *orchestrator.Spec) { s.Scale.Max = 1 }))
		if _, ok := h.TryAcquire(); ok {
			t.Error("a slot of nothing")
		}
		time.Sleep(2 * time.Second)
		if launched, _ := h.count(); launched != 0 {
			t.Error("something was started")
		}
		h.call(0)
		lease, ok := h.TryAcquire()
		if !ok {
			t.Fatal("no slot of an idle instance")
		}
		if _, ok := h.TryAcquire(); ok {
			t.Error("a slot too many")
		}
		waited := make(chan pool.Lease)
		go func() { waited <- h.acquire(context.Background()) }()
		synctest.Wait()
		lease.Release(pool.Done)
		next := <-waited
		if s := h.Status(); s.InFlight != 1 || h.Stats().Acquired != 3 {
			t.Errorf("%+v, %+v", s, h.Stats())
		}
		next.Release(pool.Done)
		h.Drain()
		if _, ok := h.TryAcquire(); ok {
			t.Error("a slot of a pool that is draining")
		}
		<-h.Gone()
	})
}

func TestWarmPathDoesNotAllocate(t *testing.T) {
	for _, c := range []int{1, 16} {
		p := pool.New(&pool.Config{Launcher: &launcher{t: t, alive: map[string]string{}}}, release(c))
		if err := p.Prove(t.Context()); err != nil {
			t.Fatal(err)
		}
		ctx := context.Background()
		use := func() {
			lease, err := p.Acquire(ctx)
			if err != nil {
				t.Fatal(err)
			}
			lease.Release(pool.Done)
		}
		use()
		if n := testing.AllocsPerRun(1000, use); n != 0 {
			t.Errorf("concurrency %d: %v allocations a call, want 0", c, n)
		}
		if err := p.Close(ctx); err != nil {
			t.Fatal(err)
		}
	}
}

func BenchmarkAcquireRelease(b *testing.B) {
	p := pool.New(&pool.Config{Launcher: &launcher{t: b, alive: map[string]string{}}}, release(64))
	if err := p.Prove(b.Context()); err != nil {
		b.Fatal(err)
	}
	defer p.Close(context.Background())
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			lease, err := p.Acquire(context.Background())
			if err != nil {
				b.Error(err)
				return
			}
			lease.Release(pool.Done)
		}
	})
}
