package pool_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/pool"
)

func TestIdleFreezesThenGoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t, newLauncher(t), release(1))
		h.call(time.Second)
		steps := []struct {
			after time.Duration // of idleness
			state string
		}{{4 * time.Second, "running"}, {7 * time.Second, "frozen"}, {9 * time.Minute, "frozen"}, {10*time.Minute + 3*time.Second, ""}}
		idleSince := time.Now()
		for _, step := range steps {
			time.Sleep(step.after - time.Since(idleSince))
			if got := h.state("c1"); got != step.state {
				t.Errorf("after %v: %q, want %q", step.after, got, step.state)
			}
		}
		if s := h.Status(); len(s.Instances) != 0 {
			t.Errorf("left: %+v", s)
		}
	})
}

func TestNeverFreeze(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t, newLauncher(t), release(1), func(c *pool.Config) { c.NeverFreeze = true })
		h.call(0)
		time.Sleep(time.Minute)
		if h.freezes != 0 || h.Status().Ready != 1 {
			t.Errorf("%d freezes, %+v", h.freezes, h.Status())
		}
	})
}

func TestKeepAliveOfTheOwner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t, newLauncher(t), release(1, func(s *orchestrator.Spec) {
			s.Scale.FreezeAfter, s.Scale.KeepAlive = 0, orchestrator.Duration(2*time.Second)
		}))
		for range 20 { // enough samples for the histogram, which does not count here
			h.call(time.Millisecond)
			time.Sleep(100 * time.Millisecond)
		}
		time.Sleep(4 * time.Second)
		if launched, alive := h.count(); launched != 1 || alive != 0 || h.freezes != 0 {
			t.Errorf("launched %d, alive %d, froze %d times", launched, alive, h.freezes)
		}
	})
}

func TestThawOnAcquire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t, newLauncher(t), release(1))
		h.call(time.Second)
		time.Sleep(8 * time.Second)
		lease := h.acquire(t.Context())
		if queue, start := lease.Waited(); queue != 8*time.Millisecond || start != queue {
			t.Errorf("waited %v, %v; want the 8ms of a thaw", queue, start)
		}
		if h.state("c1") != "running" {
			t.Error("lease on a frozen instance")
		}
		lease.Release(pool.Done)
		if launched, _ := h.count(); launched != 1 {
			t.Errorf("%d launches", launched)
		}
	})
}

func TestRequestDuringFreezeWaitsForIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLauncher(t)
		l.freeze = 2 * time.Second
		h := newHarness(t, l, release(1))
		h.call(0)
		for h.Status().Ready > 0 {
			time.Sleep(100 * time.Millisecond)
		}
		lease := h.acquire(t.Context()) // in the middle of the freeze
		if h.state("c1") != "running" {
			t.Error("lease on a frozen instance")
		}
		if queue, _ := lease.Waited(); queue > 2100*time.Millisecond {
			t.Errorf("waited %v", queue)
		}
		lease.Release(pool.Done)
		if launched, _ := h.count(); launched != 1 {
			t.Errorf("%d launches: a freeze under way is no reason to start", launched)
		}
	})
}

func TestFreezeThatFailsKeepsTheInstance(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &failingFreezer{launcher: newLauncher(t)}
		h := newHarness(t, l.launcher, release(1), func(c *pool.Config) { c.Launcher = l })
		h.call(0)
		time.Sleep(7 * time.Second)
		lease := h.acquire(t.Context())
		lease.Release(pool.Done)
		if launched, _ := h.count(); launched != 1 || h.freezes == 0 {
			t.Errorf("%d launches, %d freezes", launched, h.freezes)
		}
	})
}

type failingFreezer struct{ *launcher }

func (f *failingFreezer) Freeze(ctx context.Context, id string) error {
	f.launcher.Freeze(ctx, id)
	return errors.New("the engine is busy")
}

func TestMinimumIsKeptAndReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t, newLauncher(t), release(1, func(s *orchestrator.Spec) { s.Scale.Min = 2 }))
		time.Sleep(3 * time.Second)
		if s := h.Status(); s.Ready != 2 {
			t.Fatalf("%+v", s)
		}
		time.Sleep(time.Hour)
		if s := h.Status(); s.Ready != 2 || s.Frozen != 0 {
			t.Errorf("after an hour: %+v", s)
		}
		h.kill("c1")
		h.Died("c1", 1, false)
		time.Sleep(3 * time.Second)
		if launched, alive := h.count(); launched != 3 || alive != 2 {
			t.Errorf("launched %d, alive %d", launched, alive)
		}
		changed := *h.Release()
		changed.Spec.Scale.Min = 0
		h.Configure(changed)
		time.Sleep(time.Hour)
		if _, alive := h.count(); alive != 0 {
			t.Errorf("%d alive without a minimum", alive)
		}
	})
}

func TestLowerMaximumEndsTheSurplus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t, newLauncher(t), release(1))
		var work sync.WaitGroup
		for range 4 {
			work.Go(func() { h.call(time.Second) })
		}
		work.Wait()
		changed := *h.Release()
		changed.Spec.Scale.Max = 1
		h.Configure(changed)
		time.Sleep(3 * time.Second)
		if _, alive := h.count(); alive != 1 {
			t.Errorf("%d alive, want 1", alive)
		}
	})
}

func TestDeathGivesWaitersAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t, newLauncher(t), release(1, func(s *orchestrator.Spec) { s.Scale.Max = 1 }))
		lease := h.acquire(t.Context())
		time.Sleep(time.Minute) // long enough not to count as a failed start
		got := make(chan pool.Lease)
		go func() { got <- h.acquire(context.Background()) }()
		synctest.Wait()
		h.kill("c1")
		if !h.Died("c1", 137, true) || h.Died("c99", 0, false) {
			t.Error("wrong about whose it is")
		}
		next := <-got
		if next.InstanceID() == "c1" {
			t.Error("lease on a dead instance")
		}
		lease.Release(pool.Failed)
		next.Release(pool.Done)
		if s := h.Stats(); s.Died != 1 || s.Failed != 1 {
			t.Errorf("%+v", s)
		}
	})
}

func TestDeathToldBeforeTheStartReturned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t, newLauncher(t), release(1))
		got := make(chan pool.Lease)
		go func() { got <- h.acquire(context.Background()) }()
		synctest.Wait()
		h.Died("c1", 1, false)
		lease := <-got
		if lease.InstanceID() != "c2" {
			t.Errorf("lease on %s", lease.InstanceID())
		}
		lease.Release(pool.Done)
	})
}

func TestAdoptedWhileItsStartEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLauncher(t)
		h := newHarness(t, l, release(1))
		l.launchFn = func(n int) error { // the engine lists it before the start has returned
			h.Adopt(pool.Launched{ID: "c1", Addr: "10.0.0.1:8080", Origin: pool.OriginAdopted}, false, time.Now())
			return nil
		}
		h.call(time.Second)
		synctest.Wait()
		if s := h.Status(); len(s.Instances) != 1 || s.Ready != 1 {
			t.Errorf("one container as %d instances: %+v", len(s.Instances), s)
		}
	})
}

func TestUnreachableLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t, newLauncher(t), release(2))
		one, two := h.acquire(t.Context()), h.acquire(t.Context())
		one.Release(pool.Unreachable)
		if s := h.Status(); s.Ready != 0 || s.Draining != 1 {
			t.Errorf("%+v", s)
		}
		next := h.acquire(t.Context())
		if next.InstanceID() == "c1" {
			t.Error("lease on a suspect instance")
		}
		two.Release(pool.Done)
		next.Release(pool.Done)
		time.Sleep(time.Second)
		if h.state("c1") != "" {
			t.Error("the suspect was not stopped")
		}
	})
}

func TestAnAddressHasOneInstance(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t, newLauncher(t), release(1))
		h.call(time.Second)
		h.Displaced("10.0.0.1:8080", "c1")
		h.Displaced("10.0.0.2:8080", "other")
		if s := h.Status(); s.Ready != 1 {
			t.Errorf("taken out without a reason: %+v", s)
		}
		h.Displaced("10.0.0.1:8080", "other")
		lease := h.acquire(t.Context())
		if lease.Addr() == "10.0.0.1:8080" {
			t.Error("a request goes to where another container is")
		}
		lease.Release(pool.Done)
	})
}

