package build_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/build"
	"github.com/kilnfaas/kiln/orchestrator/enginetest"
)

const owner = "build-test"

type progressFunc = func(orchestrator.BuildEvent)

// fakeBuilder is a RevisionBuilder made of a function; it counts.
type fakeBuilder struct {
	calls, now, most atomic.Int64
	build            func(context.Context, orchestrator.Revision, progressFunc) (orchestrator.Image, error)
}

func (b *fakeBuilder) BuildRevision(ctx context.Context, r orchestrator.Revision, _ orchestrator.Template, progress func(orchestrator.BuildEvent)) (orchestrator.Image, error) {
	b.calls.Add(1)
	now := b.now.Add(1)
	defer b.now.Add(-1)
	for {
		most := b.most.Load()
		if now <= most || b.most.CompareAndSwap(most, now) {
			break
		}
	}
	return b.build(ctx, r, progress)
}

func revision(function string, n int, digest string) orchestrator.Revision {
	id := fmt.Sprintf("r%d-abc", n)
	return orchestrator.Revision{ID: id, Function: function, Number: n, BuildDigest: digest, Image: "kiln/" + function + ":" + id}
}

// recorder collects progress. It is used by one goroutine, as BuildRevision promises.
type recorder struct{ events []orchestrator.BuildEvent }

func (r *recorder) add(e orchestrator.BuildEvent) { r.events = append(r.events, e) }

func (r *recorder) lines() (text []string) {
	for _, e := range r.events {
		if e.Kind == orchestrator.BuildLog {
			text = append(text, e.Line)
		}
	}
	return text
}

// steps returns "name: state" of the steps that ended.
func (r *recorder) steps() (ended []string) {
	for _, e := range r.events {
		if e.Kind == orchestrator.BuildStep && e.State != orchestrator.StepStarted {
			ended = append(ended, e.Name+": "+string(e.State))
		}
	}
	return ended
}

func line(text string) orchestrator.BuildEvent {
	return orchestrator.BuildEvent{Kind: orchestrator.BuildLog, Step: "s", Line: text}
}

func TestDedupeSharesOneBuild(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engine := enginetest.NewFake()
		defer engine.Close()
		release := make(chan struct{})
		next := &fakeBuilder{build: func(_ context.Context, r orchestrator.Revision, progress progressFunc) (orchestrator.Image, error) {
			progress(line("before"))
			<-release
			progress(line("after"))
			return engine.AddImage(r.Image, enginetest.Idle(), nil), nil
		}}
		builder := build.Dedupe(next, engine)
		var wg sync.WaitGroup
		for i := range 5 {
			wg.Go(func() {
				var got recorder
				r := revision("f", i, "sha256:same")
				image, err := builder.BuildRevision(t.Context(), r, orchestrator.Template{}, got.add)
				if err != nil {
					t.Error(err)
					return
				}
				if !slices.ContainsFunc(image.Tags, func(tag string) bool { return tag == r.Image }) {
					t.Errorf("the image of %s has the tags %q", r.Image, image.Tags)
				}
				if diff := cmp.Diff([]string{"before", "after"}, got.lines()); diff != "" {
					t.Errorf("progress of caller %d (-want +got):\n%s", i, diff)
				}
			})
			synctest.Wait() // the later ones join when "before" was told
		}
		close(release)
		wg.Wait()
		if got := next.calls.Load(); got != 1 {
			t.Errorf("%d builds, want 1", got)
		}
		if _, err := builder.BuildRevision(t.Context(), revision("f", 9, "sha256:same"), orchestrator.Template{}, nil); err != nil {
			t.Error(err)
		}
		if got := next.calls.Load(); got != 2 {
			t.Errorf("%d builds after a later one, want 2", got)
		}
	})
}

func TestDedupeKeepsDifferentBuildsApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		next := &fakeBuilder{build: func(context.Context, orchestrator.Revision, progressFunc) (orchestrator.Image, error) {
			time.Sleep(time.Second)
			return orchestrator.Image{}, nil
		}}
		builder := build.Dedupe(next, nil)
		var wg sync.WaitGroup
		for i, digest := range []string{"sha256:a", "sha256:b", "", ""} { // no digest is no equal one
			wg.Go(func() {
				if _, err := builder.BuildRevision(t.Context(), revision("f", i, digest), orchestrator.Template{}, nil); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if got := next.calls.Load(); got != 4 {
			t.Errorf("%d builds, want 4", got)
		}
	})
}

