package pool_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kilnfaas/kiln/orchestrator/pool"
)

// await asks for a fate and says how long the answer took.
func await(fate pool.Fate, patience time.Duration) (pool.End, bool, time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	begin := time.Now()
	end, ok := fate.Await(ctx)
	return end, ok, time.Since(begin)
}

// TestFate: a call that broke learns from the engine how the instance ended, and
// waits for nobody when it lives.
func TestFate(t *testing.T) {
	const verify, word = time.Millisecond, 30 * time.Millisecond
	for name, tt := range map[string]struct {
		before, after func(h *harness, l *launcher)
		want          pool.End
		ok            bool
		took          time.Duration
	}{
		"the engine knows already": {
			before: func(h *harness, l *launcher) { l.kill("c1"); h.Died("c1", 137, true) },
			want:   pool.End{ExitCode: 137, OOM: true}, ok: true,
		},
		"the engine tells later": {
			before: func(h *harness, l *launcher) { l.kill("c1") },
			after: func(h *harness, l *launcher) {
				time.Sleep(word)
				h.Died("c1", 3, false)
			},
			want: pool.End{ExitCode: 3}, ok: true, took: word,
		},
		"it lives": {took: verify},
		"it is gone and nobody tells": {
			before: func(h *harness, l *launcher) { l.kill("c1") },
			took:   verify + time.Second, // until it has been removed
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLauncher(t)
				l.verify, l.stop = verify, time.Second
				h := newHarness(t, l, release(4))
				lease := h.acquire(t.Context())
				if tt.before != nil {
					tt.before(h, l)
				}
				fate := lease.Fate()
				lease.Release(pool.Broken)
				if tt.after != nil {
					go tt.after(h, l)
				}
				end, ok, took := await(fate, time.Minute)
				if end != tt.want || ok != tt.ok || took != tt.took {
					t.Errorf("got %+v, %t after %s; want %+v, %t after %s", end, ok, took, tt.want, tt.ok, tt.took)
				}
			})
		})
	}
}

// TestFateIsNotWaitedForForEver: an instance that is too busy to be looked at.
func TestFateIsNotWaitedForForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLauncher(t)
		l.verify = 400 * time.Millisecond
		h := newHarness(t, l, release(4))
		lease := h.acquire(t.Context())
		fate := lease.Fate()
		lease.Release(pool.Broken)
		if _, ok, took := await(fate, 100*time.Millisecond); ok || took != 100*time.Millisecond {
			t.Errorf("got %t after %s", ok, took)
		}
	})
}
