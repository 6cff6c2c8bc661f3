package route_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/pool"
	"github.com/kilnfaas/kiln/orchestrator/route"
)

// launcher is a route.Launcher in memory.
type launcher struct {
	mu    sync.Mutex
	n     int
	alive map[string]string // id -> revision
	fail  error
	died  []string
}

func (l *launcher) Launch(ctx context.Context, order pool.Order) (pool.Launched, error) {
	select {
	case <-time.After(200 * time.Millisecond):
	case <-ctx.Done():
		return pool.Launched{}, ctx.Err()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fail != nil {
		return pool.Launched{}, l.fail
	}
	l.n++
	id := fmt.Sprintf("c%d", l.n)
	l.alive[id] = order.Release.Revision.ID
	return pool.Launched{ID: id, Addr: "10.0.0.1:8080", Origin: pool.OriginImage}, nil
}

func (l *launcher) Freeze(context.Context, string) error { return nil }
func (l *launcher) Thaw(context.Context, string) error   { return nil }
func (l *launcher) Verify(context.Context, orchestrator.Release, pool.Launched) error {
	return nil
}

func (l *launcher) Stop(_ context.Context, id string, _ time.Duration) error {
	time.Sleep(100 * time.Millisecond)
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.alive, id)
	return nil
}

func (l *launcher) Owns(id string) bool { return id == "starting" }

func (l *launcher) Died(id string, _ int, _ bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.died = append(l.died, id)
}

// running returns how many instances of each revision run.
func (l *launcher) running() map[string]int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := map[string]int{}
	for _, r := range l.alive {
		n[r]++
	}
	return n
}

func newTable(t testing.TB) (*route.Table, *launcher) {
	l := &launcher{alive: map[string]string{}}
	table := route.New(route.Config{Launcher: l})
	table.Open()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := table.Close(ctx); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return table, l
}

func release(name, revision string, change ...func(*orchestrator.Spec)) orchestrator.Release {
	spec := orchestrator.DefaultSpec()
	spec.Name, spec.Template = name, "python"
	for _, f := range change {
		f(&spec)
	}
	return orchestrator.Release{Spec: spec, Revision: orchestrator.Revision{ID: revision, Function: name, Image: "kiln/" + name + ":" + revision}}
}

// call invokes a function the way the data plane does.
func call(t testing.TB, table *route.Table, name string, d time.Duration) (id string, err error) {
	t.Helper()
	for {
		r := table.Lookup(name)
		if r == nil {
			return "", errors.New("no such function")
		}
		lease, err := r.Pool.Acquire(context.Background())
		if errors.Is(err, pool.ErrDraining) {
			continue
		}
		if err != nil {
			return "", err
		}
		time.Sleep(d)
		id := lease.InstanceID()
		lease.Release(pool.Done)
		return id, nil
	}
}

func TestProveThenServe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table, l := newTable(t)
		r1 := release("f", "r1")
		if err := table.Prove(t.Context(), r1); err != nil {
			t.Fatal(err)
		}
		if table.Lookup("f") != nil {
			t.Error("routed before it is served")
		}
		if !table.Owns("c1") {
			t.Error("a proven instance is nobody's")
		}
		r1.Revision.CodeDigest = "sha256:c" // recorded after the proof
		table.Serve(r1)
		if got := table.Lookup("f").Pool.Release().Revision.CodeDigest; got != "sha256:c" {
			t.Errorf("the pool starts instances of a release that lacks the code: %q", got)
		}
		begin := time.Now()
		if id, err := call(t, table, "f", 0); err != nil || id != "c1" || time.Since(begin) != 0 {
			t.Errorf("served by %q after %v, %v; want the proven one at once", id, time.Since(begin), err)
		}
		if s, ok := table.Status("f"); !ok || s.Ready != 1 || s.Wake != pool.OriginImage {
			t.Errorf("%+v, %v", s, ok)
		}
		if got := l.running(); got["r1"] != 1 {
			t.Errorf("%v", got)
		}
	})
}

func TestUpdateUnderLoadFailsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table, l := newTable(t)
		table.Serve(release("f", "r1", func(s *orchestrator.Spec) { s.Concurrency = 2 }))
		end := make(chan struct{})
		var work sync.WaitGroup
		for range 8 {
			work.Go(func() {
				for {
					select {
					case <-end:
						return
					default:
					}
					if _, err := call(t, table, "f", 30*time.Millisecond); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		for n := 2; n < 6; n++ {
			time.Sleep(3 * time.Second)
			r := release("f", fmt.Sprint("r", n), func(s *orchestrator.Spec) { s.Concurrency = 2 })
			if err := table.Prove(t.Context(), r); err != nil {
				t.Error(err)
			}
			table.Serve(r)
		}
		time.Sleep(5 * time.Second)
		if got := l.running(); len(got) != 1 || got["r5"] == 0 {
			t.Errorf("runs: %v, want r5 only", got)
		}
		close(end)
		work.Wait()
	})
}

func TestFailedProofLeavesTheOldRevision(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table, l := newTable(t)
		table.Serve(release("f", "r1"))
		if _, err := call(t, table, "f", 0); err != nil {
			t.Fatal(err)
		}
		l.fail = orchestrator.Errorf(orchestrator.ErrFunction, "instance-start-failed", "it ended")
		if err := table.Prove(t.Context(), release("f", "r2")); !errors.Is(err, orchestrator.ErrFunction) {
			t.Errorf("got %v", err)
		}
		if id, err := call(t, table, "f", 0); id != "c1" || err != nil {
			t.Errorf("%q, %v", id, err)
		}
	})
}

func TestDiscardEndsWhatWasProven(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table, l := newTable(t)
		r := release("f", "r1")
		if err := table.Prove(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		table.Discard(r)
		table.Discard(r)
		time.Sleep(time.Second)
		if got := l.running(); len(got) != 0 {
			t.Errorf("left: %v", got)
		}
	})
}

func TestSettingsChangeWithoutNewInstances(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table, l := newTable(t)
		table.Serve(release("f", "r1"))
		if _, err := call(t, table, "f", 0); err != nil {
			t.Fatal(err)
		}
		table.Serve(release("f", "r1", func(s *orchestrator.Spec) { s.Scale.Min, s.Timeout = 2, 1 }))
		if got := table.Lookup("f").Release.Spec.Timeout; got != 1 {
			t.Errorf("timeout %v", got)
		}
		time.Sleep(3 * time.Second)
		if id, err := call(t, table, "f", 0); err != nil || id == "" || l.running()["r1"] != 2 {
			t.Errorf("%q, %v, %v", id, err, l.running())
		}
		// Another environment needs other containers, of the same revision.
		table.Serve(release("f", "r1", func(s *orchestrator.Spec) { s.Env = map[string]string{"A": "b"} }))
		time.Sleep(3 * time.Second)
		if id, err := call(t, table, "f", 0); err != nil || id == "c1" || id == "c2" {
			t.Errorf("%q, %v", id, err)
		}
	})
}

func TestRemoveWaitsUntilNothingIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table, l := newTable(t)
		table.Serve(release("f", "r1"))
		if _, err := call(t, table, "f", 0); err != nil {
			t.Fatal(err)
		}
		if err := table.Remove(t.Context(), "f"); err != nil {
			t.Fatal(err)
		}
		if got := l.running(); len(got) != 0 || table.Lookup("f") != nil || table.Owns("c1") {
			t.Errorf("left: %v", got)
		}
		if _, ok := table.Status("f"); ok {
			t.Error("a removed function has a status")
		}
		if err := table.Remove(t.Context(), "unknown"); err != nil {
			t.Errorf("unknown: %v", err)
		}
	})
}

