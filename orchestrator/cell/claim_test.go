package cell_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/kilnfaas/kiln/orchestrator/enginetest"
	"github.com/kilnfaas/kiln/orchestrator/pool"
)

// underway serves a function and returns when the engine makes its two cells,
// which takes it as long as given.
func underway(t *testing.T, takes time.Duration, failures ...error) *rig {
	t.Helper()
	r := newRig(t)
	r.engine.Delay(enginetest.OpRun, takes)
	r.engine.Fail(enginetest.OpRun, failures...)
	r.Serving(release())
	await(t, "the engine to make cells", func() bool { return r.engine.Calls(enginetest.OpRun) == 2 })
	return r
}

// origins launches as many instances at once and counts where they came from.
func (r *rig) origins(t *testing.T, n int) map[string]int {
	t.Helper()
	type outcome struct {
		launched pool.Launched
		err      error
	}
	done := make(chan outcome, n)
	for range n {
		go func() {
			launched, err := r.Launch(t.Context(), pool.Order{Release: release()})
			done <- outcome{launched, err}
		}()
	}
	got := map[string]int{}
	for range n {
		o := <-done
		if o.err != nil {
			t.Fatal(o.err)
		}
		got[o.launched.Origin]++
	}
	return got
}

func TestStartsWaitForCellsThatAreBeingMade(t *testing.T) {
	r := underway(t, 300*time.Millisecond)
	if got := r.origins(t, 3); got[pool.OriginCell] != 2 || got[pool.OriginImage] != 1 {
		t.Errorf("three starts while two cells are made: %v", got)
	}
}

func TestStartsGoOnWithoutCellsThatCannotBeMade(t *testing.T) {
	no := errors.New("no")
	r := underway(t, 100*time.Millisecond, no, no)
	if got := r.origins(t, 2); got[pool.OriginImage] != 2 {
		t.Errorf("two starts while the making of two cells fails: %v", got)
	}
}

func TestACellNobodyWaitsForAnyMoreIsKept(t *testing.T) {
	r := underway(t, 100*time.Millisecond)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := r.Launch(ctx, pool.Order{Release: release()}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a start whose caller went: %v", err)
	}
	await(t, "both cells", func() bool { return r.Waiting()["python"] == 2 })
	if n := r.engine.Calls(enginetest.OpRun); n != 2 {
		t.Errorf("%d containers were made, want the two cells", n)
	}
	if got := r.origins(t, 2); got[pool.OriginCell] != 2 {
		t.Errorf("two starts with two cells: %v", got)
	}
}