// TestDedupeEndsWithItsLastCaller: one that leaves does not end the build of
// the others; the last one does, and waits for it.
func TestDedupeEndsWithItsLastCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const cleaning = time.Second
		var running atomic.Bool
		next := &fakeBuilder{build: func(ctx context.Context, _ orchestrator.Revision, _ progressFunc) (orchestrator.Image, error) {
			running.Store(true)
			defer running.Store(false)
			<-ctx.Done()
			time.Sleep(cleaning)
			return orchestrator.Image{}, ctx.Err()
		}}
		builder := build.Dedupe(next, nil)
		gone := errors.New("superseded")
		call := func() (context.CancelCauseFunc, <-chan error) {
			ctx, cancel := context.WithCancelCause(t.Context())
			done := make(chan error, 1)
			go func() {
				_, err := builder.BuildRevision(ctx, revision("f", 1, "sha256:same"), orchestrator.Template{}, nil)
				done <- err
			}()
			synctest.Wait()
			return cancel, done
		}
		cancelFirst, first := call()
		cancelSecond, second := call()
		cancelFirst(gone)
		if err := <-first; !errors.Is(err, gone) || !errors.Is(err, orchestrator.ErrDeadline) {
			t.Errorf("first caller: error %v, want %v of the class %q", err, gone, orchestrator.ErrDeadline)
		}
		if !running.Load() {
			t.Fatal("the build ended with its first caller")
		}
		before := time.Now()
		cancelSecond(gone)
		if err := <-second; !errors.Is(err, gone) {
			t.Errorf("second caller: error %v, want %v", err, gone)
		}
		if running.Load() || time.Since(before) != cleaning {
			t.Errorf("the last caller returned after %v, the build still running: %v; want it to wait %v for the end", time.Since(before), running.Load(), cleaning)
		}
	})
}

// TestDedupeJoinsNoEndingBuild: a build that is being cancelled takes nobody
// new.
func TestDedupeJoinsNoEndingBuild(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engine := enginetest.NewFake()
		defer engine.Close()
		next := &fakeBuilder{}
		next.build = func(ctx context.Context, r orchestrator.Revision, _ progressFunc) (orchestrator.Image, error) {
			if next.calls.Load() == 1 {
				<-ctx.Done()
				time.Sleep(time.Minute)
				return orchestrator.Image{}, ctx.Err()
			}
			return engine.AddImage(r.Image, enginetest.Idle(), nil), nil
		}
		builder := build.Dedupe(next, engine)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			if _, err := builder.BuildRevision(ctx, revision("f", 1, "sha256:same"), orchestrator.Template{}, nil); err == nil {
				t.Error("the cancelled build succeeded")
			}
		}()
		synctest.Wait()
		cancel()
		synctest.Wait()
		if _, err := builder.BuildRevision(t.Context(), revision("f", 2, "sha256:same"), orchestrator.Template{}, nil); err != nil {
			t.Errorf("a build after a cancelled one: %v", err)
		}
		<-done
	})
}

// TestDedupeSlowReader: a caller that takes its progress slowly holds up
// neither the build nor another caller.
func TestDedupeSlowReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const many = 100
		engine := enginetest.NewFake()
		defer engine.Close()
		start := make(chan struct{})
		next := &fakeBuilder{build: func(_ context.Context, r orchestrator.Revision, progress progressFunc) (orchestrator.Image, error) {
			<-start
			for i := range many {
				progress(line(fmt.Sprint(i)))
			}
			return engine.AddImage(r.Image, enginetest.Idle(), nil), nil
		}}
		builder := build.Dedupe(next, engine)
		began := time.Now()
		var wg sync.WaitGroup
		for _, pause := range []time.Duration{time.Second, 0} {
			wg.Go(func() {
				var got recorder
				_, err := builder.BuildRevision(t.Context(), revision("f", 1, "sha256:same"), orchestrator.Template{}, func(e orchestrator.BuildEvent) {
					time.Sleep(pause)
					got.add(e)
				})
				if err != nil {
					t.Error(err)
				}
				if n := len(got.events); n != many {
					t.Errorf("caller with a pause of %v got %d of %d events", pause, n, many)
				}
				if took := time.Since(began); took != many*pause {
					t.Errorf("caller with a pause of %v took %v", pause, took)
				}
			})
		}
		synctest.Wait()
		close(start)
		wg.Wait()
	})
}

