package pool_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/pool"
)

// broken has a call end with a broken connection.
func (h *harness) broken() string {
	h.t.Helper()
	lease := h.acquire(context.Background())
	id := lease.InstanceID()
	lease.Release(pool.Broken)
	return id
}

// TestBrokenConnectionOfADyingInstance: between a death and the engine's word of
// it no request is given the dying instance, and one that waits gets another.
func TestBrokenConnectionOfADyingInstance(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLauncher(t)
		l.verify = 5 * time.Millisecond
		h := newHarness(t, l, release(4))
		h.call(time.Millisecond)
		l.kill("c1")
		if id := h.broken(); id != "c1" {
			t.Fatalf("the call was on %s", id)
		}
		if _, ok := h.TryAcquire(); ok {
			t.Fatal("a slot of the doubted instance was given")
		}
		lease := h.acquire(t.Context())
		if got := lease.InstanceID(); got != "c2" {
			t.Errorf("the next call got %s, want a new instance", got)
		}
		lease.Release(pool.Done)
		h.Died("c1", 137, false) // too late to matter
		h.call(time.Millisecond)
		if launched, _ := h.count(); launched != 2 {
			t.Errorf("%d starts, want 2", launched)
		}
	})
}

// TestBrokenConnectionOfALivingInstance: an instance that merely closed a
// connection serves again, and nothing was started instead of it.
func TestBrokenConnectionOfALivingInstance(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLauncher(t)
		l.verify = 5 * time.Millisecond
		h := newHarness(t, l, release(4))
		other := h.acquire(t.Context()) // goes on all the while
		h.broken()
		lease := h.acquire(t.Context())
		if queue, _ := lease.Waited(); lease.InstanceID() != "c1" || queue != l.verify {
			t.Errorf("got %s after %s, want c1 after %s", lease.InstanceID(), queue, l.verify)
		}
		lease.Release(pool.Done)
		other.Release(pool.Done)
		if launched, _ := h.count(); launched != 1 {
			t.Errorf("%d starts, want 1", launched)
		}
		if s := h.Status(); s.Ready != 1 || s.InFlight != 0 || s.CrashLoop != nil {
			t.Errorf("%+v", s)
		}
	})
}

// TestBusyInstanceIsNotHeldBackForLong: one that does not answer in time is busy.
func TestBusyInstanceIsNotHeldBackForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLauncher(t)
		l.verify = time.Hour
		h := newHarness(t, l, release(1))
		h.broken()
		lease := h.acquire(t.Context())
		if queue, _ := lease.Waited(); lease.InstanceID() != "c1" || queue > time.Second {
			t.Errorf("got %s after %s", lease.InstanceID(), queue)
		}
		lease.Release(pool.Done)
	})
}

// TestTheEngineEndsADoubt: its word comes while the instance is looked at.
func TestTheEngineEndsADoubt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLauncher(t)
		l.verify = 100 * time.Millisecond
		h := newHarness(t, l, release(4))
		h.broken()
		l.kill("c1")
		h.Died("c1", 1, false)
		lease := h.acquire(t.Context())
		if queue, _ := lease.Waited(); lease.InstanceID() != "c2" || queue != l.start {
			t.Errorf("got %s after %s, want c2 after %s", lease.InstanceID(), queue, l.start)
		}
		lease.Release(pool.Done)
		if s := h.Stats(); s.Died != 1 || s.Failed != 1 {
			t.Errorf("%+v", s)
		}
	})
}

// TestADeathCountsOnce: the broken connection and the engine's event tell of one
// death, so that a function that fails once in a while is in no crash loop.
func TestADeathCountsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLauncher(t)
		l.verify, l.stop = time.Millisecond, time.Second
		h := newHarness(t, l, release(1))
		lease := h.acquire(t.Context())
		l.kill("c1")
		lease.Release(pool.Broken)
		time.Sleep(10 * time.Millisecond)
		h.Died("c1", 1, false)
		if s := h.Status(); s.CrashLoop != nil {
			t.Errorf("one death is a crash loop: %+v", s.CrashLoop)
		}
		if s := h.Stats(); s.Died != 1 {
			t.Errorf("%d deaths, want 1", s.Died)
		}
	})
}

// TestDrainWhileInDoubt: a replaced pool ends the instance whatever it is.
func TestDrainWhileInDoubt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLauncher(t)
		l.verify = 100 * time.Millisecond
		h := newHarness(t, l, release(1, func(s *orchestrator.Spec) { s.Scale.Min = 1 }))
		h.broken()
		h.Drain()
		<-h.Gone()
		if _, alive := h.count(); alive != 0 {
			t.Errorf("%d instances are left", alive)
		}
	})
}

// TestAdoptedWhileStarting: a gateway that died while an instance was starting
// leaves one that runs and is not ready yet. Callers wait for it; nothing is
// started beside it.
func TestAdoptedWhileStarting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLauncher(t)
		h := newHarness(t, l, release(1))
		if !h.Adopt(pool.Launched{ID: "c9", Addr: "10.0.0.9:8080", Origin: pool.OriginAdopted}, false, time.Now()) {
			t.Fatal("not adopted")
		}
		time.AfterFunc(3*time.Second, func() { l.revive("c9") })
		lease := h.acquire(t.Context())
		if queue, _ := lease.Waited(); lease.InstanceID() != "c9" || queue < 2900*time.Millisecond || queue > 3100*time.Millisecond {
			t.Errorf("got %s after %s, want c9 after 3s", lease.InstanceID(), queue)
		}
		lease.Release(pool.Done)
		if launched, _ := h.count(); launched != 0 {
			t.Errorf("%d starts, want none", launched)
		}
	})
}

// TestAdoptedAndNeverReady: what does not come up in the time of a start is
// replaced; the time counts from its container's start.
func TestAdoptedAndNeverReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLauncher(t)
		h := newHarness(t, l, release(1, func(s *orchestrator.Spec) { s.Timeout = orchestrator.Duration(time.Hour) }))
		h.Adopt(pool.Launched{ID: "c9", Addr: "10.0.0.9:8080", Origin: pool.OriginAdopted}, false, time.Now().Add(-50*time.Second))
		lease := h.acquire(t.Context())
		if queue, _ := lease.Waited(); lease.InstanceID() != "c1" || queue < 10*time.Second || queue > 11*time.Second {
			t.Errorf("got %s after %s, want c1 after some 10s", lease.InstanceID(), queue)
		}
		lease.Release(pool.Done)
	})
}
