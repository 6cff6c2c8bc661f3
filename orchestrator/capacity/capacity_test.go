package capacity_test

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
)

const mib = orchestrator.MiB

func TestStartsTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := capacity.New(capacity.Config{Starts: 1})
		var mu sync.Mutex
		var order []string
		var work sync.WaitGroup
		start := func(function string, priority capacity.Priority) {
			work.Go(func() {
				done, err := b.Start(t.Context(), function, priority)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				order = append(order, function)
				mu.Unlock()
				time.Sleep(time.Second)
				done()
			})
			synctest.Wait()
		}
		start("first", capacity.Caller)
		start("prewarm", capacity.Background)
		for range 3 {
			start("noisy", capacity.Caller)
		}
		start("quiet", capacity.Caller)
		start("other", capacity.Caller)
		if u := b.Usage(); u.Starting != 1 || u.WaitStart != 6 {
			t.Errorf("%+v", u)
		}
		work.Wait()
		want := []string{"first", "noisy", "quiet", "other", "noisy", "noisy", "prewarm"}
		if !slices.Equal(order, want) {
			t.Errorf("order %v, want %v", order, want)
		}
		if u := b.Usage(); u.Starting != 0 || u.WaitStart != 0 {
			t.Errorf("%+v", u)
		}
	})
}

// TestBackgroundMakesWayForCallers: cells and the like are made while no caller's
// start is under way, and never in all places, so that a burst of calls finds
// the engine free.
func TestBackgroundMakesWayForCallers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := capacity.New(capacity.Config{Starts: 4})
		granted := func(priority capacity.Priority) chan func() {
			c := make(chan func(), 1)
			go func() {
				done, err := b.Start(t.Context(), fmt.Sprint(priority), priority)
				if err != nil {
					t.Error(err)
				}
				c <- done
			}()
			synctest.Wait()
			return c
		}
		var cells, callers []chan func()
		for range 4 {
			cells = append(cells, granted(capacity.Background))
		}
		if n := b.Usage().Starting; n != 2 {
			t.Fatalf("%d cells start at a time, want half of 4", n)
		}
		for range 3 {
			callers = append(callers, granted(capacity.Caller))
		}
		for _, c := range cells[:2] {
			(<-c)()
		}
		synctest.Wait()
		if u := b.Usage(); u.Starting != 3 || u.WaitStart != 2 {
			t.Errorf("with callers under way: %+v, want the 3 of them and 2 cells waiting", u)
		}
		for i, c := range callers {
			(<-c)()
			synctest.Wait()
			if u := b.Usage(); i < 2 && u.WaitStart != 2 {
				t.Errorf("a cell started beside a caller: %+v", u)
			}
		}
		for _, c := range cells[2:] {
			(<-c)()
		}
		if u := b.Usage(); u.Starting != 0 || u.WaitStart != 0 {
			t.Errorf("%+v", u)
		}
	})
}

// TestStartsAreShared: as long as functions wait for starts, none has had more
// than one more than another, however many each asks for and in whatever order.
func TestStartsAreShared(t *testing.T) {
	for seed := range uint64(20) {
		synctest.Test(t, func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 0))
			var asked []string
			left := map[string]int{}
			for f := range 2 + random.IntN(4) {
				name := fmt.Sprint("f", f)
				left[name] = 1 + random.IntN(30)
				for range left[name] {
					asked = append(asked, name)
				}
			}
			random.Shuffle(len(asked), func(i, j int) { asked[i], asked[j] = asked[j], asked[i] })
			b := capacity.New(capacity.Config{Starts: 1})
			first, err := b.Start(t.Context(), "first", capacity.Caller)
			if err != nil {
				t.Fatal(err)
			}
			var mu sync.Mutex
			var order []string
			var work sync.WaitGroup
			for _, name := range asked {
				work.Go(func() {
					done, err := b.Start(t.Context(), name, capacity.Caller)
					if err != nil {
						t.Error(err)
						return
					}
					mu.Lock()
					order = append(order, name)
					mu.Unlock()
					done()
				})
				synctest.Wait()
			}
			first()
			work.Wait()
			had := map[string]int{}
			for _, name := range order {
				had[name]++
				left[name]--
				for f := range left {
					for g := range left {
						if left[f] > 0 && left[g] > 0 && had[f]-had[g] > 1 {
							t.Fatalf("seed %d: %s has had %d starts and %s %d, of %v", seed, f, had[f], g, had[g], order)
						}
					}
				}
			}
		})
	}
}

func TestStartGivesUpItsPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := capacity.New(capacity.Config{Starts: 1})
		done, err := b.Start(t.Context(), "f", capacity.Caller)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := b.Start(ctx, "g", capacity.Caller); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		done()
		if u := b.Usage(); u.Starting != 0 || u.WaitStart != 0 {
			t.Errorf("%+v", u)
		}
	})
}

// tenant has idle instances to give up.
type tenant struct {
	mu    sync.Mutex
	idle  map[string]*idle
	took  []string
	delay time.Duration
}

type idle struct {
	worth       float64
	reservation *capacity.Reservation
}

func (t *tenant) Victim() (capacity.Victim, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	best := capacity.Victim{}
	for id, i := range t.idle {
		if best.ID == "" || i.worth < best.Worth {
			best = capacity.Victim{ID: id, Worth: i.worth}
		}
	}
	return best, best.ID != ""
}