func TestAdoptByLabels(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table, _ := newTable(t)
		live := release("f", "r2")
		table.Serve(live)
		container := func(id string, r orchestrator.Release, state orchestrator.ContainerState) orchestrator.Container {
			return orchestrator.Container{ID: id, State: state, Addr: "10.0.0.9", Labels: r.Container("me", "net").Labels}
		}
		changed := release("f", "r2", func(s *orchestrator.Spec) { s.Env = map[string]string{"A": "b"} })
		for _, test := range []struct {
			name string
			c    orchestrator.Container
			want bool
		}{
			{"running", container("a", live, orchestrator.ContainerRunning), true},
			{"frozen", container("b", live, orchestrator.ContainerFrozen), true},
			{"once more", container("a", live, orchestrator.ContainerRunning), true},
			{"exited", container("c", live, orchestrator.ContainerExited), false},
			{"old revision", container("d", release("f", "r1"), orchestrator.ContainerRunning), false},
			{"other settings", container("e", changed, orchestrator.ContainerRunning), false},
			{"unknown function", container("g", release("x", "r2"), orchestrator.ContainerRunning), false},
		} {
			if got := table.Adopt(test.c); got != test.want {
				t.Errorf("%s: %v", test.name, got)
			}
			if got := table.Owns(test.c.ID); got != test.want {
				t.Errorf("%s: owned %v", test.name, got)
			}
		}
		synctest.Wait() // for the look at the running one
		s, _ := table.Status("f")
		if s.Ready != 1 || s.Frozen != 1 {
			t.Errorf("%+v", s)
		}
		if id, err := call(t, table, "f", 0); id != "a" || err != nil {
			t.Errorf("%q, %v", id, err)
		}
		if !table.Adopt(orchestrator.Container{Name: "starting", State: orchestrator.ContainerRunning, Addr: "10.0.0.8", Labels: live.Container("me", "net").Labels}) {
			t.Error("a container that is just being started was taken for an orphan")
		}
		if s, _ := table.Status("f"); s.Ready+s.Frozen != 2 {
			t.Errorf("it was taken into the pool before it was ready: %+v", s)
		}
		if !table.Owns("starting") || table.Owns("nobody's") {
			t.Error("wrong about who owns what")
		}
	})
}

// TestAdoptByKey: what was started with another key would refuse every call.
func TestAdoptByKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		key := orchestrator.InstanceKey("k")
		var tokens []string
		l := &launcher{alive: map[string]string{}}
		table := route.New(route.Config{Launcher: l, Key: key, NewConns: func(in pool.Launched) pool.Conns {
			tokens = append(tokens, in.Token)
			return noConns{}
		}})
		defer table.Close(t.Context())
		live := release("f", "r2")
		table.Serve(live)
		adopt := func(id string, key orchestrator.InstanceKey) bool {
			config := live.Container("me", "net")
			key.Mark(&config)
			return table.Adopt(orchestrator.Container{
				ID: id, Name: config.Name, State: orchestrator.ContainerFrozen, Addr: "10.0.0.9", Labels: config.Labels,
			})
		}
		if !adopt("ours", key) || adopt("other", orchestrator.InstanceKey("other")) || !adopt("without", nil) {
			t.Error("adopted what it should not, or the other way round")
		}
		if len(tokens) != 2 || tokens[0] == "" || tokens[1] != "" {
			t.Errorf("calls carry %q", tokens)
		}
	})
}

type noConns struct{}

func (noConns) CloseIdle() {}

func TestDiedReachesThePoolAndTheLauncher(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table, l := newTable(t)
		table.Serve(release("f", "r1"))
		table.Serve(release("g", "r1"))
		id, err := call(t, table, "f", 0)
		if err != nil {
			t.Fatal(err)
		}
		table.Died(id, 1, false)
		table.Died("other", 1, false)
		if s, _ := table.Status("f"); s.Ready != 0 {
			t.Errorf("%+v", s)
		}
		if len(l.died) != 2 {
			t.Errorf("the launcher heard of %v", l.died)
		}
		time.Sleep(time.Second)
		if got := l.running(); len(got) != 0 {
			t.Errorf("the dead container was not removed: %v", got)
		}
	})
}