func TestCacheUsesAnImageAgain(t *testing.T) {
	engine := enginetest.NewFake()
	defer engine.Close()
	next := &fakeBuilder{build: func(_ context.Context, r orchestrator.Revision, _ progressFunc) (orchestrator.Image, error) {
		return engine.AddImage(r.Image, enginetest.Idle(), map[string]string{
			orchestrator.LabelOwner: owner, orchestrator.LabelKind: orchestrator.KindImage, orchestrator.LabelBuild: r.BuildDigest,
		}), nil
	}}
	builder := build.Cache(next, engine, owner)
	first, err := builder.BuildRevision(t.Context(), revision("a", 1, "sha256:x"), orchestrator.Template{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	var got recorder
	again := revision("b", 1, "sha256:x")
	second, err := builder.BuildRevision(t.Context(), again, orchestrator.Template{}, got.add)
	if err != nil {
		t.Fatal(err)
	}
	if second.ID != first.ID || !slices.Contains(second.Tags, "docker.io/library/"+again.Image) && !slices.Contains(second.Tags, again.Image) {
		t.Errorf("second image %s with the tags %q, want %s also tagged %s", second.ID, second.Tags, first.ID, again.Image)
	}
	if diff := cmp.Diff([]string{"[image] the same was built before: cached"}, got.steps()); diff != "" {
		t.Errorf("steps (-want +got):\n%s", diff)
	}
	if _, err := builder.BuildRevision(t.Context(), revision("a", 2, "sha256:y"), orchestrator.Template{}, nil); err != nil {
		t.Fatal(err)
	}
	other := build.Cache(next, engine, "somebody else")
	if _, err := other.BuildRevision(t.Context(), revision("c", 1, "sha256:x"), orchestrator.Template{}, nil); err != nil {
		t.Fatal(err)
	}
	if got := next.calls.Load(); got != 3 {
		t.Errorf("%d builds, want 3: the first, another digest, another owner", got)
	}
}

func TestCacheBuildsWhatWasPrunedMeanwhile(t *testing.T) {
	engine := enginetest.NewFake()
	defer engine.Close()
	engine.AddImage("kiln/a:r1", enginetest.Idle(), map[string]string{
		orchestrator.LabelOwner: owner, orchestrator.LabelKind: orchestrator.KindImage, orchestrator.LabelBuild: "sha256:x",
	})
	engine.Fail(enginetest.OpTag, orchestrator.Errorf(orchestrator.ErrNotFound, "image-not-found", "pruned"))
	next := &fakeBuilder{build: func(context.Context, orchestrator.Revision, progressFunc) (orchestrator.Image, error) {
		return orchestrator.Image{ID: "built"}, nil
	}}
	image, err := build.Cache(next, engine, owner).BuildRevision(t.Context(), revision("a", 2, "sha256:x"), orchestrator.Template{}, nil)
	if err != nil || image.ID != "built" {
		t.Errorf("BuildRevision = %v, %v, want a build", image.ID, err)
	}
}

func TestLimitIsFairAndBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const atOnce, all, waiting = 2, 300, 256
		var mu sync.Mutex
		var order []int
		next := &fakeBuilder{build: func(_ context.Context, r orchestrator.Revision, _ progressFunc) (orchestrator.Image, error) {
			mu.Lock()
			order = append(order, r.Number)
			mu.Unlock()
			time.Sleep(time.Second)
			return orchestrator.Image{}, nil
		}}
		builder := build.Limit(next, atOnce)
		var refused atomic.Int64
		var wg sync.WaitGroup
		for i := range all {
			wg.Go(func() {
				_, err := builder.BuildRevision(t.Context(), revision("f", i, ""), orchestrator.Template{}, nil)
				if err == nil {
					return
				}
				refused.Add(1)
				var full *orchestrator.Error
				if !errors.As(err, &full) || !errors.Is(err, orchestrator.ErrExhausted) || full.RetryAfter == 0 {
					t.Errorf("refused with %v, want the class %q and a time to retry", err, orchestrator.ErrExhausted)
				}
			})
			synctest.Wait()
		}
		wg.Wait()
		if got := next.most.Load(); got != atOnce {
			t.Errorf("%d builds at once, want %d", got, atOnce)
		}
		if got := refused.Load(); got != all-atOnce-waiting {
			t.Errorf("%d builds refused, want %d", got, all-atOnce-waiting)
		}
		for i := 0; i < len(order); i += atOnce { // builds that start together have no order
			slices.Sort(order[i : i+atOnce])
		}
		if !slices.IsSorted(order) {
			t.Errorf("builds started in the order %v", order)
		}
	})
}

func TestLimitLetsWaitersLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		next := &fakeBuilder{build: func(context.Context, orchestrator.Revision, progressFunc) (orchestrator.Image, error) {
			<-release
			return orchestrator.Image{}, nil
		}}
		builder := build.Limit(next, 1)
		done := make(chan error, 1)
		go func() {
			_, err := builder.BuildRevision(t.Context(), revision("f", 1, ""), orchestrator.Template{}, nil)
			done <- err
		}()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var got recorder
		_, err := builder.BuildRevision(ctx, revision("f", 2, ""), orchestrator.Template{}, got.add)
		if !errors.Is(err, orchestrator.ErrDeadline) {
			t.Errorf("waiter that left: error %v, want the class %q", err, orchestrator.ErrDeadline)
		}
		if diff := cmp.Diff([]string{"[wait] 1 at once are built, 0 wait before this one: failed"}, got.steps()); diff != "" {
			t.Errorf("steps (-want +got):\n%s", diff)
		}
		close(release)
		if err := <-done; err != nil {
			t.Error(err)
		}
		if _, err := builder.BuildRevision(t.Context(), revision("f", 3, ""), orchestrator.Template{}, nil); err != nil {
			t.Errorf("after the waiter left: %v", err)
		}
	})
}

func TestTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const limit = time.Minute
		next := &fakeBuilder{build: func(ctx context.Context, _ orchestrator.Revision, progress progressFunc) (orchestrator.Image, error) {
			progress(line("waiting for a mirror"))
			<-ctx.Done()
			return orchestrator.Image{}, ctx.Err()
		}}
		builder := build.Timeout(next, limit)
		began := time.Now()
		_, err := builder.BuildRevision(t.Context(), revision("f", 1, ""), orchestrator.Template{}, nil)
		var late *orchestrator.Error
		if !errors.As(err, &late) || late.Code != "build-timeout" || !errors.Is(err, orchestrator.ErrFunction) {
			t.Fatalf("error %v, want build-timeout of the class %q", err, orchestrator.ErrFunction)
		}
		if diff := cmp.Diff([]string{"waiting for a mirror"}, late.Output); diff != "" {
			t.Errorf("output (-want +got):\n%s", diff)
		}
		if took := time.Since(began); took != limit {
			t.Errorf("took %v, want %v", took, limit)
		}

		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := builder.BuildRevision(ctx, revision("f", 1, ""), orchestrator.Template{}, nil); !errors.Is(err, context.DeadlineExceeded) || errors.As(err, &late) && late.Code == "build-timeout" {
			t.Errorf("end of the caller's time: error %v, want the context's", err)
		}
	})
}

type recorded struct {
	Revision string
	Took     time.Duration
	Err      error
}

type listRecorder struct{ builds []recorded }

func (l *listRecorder) Built(r orchestrator.Revision, took time.Duration, err error) {
	l.builds = append(l.builds, recorded{r.ID, took, err})
}

func TestRecord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		next := &fakeBuilder{build: func(context.Context, orchestrator.Revision, progressFunc) (orchestrator.Image, error) {
			time.Sleep(3 * time.Second)
			return orchestrator.Image{}, orchestrator.ErrUnavailable
		}}
		var list listRecorder
		if _, err := build.Record(next, &list).BuildRevision(t.Context(), revision("f", 1, ""), orchestrator.Template{}, nil); !errors.Is(err, orchestrator.ErrUnavailable) {
			t.Errorf("error %v, want the builder's", err)
		}
		want := []recorded{{"r1-abc", 3 * time.Second, orchestrator.ErrUnavailable}}
		if diff := cmp.Diff(want, list.builds, cmp.Comparer(func(a, b error) bool { return a == b })); diff != "" {
			t.Errorf("recorded (-want +got):\n%s", diff)
		}
	})
}
