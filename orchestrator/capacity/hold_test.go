package capacity_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kilnfaas/kiln/orchestrator/capacity"
)

// crowd keeps six claims of 100 MiB coming until the context ends, each held for
// half a second; it returns how many were served.
func crowd(ctx context.Context, t *testing.T, b *capacity.Budget, priority capacity.Priority) (served *atomic.Int64, wait func()) {
	served = new(atomic.Int64)
	var work sync.WaitGroup
	for i := range 6 {
		work.Go(func() {
			time.Sleep(time.Duration(i) * 83 * time.Millisecond) // so that never much is free
			for ctx.Err() == nil {
				r, err := b.Reserve(ctx, fmt.Sprint("small", i), 100*mib, priority)
				if err != nil {
					if ctx.Err() == nil {
						t.Error(err)
					}
					return
				}
				served.Add(1)
				time.Sleep(500 * time.Millisecond)
				r.Release()
			}
		})
	}
	return served, work.Wait
}

// hopeless claims all memory, of which some is never free, until the context ends.
func hopeless(ctx context.Context, t *testing.T, b *capacity.Budget, priority capacity.Priority) (wait func()) {
	var claim sync.WaitGroup
	claim.Go(func() {
		if _, err := b.Reserve(ctx, "hopeless", 400*mib, priority); err == nil {
			t.Error("there was room for all")
		}
	})
	return claim.Wait
}

// TestLargeClaimIsPassedForAWhileOnly by smaller ones that never end.
func TestLargeClaimIsPassedForAWhileOnly(t *testing.T) {
	for _, priority := range []capacity.Priority{capacity.Caller, capacity.Background} {
		synctest.Test(t, func(t *testing.T) {
			b := capacity.New(capacity.Config{Memory: 400 * mib})
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			served, wait := crowd(ctx, t, b, priority)
			time.Sleep(time.Second)
			begin, before := time.Now(), served.Load()
			r, err := b.Reserve(ctx, "large", 400*mib, priority)
			if err != nil {
				t.Fatalf("priority %d: %v, after %d small ones had passed", priority, err, served.Load()-before)
			}
			if took := time.Since(begin); took < time.Second || took > 2*time.Second {
				t.Errorf("priority %d: took %s, want the second of patience and what those before take to end", priority, took)
			}
			r.Release()
			cancel()
			wait()
		})
	}
}

// TestLargeClaimsHoldTheOthersUpByTurns: three that nothing can serve, whose callers
// come again and again, leave the others half of the time.
func TestLargeClaimsHoldTheOthersUpByTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const total = 60 * time.Second
		alone := func(claims int) int64 {
			b := capacity.New(capacity.Config{Memory: 400 * mib})
			defer b.Force(100 * mib).Release() // never ends
			ctx, cancel := context.WithTimeout(t.Context(), total)
			defer cancel()
			served, wait := crowd(ctx, t, b, capacity.Caller)
			var work sync.WaitGroup
			for i := range claims {
				work.Go(func() {
					for ctx.Err() == nil {
						call, end := context.WithTimeout(ctx, time.Duration(5+i)*time.Second)
						if _, err := b.Reserve(call, fmt.Sprint("large", i), 400*mib, capacity.Caller); err == nil {
							t.Error("there was room for all")
						}
						end()
					}
				})
			}
			work.Wait()
			wait()
			return served.Load()
		}
		all := alone(0)
		if half := alone(3); half < all*2/5 || half > all*4/5 {
			t.Errorf("%d were served beside claims that nothing can serve and %d without; want about half", half, all)
		}
	})
}

// TestHoldsHaveTurns: one that nothing can serve, and came first, does not keep
// another from its own.
func TestHoldsHaveTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := capacity.New(capacity.Config{Memory: 400 * mib})
		defer b.Force(100 * mib).Release()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, wait := crowd(ctx, t, b, capacity.Caller)
		gaveUp := hopeless(ctx, t, b, capacity.Caller)
		time.Sleep(time.Second)
		begin := time.Now()
		r, err := b.Reserve(ctx, "large", 300*mib, capacity.Caller)
		if took := time.Since(begin); err != nil || took > 10*time.Second {
			t.Errorf("took %s, %v; want one hold and one rest before its own", took, err)
		}
		r.Release()
		cancel()
		gaveUp()
		wait()
	})
}

// TestHoldEnds with its time, and with the claim that has it, though nothing
// becomes free then.
func TestHoldEnds(t *testing.T) {
	for _, tt := range []struct{ deadline, want time.Duration }{
		{time.Minute, 4 * time.Second},
		{2 * time.Second, 2 * time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			b := capacity.New(capacity.Config{Memory: 400 * mib})
			defer b.Force(100 * mib).Release()
			ctx, cancel := context.WithTimeout(t.Context(), tt.deadline)
			defer cancel()
			gaveUp := hopeless(ctx, t, b, capacity.Caller)
			synctest.Wait()
			begin := time.Now()
			for _, want := range []time.Duration{0, tt.want} {
				r, err := b.Reserve(t.Context(), "small", 100*mib, capacity.Caller)
				if took := time.Since(begin); err != nil || took < want || took > want+300*time.Millisecond {
					t.Errorf("a small claim was served after %s, %v; want %s", took, err, want)
				}
				r.Release()
				time.Sleep(1500 * time.Millisecond)
			}
			cancel()
			gaveUp()
		})
	}
}

// TestCallersPassAHold of work in the background.
func TestCallersPassAHold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := capacity.New(capacity.Config{Memory: 400 * mib})
		defer b.Force(100 * mib).Release()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, wait := crowd(ctx, t, b, capacity.Background)
		gaveUp := hopeless(ctx, t, b, capacity.Background)
		for range 20 {
			time.Sleep(time.Second)
			begin := time.Now()
			r, err := b.Reserve(ctx, "caller", 100*mib, capacity.Caller)
			if took := time.Since(begin); err != nil || took > 500*time.Millisecond {
				t.Errorf("a caller waited %s: %v", took, err)
			}
			r.Release()
		}
		cancel()
		gaveUp()
		wait()
	})
}
