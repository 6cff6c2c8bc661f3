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
// which it has not made until proceed is called; nor any other container.
func underway(t *testing.T, failures ...error) (r *rig, proceed func()) {
	t.Helper()
	r = newRig(t)
	proceed = r.engine.Hold(enginetest.OpRun)
	r.engine.Fail(enginetest.OpRun, failures...)
	r.Serving(release())
	await(t, "the engine to make cells", func() bool { return r.engine.Calls(enginetest.OpRun) == 2 })
	return r, proceed
}

// origins launches as many instances at once. What it returns waits for them and
// counts where they came from.
func (r *rig) origins(t *testing.T, n int) (count func() map[string]int) {
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
	return func() map[string]int {
		t.Helper()
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
}

func TestStartsWaitForCellsThatAreBeingMade(t *testing.T) {
	r, proceed := underway(t)
	count := r.origins(t, 3)
	await(t, "the third to have a container made", func() bool { return r.engine.Calls(enginetest.OpRun) == 3 })
	proceed()
	if got := count(); got[pool.OriginCell] != 2 || got[pool.OriginImage] != 1 {
		t.Errorf("three starts while two cells are made: %v", got)
	}
}

func TestStartsGoOnWithoutCellsThatCannotBeMade(t *testing.T) {
	no := errors.New("no")
	r, proceed := underway(t, no, no)
	count := r.origins(t, 2)
	proceed()
	if got := count(); got[pool.OriginImage] != 2 {
		t.Errorf("two starts while the making of two cells fails: %v", got)
	}
}

func TestACellNobodyWaitsForAnyMoreIsKept(t *testing.T) {
	r, proceed := underway(t)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := r.Launch(ctx, pool.Order{Release: release()}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a start whose caller went: %v", err)
	}
	proceed()
	await(t, "both cells", func() bool { return r.Waiting()["python"] == 2 })
	if n := r.engine.Calls(enginetest.OpRun); n != 2 {
		t.Errorf("%d containers were made, want the two cells", n)
	}
	if got := r.origins(t, 2)(); got[pool.OriginCell] != 2 {
		t.Errorf("two starts with two cells: %v", got)
	}
}
