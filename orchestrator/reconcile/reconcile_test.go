package reconcile_test

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/enginetest"
	"github.com/kilnfaas/kiln/orchestrator/reconcile"
	"github.com/kilnfaas/kiln/orchestrator/storetest"
)

const owner = "reconcile-test"

// fleet adopts the containers of one revision.
type fleet struct {
	mu    sync.Mutex
	live  string          // revision it adopts; guarded by mu
	owned map[string]bool // guarded by mu
	died  []string        // guarded by mu
	oom   int             // guarded by mu
	cell  string          // owned, and of no function; guarded by mu
}

func (f *fleet) Prove(context.Context, orchestrator.Release) error { return nil }
func (f *fleet) Discard(orchestrator.Release)                      {}
func (f *fleet) Serve(orchestrator.Release)                        {}
func (f *fleet) Remove(context.Context, string) error              { return nil }

func (f *fleet) Adopt(c orchestrator.Container) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.live == "" || c.Labels[orchestrator.LabelRevision] != f.live {
		return false
	}
	f.owned[c.ID] = true
	return true
}

func (f *fleet) Died(id string, _ int, oom bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.died = append(f.died, id)
	delete(f.owned, id)
	if id == f.cell {
		f.cell = ""
	}
	if oom {
		f.oom++
	}
}

func (f *fleet) Owns(id string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.owned[id] || id == f.cell
}

func (f *fleet) Status(string) (orchestrator.FunctionStatus, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var s orchestrator.FunctionStatus
	for id := range f.owned {
		s.Instances = append(s.Instances, orchestrator.InstanceStatus{ID: id})
	}
	return s, true
}

func (f *fleet) count() (owned, died, oom int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.owned), len(f.died), f.oom
}

type functions struct{ needs string }

func (functions) Functions(context.Context) ([]orchestrator.Function, error) {
	return []orchestrator.Function{{Name: "hello"}}, nil
}
func (functions) Prune(context.Context) error { return nil }
func (f functions) Needs(digest string) bool  { return digest == f.needs }

type bench struct {
	*reconcile.Loop
	engine *enginetest.Fake
	fleet  *fleet
	store  *storetest.Fake
}

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{engine: enginetest.NewFake(), store: storetest.NewFake(), fleet: &fleet{live: "r1", owned: map[string]bool{}}}
	b.engine.AddImage("program", enginetest.Idle(), nil)
	b.Loop = &reconcile.Loop{
		Engine: b.engine, Images: b.engine, Store: b.store, Fleet: b.fleet, Functions: functions{},
		Owner: owner, Logger: slog.New(slog.DiscardHandler),
	}
	t.Cleanup(func() {
		b.Close()
		b.engine.Close()
	})
	return b
}

func (b *bench) run(t *testing.T, name, owner, revision string) string {
	t.Helper()
	c, err := b.engine.Run(t.Context(), orchestrator.ContainerConfig{Name: name, Image: "program", Labels: map[string]string{
		orchestrator.LabelOwner: owner, orchestrator.LabelKind: orchestrator.KindInstance,
		orchestrator.LabelFunction: "hello", orchestrator.LabelRevision: revision,
	}})
	if err != nil {
		t.Fatal(err)
	}
	return c.ID
}

func (b *bench) gone(t *testing.T, id string) bool {
	t.Helper()
	_, err := b.engine.Inspect(t.Context(), id)
	if err != nil && !errors.Is(err, orchestrator.ErrNotFound) {
		t.Fatal(err)
	}
	return err != nil
}

func (b *bench) open(t *testing.T) {
	t.Helper()
	if err := b.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	synctest.Wait()
}

func TestFirstPassAdoptsOrRemoves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		live, old, foreign := b.run(t, "live", owner, "r1"), b.run(t, "old", owner, "r0"), b.run(t, "foreign", "somebody", "r1")
		dead := b.run(t, "dead", owner, "r1")
		b.engine.Kill(dead)
		synctest.Wait()
		b.open(t)
		if !b.fleet.Owns(live) || b.gone(t, live) {
			t.Error("the live revision's container was not adopted")
		}
		if !b.gone(t, old) || !b.gone(t, dead) {
			t.Error("an orphan is still there")
		}
		if b.gone(t, foreign) || b.fleet.Owns(foreign) {
			t.Error("another installation's container was touched")
		}
	})
}

// TestOrphansHoldNobodyUp: a gateway serves although what it has to end takes its
// time to end.
func TestOrphansHoldNobodyUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.engine.AddImage("program", enginetest.NeverReady(), nil) // which does not end by itself
		orphan := b.run(t, "orphan", owner, "r0")
		began := time.Now()
		if err := b.Open(t.Context()); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took > 0 {
			t.Errorf("it took %v to open", took)
		}
		time.Sleep(10 * time.Second)
		if !b.gone(t, orphan) {
			t.Error("the orphan is still there")
		}
	})
}