func (t *tenant) Evict(id string) *capacity.Reservation {
	t.mu.Lock()
	defer t.mu.Unlock()
	i := t.idle[id]
	if i == nil {
		return nil
	}
	delete(t.idle, id)
	t.took = append(t.took, id)
	go func() {
		time.Sleep(t.delay)
		i.reservation.Release()
	}()
	return i.reservation
}

func TestReserveEvictsTheLeastWorthy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := capacity.New(capacity.Config{Memory: 400 * mib})
		one, two := &tenant{idle: map[string]*idle{}, delay: time.Second}, &tenant{idle: map[string]*idle{}, delay: time.Second}
		b.Join(one)
		b.Join(two)
		for id, worth := range map[string]float64{"a": 1, "b": 3} {
			one.idle[id] = &idle{worth, b.Force(100 * mib)}
		}
		for id, worth := range map[string]float64{"c": 2, "d": 4} {
			two.idle[id] = &idle{worth, b.Force(100 * mib)}
		}
		begin := time.Now()
		r, err := b.Reserve(t.Context(), "f", 150*mib, capacity.Caller)
		if err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begin); took != time.Second {
			t.Errorf("took %v, want the second that ending two at once takes", took)
		}
		if !slices.Equal(one.took, []string{"a"}) || !slices.Equal(two.took, []string{"c"}) {
			t.Errorf("evicted %v and %v, want a and c", one.took, two.took)
		}
		if b.Clock() != 2 {
			t.Errorf("clock %v, want the worth of the last evicted", b.Clock())
		}
		if u := b.Usage(); u.Used != 350*mib || u.Evicted != 2 || u.WaitMemory != 0 {
			t.Errorf("%+v", u)
		}
		r.Release()
		r.Release()
		if u := b.Usage(); u.Used != 200*mib {
			t.Errorf("released twice: %+v", u)
		}
	})
}

func TestReserveInTheBackgroundEvictsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := capacity.New(capacity.Config{Memory: 100 * mib})
		other := &tenant{idle: map[string]*idle{"a": {1, b.Force(100 * mib)}}}
		b.Join(other)
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		if _, err := b.Reserve(ctx, "f", 100*mib, capacity.Background); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		if len(other.took) != 0 {
			t.Error("evicted")
		}
	})
}

func TestReserveWaitsForAnInstanceToBecomeIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := capacity.New(capacity.Config{Memory: 100 * mib})
		busy := b.Force(100 * mib)
		other := &tenant{idle: map[string]*idle{}}
		b.Join(other)
		go func() {
			time.Sleep(3 * time.Second)
			other.mu.Lock()
			defer other.mu.Unlock()
			other.idle["a"] = &idle{1, busy}
		}()
		begin := time.Now()
		r, err := b.Reserve(t.Context(), "f", 100*mib, capacity.Caller)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Release()
		if took := time.Since(begin); took < 3*time.Second || took > 3200*time.Millisecond {
			t.Errorf("took %v", took)
		}
	})
}

func TestReserveMoreThanThereIs(t *testing.T) {
	b := capacity.New(capacity.Config{EngineMemory: 1000 * mib})
	if u := b.Usage(); u.Memory != 800*mib {
		t.Errorf("budget %v of 1000MiB, want 80 %%", u.Memory)
	}
	_, err := b.Reserve(t.Context(), "f", 801*mib, capacity.Caller)
	var e *orchestrator.Error
	if !errors.As(err, &e) || e.Code != "no-capacity" || e.Class != orchestrator.ErrExhausted {
		t.Errorf("got %v", err)
	}
}

// TestBudgetUnderEverything checks that the bounds hold and that nothing is lost
// whatever happens at once.
func TestBudgetUnderEverything(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const total, starts = 1000 * mib, 3
		b := capacity.New(capacity.Config{Memory: total, Starts: starts})
		shared := &tenant{idle: map[string]*idle{}, delay: 50 * time.Millisecond}
		b.Join(shared)
		var work sync.WaitGroup
		for i := range 40 {
			random := rand.New(rand.NewPCG(9, uint64(i)))
			work.Go(func() {
				for n := range 30 {
					ctx, cancel := context.WithTimeout(t.Context(), time.Duration(1+random.IntN(3000))*time.Millisecond)
					memory := mib * orchestrator.Bytes(50+random.IntN(300))
					r, err := b.Reserve(ctx, fmt.Sprint("f", i%7), memory, capacity.Priority(random.IntN(2)))
					if err == nil {
						if done, err := b.Start(ctx, fmt.Sprint("f", i%7), capacity.Priority(random.IntN(2))); err == nil {
							time.Sleep(time.Duration(random.IntN(100)) * time.Millisecond)
							done()
						}
						if random.IntN(2) == 0 { // leave it idle
							shared.mu.Lock()
							shared.idle[fmt.Sprint(i, "-", n)] = &idle{random.Float64(), r}
							shared.mu.Unlock()
						} else {
							r.Release()
						}
					}
					if u := b.Usage(); u.Used > total || u.Used < 0 || u.Starting > starts || u.Starting < 0 {
						t.Errorf("%+v", u)
					}
					cancel()
				}
			})
		}
		work.Wait()
		time.Sleep(time.Second)
		shared.mu.Lock()
		for _, i := range shared.idle {
			i.reservation.Release()
		}
		shared.mu.Unlock()
		if u := b.Usage(); u.Used != 0 || u.Starting != 0 || u.WaitMemory != 0 || u.WaitStart != 0 {
			t.Errorf("when all is over: %+v", u)
		}
	})
}