func TestAnAddressBelongsToTheLatest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table, _ := newTable(t)
		for _, name := range []string{"f", "g"} {
			table.Serve(release(name, "r1"))
			if _, err := call(t, table, name, 0); err != nil { // both at 10.0.0.1
				t.Fatal(err)
			}
		}
		table.Placed("c2", "10.0.0.1:8080")
		f, _ := table.Status("f")
		g, _ := table.Status("g")
		if f.Ready != 0 || g.Ready != 1 {
			t.Errorf("f %+v, g %+v; want only the one that has the address", f, g)
		}
	})
}

func TestCloseLeavesInstancesAndStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &launcher{alive: map[string]string{}}
		table := route.New(route.Config{Launcher: l})
		table.Open()
		table.Serve(release("f", "r1"))
		var work sync.WaitGroup
		work.Go(func() {
			if _, err := call(t, table, "f", 3*time.Second); err != nil {
				t.Error(err)
			}
		})
		time.Sleep(time.Second)
		begin := time.Now()
		proof := make(chan error, 1)
		go func() { proof <- table.Prove(t.Context(), release("f", "r3")) }()
		synctest.Wait()
		if err := table.Close(t.Context()); err != nil {
			t.Error(err)
		}
		if err := <-proof; err == nil {
			t.Error("a proof under way was not called off")
		}
		if took := time.Since(begin); took != 2200*time.Millisecond {
			t.Errorf("closed after %v, want when the request was done", took)
		}
		work.Wait()
		if err := table.Close(t.Context()); err != nil {
			t.Error(err)
		}
		table.Open() // does nothing any more
		if got := l.running(); got["r1"] != 1 {
			t.Errorf("runs: %v", got)
		}
		if err := table.Prove(t.Context(), release("f", "r2")); err == nil {
			t.Error("proved after close")
		}
		if got := l.running(); got["r2"] != 0 || got["r3"] != 0 {
			t.Errorf("runs: %v", got)
		}
	})
}

func TestLookupAllocatesNothing(t *testing.T) {
	table, _ := newTable(t)
	for i := range 100 {
		table.Serve(release(fmt.Sprint("f", i), "r1"))
	}
	name := "f42"
	if n := testing.AllocsPerRun(1000, func() {
		if table.Lookup(name) == nil {
			t.Fatal("not found")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// TestIdleFunctionsAreCheap holds the line for a gateway with 1,000 functions.
func TestIdleFunctionsAreCheap(t *testing.T) {
	const functions, limit = 1000, 4 << 10 // bytes each
	table, _ := newTable(t)
	goroutines := runtime.NumGoroutine()
	before := heap()
	for i := range functions {
		table.Serve(release(fmt.Sprint("f", i), "r1"))
	}
	each := (heap() - before) / functions
	t.Logf("%d bytes a function", each)
	if each > limit {
		t.Errorf("%d bytes a function, %d allowed", each, limit)
	}
	if n := runtime.NumGoroutine(); n > goroutines {
		t.Errorf("%d goroutines more", n-goroutines)
	}
	runtime.KeepAlive(table)
}

func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func BenchmarkLookup1000(b *testing.B) {
	table, _ := newTable(b)
	names := make([]string, 1000)
	for i := range names {
		names[i] = fmt.Sprint("function-", i)
		table.Serve(release(names[i], "r1"))
	}
	b.RunParallel(func(pb *testing.PB) {
		for i := 0; pb.Next(); i++ {
			if table.Lookup(names[i*7919%1000]) == nil {
				b.Error("not found")
			}
		}
	})
}
