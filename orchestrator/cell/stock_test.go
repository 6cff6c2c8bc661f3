package cell_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/cell"
	"github.com/kilnfaas/kiln/orchestrator/enginetest"
	"github.com/kilnfaas/kiln/orchestrator/launch"
	"github.com/kilnfaas/kiln/orchestrator/pool"
	"github.com/kilnfaas/kiln/templates"
)

func TestTarget(t *testing.T) {
	for _, test := range []struct{ minimum, maximum, colds, want int }{
		{2, 8, 0, 2}, {2, 8, 4, 2}, {2, 8, 10, 5}, {2, 8, 1000, 8}, {3, 3, 50, 3}, {0, 8, 1, 0},
	} {
		if got := cell.Target(test.minimum, test.maximum, test.colds); got != test.want {
			t.Errorf("%+v: %d", test, got)
		}
	}
}

// slowNext makes cells that cannot be loaded, on a fake clock.
type slowNext struct {
	mu    sync.Mutex
	n     int
	alive map[string]bool
	fail  error
	tries int
}

func (s *slowNext) Bring(ctx context.Context, _ launch.Request) (id, addr string, err error) {
	select {
	case <-time.After(300 * time.Millisecond):
	case <-ctx.Done():
		return "", "", ctx.Err()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tries++
	if s.fail != nil {
		return "", "", s.fail
	}
	s.n++
	id = fmt.Sprint("cell", s.n)
	s.alive[id] = true
	return id, fmt.Sprintf("127.0.0.1:%d", s.n), nil
}

func (s *slowNext) Launch(context.Context, pool.Order) (pool.Launched, error) {
	return pool.Launched{ID: "own", Origin: pool.OriginImage}, nil
}
func (s *slowNext) Freeze(context.Context, string) error { return nil }
func (s *slowNext) Thaw(context.Context, string) error   { return nil }
func (s *slowNext) Verify(context.Context, orchestrator.Release, pool.Launched) error {
	return nil
}
func (s *slowNext) Owns(string) bool       { return false }
func (s *slowNext) Died(string, int, bool) {}
func (s *slowNext) Stop(_ context.Context, id string, _ time.Duration) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.alive, id)
	return nil
}

func (s *slowNext) count() (alive, tries int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.alive), s.tries
}

func newStock(t *testing.T, next *slowNext) *cell.Launcher {
	engine := enginetest.NewFake()
	r := &rig{engine: engine, loads: map[string]loaded{}, code: map[string]string{"r1": ""}}
	l := cell.New(cell.Config{
		Next: next, Engine: engine, Images: r, Code: codeStore{r}, Head: templates.LoadHead,
		Owner: owner, Network: network, Min: 2, Max: 6,
	})
	if err := l.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		if alive, _ := next.count(); alive != 0 {
			t.Errorf("%d cells left", alive)
		}
		engine.Close()
	})
	return l
}

func TestStockGrowsWithColdStartsAndShrinks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		next := &slowNext{alive: map[string]bool{}}
		l := newStock(t, next)
		l.Serving(release())
		time.Sleep(5 * time.Second)
		if alive, _ := next.count(); alive != 2 {
			t.Fatalf("%d cells, want the minimum of 2", alive)
		}
		for range 3 { // more demand than cells: the target is the maximum
			for range 4 {
				if _, err := l.Launch(t.Context(), pool.Order{Release: release()}); err != nil {
					t.Fatal(err)
				}
			}
			time.Sleep(2 * time.Second)
		}
		time.Sleep(20 * time.Second)
		if alive, _ := next.count(); alive != 6 {
			t.Errorf("%d cells after 12 cold starts in a minute, want 6", alive)
		}
		time.Sleep(time.Minute)
		if alive, _ := next.count(); alive != 6 {
			t.Errorf("%d cells: extra ones live two minutes", alive)
		}
		time.Sleep(2 * time.Minute)
		if alive, _ := next.count(); alive != 2 {
			t.Errorf("%d cells in the end, want 2", alive)
		}
	})
}

func TestCellsThatCannotBeMadeAreTriedLessAndLess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		next := &slowNext{alive: map[string]bool{}, fail: orchestrator.Errorf(orchestrator.ErrUnavailable, "engine", "no")}
		l := newStock(t, next)
		l.Serving(release())
		time.Sleep(10 * time.Minute)
		if _, tries := next.count(); tries < 10 || tries > 40 {
			t.Errorf("%d tries in ten minutes", tries)
		}
		got, err := l.Launch(t.Context(), pool.Order{Release: release()})
		if err != nil || got.Origin != pool.OriginImage {
			t.Errorf("without cells: %+v, %v", got, err)
		}
		next.mu.Lock()
		next.fail = nil
		next.mu.Unlock()
		time.Sleep(70 * time.Second)
		if alive, _ := next.count(); alive != 2 {
			t.Errorf("%d cells once it works", alive)
		}
	})
}

func TestACellThatLostItsAddressIsNotLoaded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		next := &slowNext{alive: map[string]bool{}}
		l := newStock(t, next)
		l.Serving(release())
		time.Sleep(5 * time.Second)
		l.Displaced("127.0.0.1:1", "cell1") // it is the one there
		l.Displaced("127.0.0.1:9", "other")
		if n := l.Waiting()["python"]; n != 2 {
			t.Errorf("%d cells wait, want both", n)
		}
		l.Displaced("127.0.0.1:1", "other")
		if n := l.Waiting()["python"]; n != 1 {
			t.Errorf("%d cells wait, want the other one", n)
		}
		time.Sleep(5 * time.Second)
		if n := l.Waiting()["python"]; n != 2 || l.Owns("cell1") {
			t.Errorf("%d cells wait, want it replaced", n)
		}
	})
}
