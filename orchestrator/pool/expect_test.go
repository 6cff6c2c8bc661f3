package pool_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/pool"
)

// TestExpectWakesOnce: a function that sleeps is started ahead of its call, and
// one that does not is left alone.
func TestExpectWakesOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		launcher := newLauncher(t)
		h := newHarness(t, launcher, release(1))
		if got := h.WakeTime(); got != time.Second {
			t.Errorf("wake time of a function that never started = %s, want a second", got)
		}
		h.Expect()
		h.Expect()
		time.Sleep(h.WakeTime())
		if launched, alive := h.count(); launched != 1 || alive != 1 {
			t.Errorf("%d launched and %d alive, want one", launched, alive)
		}
		h.Expect()
		lease := h.acquire(t.Context())
		if queue, _ := lease.Waited(); queue > 20*time.Millisecond {
			t.Errorf("the call waited for %s", queue)
		}
		lease.Release(pool.Done)
		if launched, _ := h.count(); launched != 1 {
			t.Errorf("%d launched, want one", launched)
		}
		if got, want := h.WakeTime(), 2*launcher.start+250*time.Millisecond; got < want || got > want+20*time.Millisecond {
			t.Errorf("wake time = %s, want about %s", got, want)
		}
	})
}

// TestExpectedStaysForItsCall: a start that took less than was allowed for it is
// there when the call comes, though the keep-alive is shorter, and not for ever.
func TestExpectedStaysForItsCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := release(1)
		r.Spec.Scale.KeepAlive = orchestrator.Duration(time.Second)
		launcher := newLauncher(t)
		launcher.start = 3 * time.Second // by the image
		h := newHarness(t, launcher, r)
		lease := h.acquire(t.Context())
		lease.Release(pool.Done)
		time.Sleep(time.Minute)
		if _, alive := h.count(); alive != 0 {
			t.Fatalf("%d alive, want none before the wake", alive)
		}
		lead := h.WakeTime()
		launcher.start = 20 * time.Millisecond // by a cell
		h.Expect()
		time.Sleep(lead)
		if launched, alive := h.count(); launched != 2 || alive != 1 {
			t.Errorf("%d launched and %d alive when the call is due, want two and one", launched, alive)
		}
		time.Sleep(time.Minute)
		if _, alive := h.count(); alive != 0 {
			t.Errorf("%d alive long after, want none", alive)
		}
	})
}