// TestOrphanIsTriedAgain: an engine that is starting a container for the gateway
// before does not let go of it at once.
func TestOrphanIsTriedAgain(t *testing.T) {
	for _, op := range []enginetest.Op{enginetest.OpInspect, enginetest.OpStop} {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t)
			orphan := b.run(t, "orphan", owner, "r0")
			busy := orchestrator.Errorf(orchestrator.ErrUnavailable, "engine-unreachable", "the engine is busy")
			b.engine.Fail(op, busy)
			b.open(t)
			time.Sleep(10 * time.Second)
			if !b.gone(t, orphan) {
				t.Errorf("%s failed once, and the orphan is still there after ten seconds", op)
			}
		})
	}
}

func TestDeathsAreTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		first, second := b.run(t, "first", owner, "r1"), b.run(t, "second", owner, "r1")
		b.open(t)
		b.engine.Kill(first)
		synctest.Wait()
		if _, died, oom := b.fleet.count(); died != 1 || oom != 0 {
			t.Errorf("%d deaths, %d for memory after a kill", died, oom)
		}
		b.engine.OOM(second)
		synctest.Wait()
		if _, died, oom := b.fleet.count(); died != 2 || oom != 1 {
			t.Errorf("%d deaths, %d for memory after running out of it", died, oom)
		}
	})
}

func TestDeathsWhileTheEngineWasAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		id := b.run(t, "first", owner, "r1")
		b.open(t)
		b.engine.Down()
		b.engine.Kill(id)
		time.Sleep(time.Minute)
		if _, died, _ := b.fleet.count(); died != 0 {
			t.Error("a death was told while the engine did not answer")
		}
		b.engine.Up()
		time.Sleep(20 * time.Second) // less than the interval of passes
		if owned, died, _ := b.fleet.count(); owned != 0 || died == 0 {
			t.Errorf("%d owned, %d deaths after the engine came back", owned, died)
		}
	})
}

func TestDeathOfACellWhileTheEngineWasAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.open(t)
		id := b.run(t, "cell", owner, "")
		b.fleet.cell = id
		b.engine.Down()
		b.engine.Kill(id)
		time.Sleep(time.Second)
		b.engine.Up()
		time.Sleep(20 * time.Second) // less than the interval of passes
		if b.fleet.Owns(id) {
			t.Error("the death of a container that is of no function was not told")
		}
	})
}

func TestEngineAwayAtTheStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		id := b.run(t, "live", owner, "r1")
		b.engine.Down()
		b.open(t)
		b.engine.Up()
		time.Sleep(20 * time.Second) // less than the interval of passes
		if !b.fleet.Owns(id) {
			t.Error("the container was not adopted once the engine was back")
		}
	})
}

func TestOrphansGetAGraceTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.open(t)
		orphan := b.run(t, "orphan", owner, "r0")
		time.Sleep(45 * time.Second)
		if b.gone(t, orphan) {
			t.Error("a container that may just be starting was removed")
		}
		time.Sleep(90 * time.Second)
		if !b.gone(t, orphan) {
			t.Error("the orphan is still there")
		}
	})
}

// inherit runs a container that has the labels of its image: a step of a build if
// it is of an image's id, and else somebody's.
func (b *bench) inherit(t *testing.T, name, image string) string {
	t.Helper()
	c, err := b.engine.Run(t.Context(), orchestrator.ContainerConfig{Name: name, Image: image, Labels: map[string]string{
		orchestrator.LabelOwner: owner, orchestrator.LabelKind: orchestrator.KindBase,
	}})
	if err != nil {
		t.Fatal(err)
	}
	return c.ID
}

// programID names the program as a step of a build does.
const programID = "sha256:0123456789abcdef"

func TestBuildStepsAreLeftAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.engine.AddImage(programID, enginetest.Idle(), nil)
		early := b.inherit(t, "early", programID)
		b.open(t)
		late := b.inherit(t, "late", programID)
		time.Sleep(10 * time.Minute)
		if b.gone(t, early) || b.gone(t, late) {
			t.Error("a step of a build was ended")
		}
		b.engine.Kill(late)
		time.Sleep(10 * time.Minute)
		if !b.gone(t, late) {
			t.Error("what a build left behind is still there")
		}
	})
}

// moved lists containers as an engine does when the names of all images have
// moved on to others.
type moved struct{ orchestrator.Engine }

func (m moved) List(ctx context.Context, labels map[string]string) ([]orchestrator.Container, error) {
	all, err := m.Engine.List(ctx, labels)
	for i := range all {
		all[i].Image = programID
	}
	return all, err
}

// TestGuestsAreLeftAlone: somebody who starts one of Kiln's images keeps the
// container, also when it has ended.
func TestGuestsAreLeftAlone(t *testing.T) {
	for name, engine := range map[string]func(orchestrator.Engine) orchestrator.Engine{
		"named": func(e orchestrator.Engine) orchestrator.Engine { return e },
		"moved": func(e orchestrator.Engine) orchestrator.Engine { return moved{e} },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t)
				b.Engine = engine(b.engine)
				ended, runs := b.inherit(t, "ended", "program"), b.inherit(t, "runs", "program")
				b.engine.Kill(ended)
				synctest.Wait()
				b.open(t)
				time.Sleep(10 * time.Minute)
				if b.gone(t, ended) || b.gone(t, runs) {
					t.Error("somebody's container was removed")
				}
			})
		})
	}
}