// telling is a launcher whose engine tells of each end, also of those it was
// asked for.
type telling struct {
	*launcher
	died func(id string)
}

func (l telling) Stop(ctx context.Context, id string, grace time.Duration) error {
	l.died(id)
	return l.launcher.Stop(ctx, id, grace)
}

// reasons notes why instances ended.
type reasons struct {
	pool.NoObserver
	ended chan string
}

func (r reasons) Ended(_, reason string) { r.ended <- reason }

func TestEndedTellsWhy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var h *harness
		l, why := newLauncher(t), reasons{ended: make(chan string, 2)}
		h = newHarness(t, l, release(1), func(c *pool.Config) {
			c.Observer = why
			c.Launcher = telling{l, func(id string) { h.Died(id, 143, false) }}
		})
		h.call(time.Second)
		time.Sleep(11 * time.Minute)
		if got := <-why.ended; got != pool.ReasonIdle {
			t.Errorf("an idle instance ended for the reason %q", got)
		}
		h.call(time.Second)
		h.Died("c2", 1, false)
		if got := <-why.ended; got != pool.ReasonDied {
			t.Errorf("one that died ended for the reason %q", got)
		}
	})
}

func TestCrashLoopBacksOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLauncher(t)
		broken := true
		l.launchFn = func(int) error {
			if !broken {
				return nil
			}
			e := orchestrator.Errorf(orchestrator.ErrFunction, "instance-start-failed", "it ended with exit code 1")
			e.Output = []string{"ImportError"}
			return e
		}
		h := newHarness(t, l, release(1))
		for i, want := range []string{"instance-start-failed", "instance-start-failed", "crash-loop", "crash-loop"} {
			_, err := h.Acquire(t.Context())
			if codeOf(err) != "function failed/"+want {
				t.Errorf("call %d: %v, want %s", i+1, codeOf(err), want)
			}
			var e *orchestrator.Error
			if errors.As(err, &e) && strings.Join(e.Output, "") != "ImportError" {
				t.Errorf("call %d: output %q", i+1, e.Output)
			}
		}
		if launched, _ := h.count(); launched != 2 {
			t.Errorf("%d launches, want 2", launched)
		}
		for range 600 { // somebody tries once a second for ten minutes
			if lease, err := h.Acquire(t.Context()); err == nil {
				lease.Release(pool.Done)
			}
			time.Sleep(time.Second)
		}
		if launched, _ := h.count(); launched < 10 || launched > 20 {
			t.Errorf("%d launches in ten minutes, want 1, 2, 4 … 60 s apart", launched)
		}
		loop := h.Status().CrashLoop
		if loop == nil || loop.Failures < 10 || time.Until(loop.NextStart) > time.Minute || !strings.Contains(loop.LastError, "exit code 1") {
			t.Errorf("%+v", loop)
		}
		broken = false
		time.Sleep(time.Minute)
		h.call(time.Second)
		if h.Status().CrashLoop == nil {
			t.Error("forgotten before it was stable")
		}
		time.Sleep(12 * time.Second)
		if loop := h.Status().CrashLoop; loop != nil {
			t.Errorf("after a stable while: %+v", loop)
		}
	})
}

func TestScaleDownParksAndComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t, newLauncher(t), release(4, func(s *orchestrator.Spec) { s.Scale.Max = 4 }))
		var work sync.WaitGroup
		for range 16 {
			work.Go(func() { h.call(5 * time.Second) })
		}
		work.Wait()
		if launched, _ := h.count(); launched != 4 {
			t.Fatalf("%d launches, want 4", launched)
		}
		for range 300 { // one at a time: one instance is enough
			h.call(500 * time.Millisecond)
		}
		if s := h.Status(); s.Ready != 1 || s.Frozen != 3 {
			t.Errorf("ready %d, frozen %d; want 1 and 3", s.Ready, s.Frozen)
		}
		for range 16 {
			work.Go(func() { h.call(5 * time.Second) })
		}
		work.Wait()
		if launched, _ := h.count(); launched != 4 {
			t.Errorf("%d launches: the frozen ones should have come back", launched)
		}
	})
}

func TestDrainFinishesWhatIsInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t, newLauncher(t), release(1, func(s *orchestrator.Spec) { s.Scale.Max = 2 }))
		short, stuck := h.acquire(t.Context()), h.acquire(t.Context())
		waits := make(chan error)
		go func() {
			_, err := h.Acquire(context.Background())
			waits <- err
		}()
		synctest.Wait()
		h.Drain()
		if err := <-waits; !errors.Is(err, pool.ErrDraining) {
			t.Errorf("who waited got %v", err)
		}
		if _, err := h.Acquire(t.Context()); !errors.Is(err, pool.ErrDraining) {
			t.Errorf("a newcomer got %v", err)
		}
		time.Sleep(10 * time.Second)
		if h.state("c1") == "" || h.state("c2") == "" {
			t.Error("stopped with a request in flight")
		}
		short.Release(pool.Done)
		time.Sleep(time.Second)
		if _, alive := h.count(); alive != 1 {
			t.Errorf("%d alive, want the stuck one", alive)
		}
		begin := time.Now()
		<-h.Gone()
		if took := time.Since(begin); took < 15*time.Second || took > 25*time.Second {
			t.Errorf("the stuck one was given %v more, want about 20 s", took)
		}
		stuck.Release(pool.Failed)
	})
}

func TestDrainCallsStartsOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t, newLauncher(t), release(1))
		waits := make(chan error)
		go func() {
			_, err := h.Acquire(context.Background())
			waits <- err
		}()
		synctest.Wait()
		h.Drain()
		if err := <-waits; !errors.Is(err, pool.ErrDraining) {
			t.Errorf("got %v", err)
		}
		<-h.Gone()
		if _, alive := h.count(); alive != 0 {
			t.Errorf("%d alive", alive)
		}
	})
}

func TestCloseLeavesInstancesRunning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLauncher(t)
		config := pool.Config{Launcher: l}
		p := pool.New(&config, release(1))
		lease, err := p.Acquire(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			time.Sleep(3 * time.Second)
			lease.Release(pool.Done)
		}()
		begin := time.Now()
		if err := p.Close(t.Context()); err != nil || time.Since(begin) != 3*time.Second {
			t.Errorf("closed after %v with %v", time.Since(begin), err)
		}
		if err := p.Close(t.Context()); err != nil {
			t.Errorf("second close: %v", err)
		}
		if l.state("c1") != "running" {
			t.Error("the instance was ended")
		}
		if _, err := p.Acquire(t.Context()); codeOf(err) != "unavailable/shutting-down" {
			t.Errorf("got %v", err)
		}

		// The next gateway adopts it: no cold start.
		next := newHarness(t, l, release(1))
		adopted := pool.Launched{ID: "c1", Addr: "10.0.0.1:8080", Origin: pool.OriginAdopted}
		for range 2 {
			if !next.Adopt(adopted, false, time.Now()) {
				t.Error("not adopted")
			}
		}
		warm := next.acquire(t.Context())
		if queue, _ := warm.Waited(); queue != 0 || warm.Origin() != pool.OriginAdopted {
			t.Errorf("waited %v for %s", queue, warm.Origin())
		}
		warm.Release(pool.Done)
		if s := next.Status(); len(s.Instances) != 1 {
			t.Errorf("%+v", s)
		}
	})
}

func TestCloseInTheMiddleOfAStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLauncher(t)
		p := pool.New(&pool.Config{Launcher: l}, release(1))
		waits := make(chan error)
		go func() {
			_, err := p.Acquire(context.Background())
			waits <- err
		}()
		synctest.Wait()
		if err := p.Close(t.Context()); err != nil {
			t.Error(err)
		}
		if err := <-waits; codeOf(err) != "unavailable/shutting-down" {
			t.Errorf("got %v", err)
		}
		if _, alive := l.count(); alive != 0 {
			t.Errorf("%d alive that nobody knows of", alive)
		}
	})
}