// leaveBehind stores archives, revisions and images: those of the function hello
// and of one that is gone. It returns the archives.
func (b *bench) leaveBehind(t *testing.T) (kept, lost string) {
	t.Helper()
	for content, digest := range map[string]*string{"kept": &kept, "lost": &lost} {
		var err error
		if *digest, _, err = b.store.PutArchive(t.Context(), strings.NewReader(content)); err != nil {
			t.Fatal(err)
		}
	}
	labels := map[string]string{orchestrator.LabelOwner: owner, orchestrator.LabelKind: orchestrator.KindImage}
	b.engine.AddImage("kiln/hello:r1", enginetest.Idle(), labels)
	b.engine.AddImage("kiln/gone:r1", enginetest.Idle(), labels)
	b.engine.AddImage("somebodys", enginetest.Idle(), nil)
	if err := b.engine.Tag(t.Context(), "kiln/gone:r1", "registry.test/backup:1"); err != nil {
		t.Fatal(err)
	}
	for _, r := range []orchestrator.Revision{
		{ID: "r1", Function: "hello", Status: orchestrator.RevisionReady, Image: "kiln/hello:r1", ArchiveDigest: kept},
		{ID: "r1", Function: "gone", Status: orchestrator.RevisionReady, Image: "kiln/gone:r1", ArchiveDigest: lost},
	} {
		if err := b.store.PutRevision(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	return kept, lost
}

// checkImages compares which images there are.
func (b *bench) checkImages(t *testing.T, want map[string]bool) {
	t.Helper()
	for ref, there := range want {
		if _, err := b.engine.Image(t.Context(), ref); (err == nil) != there {
			t.Errorf("image %s: %v", ref, err)
		}
	}
}

var onlyTheLost = map[string]bool{"kiln/hello:r1": true, "kiln/gone:r1": false, "somebodys": true, "registry.test/backup:1": true}

func TestLeftoversAreRemoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		waiting, _, err := b.store.PutArchive(t.Context(), strings.NewReader("waiting")) // for its turn to be deployed
		if err != nil {
			t.Fatal(err)
		}
		b.Functions = functions{needs: waiting}
		b.open(t)
		_, lost := b.leaveBehind(t)
		time.Sleep(14 * time.Minute)
		if archives, _ := b.store.Archives(t.Context()); len(archives) != 3 {
			t.Errorf("%d archives before the grace time is over", len(archives))
		}
		time.Sleep(30 * time.Minute)
		if archives, _ := b.store.Archives(t.Context()); len(archives) != 2 || slices.Contains(archives, lost) {
			t.Errorf("archives left: %v", archives)
		}
		if revisions, _ := b.store.AllRevisions(t.Context()); len(revisions) != 1 || revisions[0].Function != "hello" {
			t.Errorf("revisions left: %v", revisions)
		}
		b.checkImages(t, onlyTheLost)
	})
}

// TestLeftoversOfAnEarlierGateway: what a gateway that was killed left behind is
// gone when the next one serves, its images soon after.
func TestLeftoversOfAnEarlierGateway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		kept, _ := b.leaveBehind(t)
		b.open(t)
		if archives, _ := b.store.Archives(t.Context()); !slices.Equal(archives, []string{kept}) {
			t.Errorf("archives left: %v, want only %v", archives, kept)
		}
		if revisions, _ := b.store.AllRevisions(t.Context()); len(revisions) != 1 || revisions[0].Function != "hello" {
			t.Errorf("revisions left: %v", revisions)
		}
		synctest.Wait()
		b.checkImages(t, onlyTheLost)
	})
}

// slowly prunes until its context ends, as behind a long build.
type slowly struct{ functions }

func (slowly) Prune(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

func TestContainersDoNotWaitForPruning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.Functions = slowly{}
		id := b.run(t, "first", owner, "r1")
		b.open(t)
		time.Sleep(6 * time.Minute) // a pruning is under way
		b.engine.Down()
		b.engine.Kill(id)
		time.Sleep(time.Second)
		b.engine.Up()
		time.Sleep(20 * time.Second) // less than the interval of passes
		if owned, _, _ := b.fleet.count(); owned != 0 {
			t.Error("a death was not noticed while revisions were pruned")
		}
	})
}

// counting counts prunings.
type counting struct {
	functions
	prunings *atomic.Int32
}

func (c counting) Prune(context.Context) error {
	c.prunings.Add(1)
	return nil
}

func TestOldRevisionsArePruned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		var prunings atomic.Int32
		b.Functions = counting{prunings: &prunings}
		b.open(t)
		time.Sleep(5*time.Minute + time.Second)
		synctest.Wait()
		if got := prunings.Load(); got != 1 {
			t.Errorf("%d prunings in the first sweep, want 1", got)
		}
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		if got := prunings.Load(); got != 2 {
			t.Errorf("%d prunings in two sweeps, want 2", got)
		}
	})
}

func TestCloseEndsEverything(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // fails by itself when a goroutine stays
		b := newBench(t)
		b.open(t)
		for range 2 {
			if err := b.Close(); err != nil {
				t.Error(err)
			}
		}
	})
}