func TestProveFailsWithTheReason(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLauncher(t)
		l.launchFn = func(int) error {
			return orchestrator.Errorf(orchestrator.ErrFunction, "instance-start-failed", "it ended")
		}
		h := newHarness(t, l, release(1))
		if err := h.Prove(t.Context()); codeOf(err) != "function failed/instance-start-failed" {
			t.Errorf("got %v", err)
		}
		l.launchFn = nil
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if err := h.Prove(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		if err := h.Prove(t.Context()); err != nil {
			t.Error(err)
		}
		if s := h.Status(); s.Ready != 1 || s.CrashLoop != nil {
			t.Errorf("%+v", s)
		}
	})
}

func TestPrewarmBeforeTheNextCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t, newLauncher(t), release(1))
		var cold int
		for range 30 { // a job that comes every 30 minutes
			lease := h.acquire(t.Context())
			if queue, _ := lease.Waited(); queue > 100*time.Millisecond {
				cold++
			}
			lease.Release(pool.Done)
			time.Sleep(20 * time.Minute)
			if _, alive := h.count(); cold > 10 && alive != 0 && t.Failed() == false && h.Stats().Acquired > 12 {
				t.Errorf("call %d: an instance is kept although the next call is ten minutes away", h.Stats().Acquired)
			}
			time.Sleep(10 * time.Minute)
		}
		if cold < 10 || cold > 12 {
			t.Errorf("%d cold starts, want those until the histogram knows, then none", cold)
		}
		time.Sleep(12 * time.Hour)
		if launched, alive := h.count(); alive != 0 || launched > 32 {
			t.Errorf("%d alive after %d launches when the calls have ceased", alive, launched)
		}
	})
}

func TestActivityEndsWithTheInstances(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var told []bool
		h := newHarness(t, newLauncher(t), release(1), func(c *pool.Config) {
			c.Activity = func(_ *pool.Pool, active bool) {
				mu.Lock()
				defer mu.Unlock()
				told = append(told, active)
			}
		})
		time.Sleep(3 * time.Second)
		h.call(0)
		time.Sleep(11 * time.Minute)
		mu.Lock()
		defer mu.Unlock()
		if len(told) != 4 || !told[0] || told[1] || !told[2] || told[3] {
			t.Errorf("told %v, want active, not, active, not", told)
		}
	})
}

func TestWaiterGetsAnotherAtOnceWhenOneIsUnreachable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t, newLauncher(t), release(1, func(s *orchestrator.Spec) { s.Scale.Max = 1 }))
		lease := h.acquire(t.Context())
		time.Sleep(time.Minute)
		waited := make(chan time.Duration)
		go func() {
			next := h.acquire(context.Background())
			queue, _ := next.Waited()
			next.Release(pool.Done)
			waited <- queue
		}()
		synctest.Wait()
		lease.Release(pool.Unreachable)
		if queue := <-waited; queue != 190*time.Millisecond {
			t.Errorf("waited %v, want one start", queue)
		}
	})
}

// TestBacklogBringsInstances: calls that wait outside of the pool have instances
// started for them while some of them are made, and no more once they are gone.
func TestBacklogBringsInstances(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t, newLauncher(t), release(2))
		if got := h.Slots(); got != 2 {
			t.Errorf("%d slots without an instance, want those of one", got)
		}
		h.call(time.Second) // one at a time never needs a second instance
		h.Backlog(100)      // of a second each: ten at a time make them in ten seconds
		for range 10 {
			h.call(time.Second)
		}
		if got := h.Status().Ready; got < 3 {
			t.Errorf("%d instances are ready for a backlog of 100 s", got)
		}
		if got := h.Slots(); got != 2*h.Status().Ready {
			t.Errorf("%d slots with %d instances", got, h.Status().Ready)
		}
		h.Backlog(0)
		launched, _ := h.count()
		for range 10 {
			h.call(time.Second)
		}
		if again, _ := h.count(); again > launched {
			t.Errorf("%d instances were started after the backlog was gone", again-launched)
		}
	})
}
