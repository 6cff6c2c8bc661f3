package orchestrator_test

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/storetest"
)

// fleet records what the use cases ask of the running side.
type fleet struct {
	mu     sync.Mutex
	served map[string]orchestrator.Release // guarded by mu
	proven map[string]int                  // proofs by revision id; guarded by mu
	refuse error                           // of Prove; guarded by mu
	ready  int                             // instances of each function; guarded by mu
	during func()                          // happens inside Prove
}

func newFleet() *fleet {
	return &fleet{served: map[string]orchestrator.Release{}, proven: map[string]int{}}
}

func (f *fleet) Prove(_ context.Context, r orchestrator.Release) error {
	if f.during != nil {
		f.during()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.refuse != nil {
		return f.refuse
	}
	f.proven[r.Revision.ID]++
	return nil
}

func (f *fleet) Discard(r orchestrator.Release) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.proven[r.Revision.ID]--
}

func (f *fleet) Serve(r orchestrator.Release) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.served[r.Spec.Name] = r
}

func (f *fleet) Remove(_ context.Context, name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.served, name)
	return nil
}

func (f *fleet) live(name string) orchestrator.Release {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.served[name]
}

func (f *fleet) Adopt(orchestrator.Container) bool { return false }
func (f *fleet) Died(string, int, bool)            {}
func (f *fleet) Owns(string) bool                  { return false }
func (f *fleet) Status(string) (orchestrator.FunctionStatus, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return orchestrator.FunctionStatus{Ready: f.ready}, f.ready > 0
}

// builder makes images known to images, or fails, or waits for its gate.
type builder struct {
	images *images
	gate   chan struct{} // when set, a build waits for a value
	began  chan string   // when set, gets each revision whose build begins

	mu     sync.Mutex
	fail   error // guarded by mu
	builds int   // guarded by mu
}

func (b *builder) BuildRevision(ctx context.Context, r orchestrator.Revision, _ orchestrator.Template, progress func(orchestrator.BuildEvent)) (orchestrator.Image, error) {
	if b.began != nil {
		b.began <- r.ID
	}
	if b.gate != nil {
		select {
		case <-b.gate:
		case <-ctx.Done():
			return orchestrator.Image{}, ctx.Err()
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.builds++
	if b.fail != nil {
		return orchestrator.Image{}, b.fail
	}
	progress(orchestrator.BuildEvent{Kind: orchestrator.BuildStep, Step: "1", State: orchestrator.StepDone})
	b.images.add(r.Image)
	return orchestrator.Image{ID: "sha256:" + r.ID}, nil
}

type rest interface{ orchestrator.Images }

type images struct {
	rest // not used
	mu   sync.Mutex
	refs map[string]bool // guarded by mu
	busy time.Time       // until then containers use them; guarded by mu
}

func (i *images) add(ref string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.refs[ref] = true
}

func (i *images) Image(_ context.Context, ref string) (orchestrator.Image, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if !i.refs[ref] {
		return orchestrator.Image{}, orchestrator.Errorf(orchestrator.ErrNotFound, "image-unknown", "no image %s", ref)
	}
	return orchestrator.Image{ID: ref}, nil
}

func (i *images) RemoveImage(_ context.Context, ref string) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if time.Now().Before(i.busy) {
		return orchestrator.Errorf(orchestrator.ErrConflict, "engine-conflict", "the image %s is in use", ref)
	}
	delete(i.refs, ref)
	return nil
}

type catalogue struct{}

func (catalogue) Template(name string) (orchestrator.Template, error) {
	if name != "python" {
		return orchestrator.Template{}, orchestrator.Errorf(orchestrator.ErrNotFound, "template-unknown", "no template %q", name)
	}
	return orchestrator.Template{Name: name, Digest: "sha256:t"}, nil
}
func (catalogue) Templates() []orchestrator.Template { return nil }

func newStore(t *testing.T) orchestrator.Store {
	t.Helper()
	return storetest.NewFake()
}

// bench is a Service with its surroundings.
type bench struct {
	*orchestrator.Service
	fleet   *fleet
	builder *builder
	images  *images
}

func open(t *testing.T, store orchestrator.Store, change ...func(*orchestrator.Service)) *bench {
	t.Helper()
	i := &images{refs: map[string]bool{}}
	b := &bench{fleet: newFleet(), builder: &builder{images: i}, images: i}
	b.Service = &orchestrator.Service{
		Store: store, Images: i, Builder: b.builder, Fleet: b.fleet, Templates: catalogue{},
		BuildDigest: func(archive, template string, spec orchestrator.Spec) string {
			return archive + template + strings.Join(spec.Build.Packages, ",")
		},
		Logger: slog.New(slog.DiscardHandler),
	}
	for _, f := range change {
		f(b.Service)
	}
	if err := b.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

func spec(name string) orchestrator.Spec {
	s := orchestrator.DefaultSpec()
	s.Name, s.Template = name, "python"
	return s
}

func quiet(orchestrator.BuildEvent) {}

func (b *bench) mustDeploy(t *testing.T, s orchestrator.Spec, archive string) (orchestrator.Function, orchestrator.Revision) {
	t.Helper()
	f, r, err := b.Deploy(t.Context(), orchestrator.Deploy{Spec: s, ArchiveDigest: archive}, quiet)
	if err != nil {
		t.Fatalf("deploy: %v", err)
	}
	return f, r
}

func TestDeployGoesLive(t *testing.T) {
	b := open(t, newStore(t))
	f, r := b.mustDeploy(t, spec("hello"), "sha256:a")
	if f.Live != r.ID || r.Status != orchestrator.RevisionReady || r.Number != 1 {
		t.Errorf("got function %+v, revision %+v", f, r)
	}
	if got := b.fleet.live("hello").Revision.ID; got != r.ID {
		t.Errorf("served revision is %q, want %q", got, r.ID)
	}
	stored, err := b.Store.Function(t.Context(), "hello")
	if err != nil || stored.Live != r.ID {
		t.Errorf("stored function is %+v, %v", stored, err)
	}
}

func TestDeployOfTheSameChangesNothing(t *testing.T) {
	b := open(t, newStore(t))
	_, first := b.mustDeploy(t, spec("hello"), "sha256:a")
	_, again := b.mustDeploy(t, spec("hello"), "sha256:a")
	if again.ID != first.ID || b.builder.builds != 1 {
		t.Errorf("second deploy gave %s after %s, %d builds", again.ID, first.ID, b.builder.builds)
	}
	b.images.RemoveImage(t.Context(), first.Image)
	if _, third := b.mustDeploy(t, spec("hello"), "sha256:a"); third.ID == first.ID {
		t.Errorf("the image was gone, yet nothing was built")
	}
}

func TestFailureLeavesTheOldLive(t *testing.T) {
	broken := orchestrator.Errorf(orchestrator.ErrFunction, "broken", "it broke")
	for _, tt := range []struct {
		name string
		arm  func(*bench)
	}{
		{"build", func(b *bench) { b.builder.fail = broken }},
		{"prove", func(b *bench) { b.fleet.refuse = broken }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := open(t, newStore(t))
			_, old := b.mustDeploy(t, spec("hello"), "sha256:a")
			tt.arm(b)
			_, _, err := b.Deploy(t.Context(), orchestrator.Deploy{Spec: spec("hello"), ArchiveDigest: "sha256:b"}, quiet)
			if !errors.Is(err, orchestrator.ErrFunction) {
				t.Fatalf("got error %v", err)
			}
			f, _ := b.Function(t.Context(), "hello")
			if f.Live != old.ID || b.fleet.live("hello").Revision.ID != old.ID {
				t.Errorf("live is %q, served %q, want %q", f.Live, b.fleet.live("hello").Revision.ID, old.ID)
			}
			revisions, _ := b.Revisions(t.Context(), "hello")
			if revisions[0].Status != orchestrator.RevisionFailed || revisions[0].Error == "" {
				t.Errorf("the failed revision is recorded as %+v", revisions[0])
			}
		})
	}
}

func TestDeployOutlivesItsCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := open(t, newStore(t))
		b.builder.gate, b.builder.began = make(chan struct{}), make(chan string, 1)
		ctx, cancel := context.WithCancel(t.Context())
		left := make(chan error)
		go func() {
			_, _, err := b.Deploy(ctx, orchestrator.Deploy{Spec: spec("hello"), ArchiveDigest: "sha256:a"}, quiet)
			left <- err
		}()
		<-b.builder.began
		cancel()
		if err := <-left; !errors.Is(err, context.Canceled) {
			t.Errorf("the caller got %v", err)
		}
		if !b.Needs("sha256:a") {
			t.Error("the archive is free to be removed while it is built")
		}
		b.builder.gate <- struct{}{}
		synctest.Wait()
		if f, err := b.Function(t.Context(), "hello"); err != nil || f.Live == "" || b.Needs("sha256:a") {
			t.Errorf("after the caller left: %+v, %v", f, err)
		}
	})
}

func TestLatestOfWaitingDeploysWins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := open(t, newStore(t))
		b.builder.gate, b.builder.began = make(chan struct{}), make(chan string, 3)
		errs := map[string]chan error{}
		for _, archive := range []string{"sha256:a", "sha256:b", "sha256:c"} {
			done := make(chan error, 1)
			errs[archive] = done
			go func() {
				_, _, err := b.Deploy(t.Context(), orchestrator.Deploy{Spec: spec("hello"), ArchiveDigest: archive}, quiet)
				done <- err
			}()
			synctest.Wait()
		}
		if err := <-errs["sha256:b"]; !errors.Is(err, orchestrator.ErrConflict) {
			t.Errorf("the middle deploy got %v, want a conflict", err)
		}
		b.builder.gate <- struct{}{}
		b.builder.gate <- struct{}{}
		for _, archive := range []string{"sha256:a", "sha256:c"} {
			if err := <-errs[archive]; err != nil {
				t.Errorf("deploy of %s: %v", archive, err)
			}
		}
		if got := b.fleet.live("hello").Revision.ArchiveDigest; got != "sha256:c" {
			t.Errorf("live is %s, want the latest", got)
		}
	})
}

func TestRemoveInterruptsADeploy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := open(t, newStore(t))
		b.mustDeploy(t, spec("hello"), "sha256:a")
		b.builder.gate, b.builder.began = make(chan struct{}), make(chan string, 1)
		done := make(chan error, 1)
		go func() {
			_, _, err := b.Deploy(t.Context(), orchestrator.Deploy{Spec: spec("hello"), ArchiveDigest: "sha256:b"}, quiet)
			done <- err
		}()
		<-b.builder.began
		if err := b.Remove(t.Context(), "hello"); err != nil {
			t.Fatal(err)
		}
		var e *orchestrator.Error
		if err := <-done; !errors.As(err, &e) || e.Code != "removed" {
			t.Errorf("the deploy got %v", err)
		}
		if _, err := b.Function(t.Context(), "hello"); !errors.Is(err, orchestrator.ErrNotFound) {
			t.Errorf("function after its removal: %v", err)
		}
		if all, _ := b.Store.AllRevisions(t.Context()); len(all) != 0 {
			t.Errorf("%d revisions are left", len(all))
		}
		if len(b.images.refs) != 0 {
			t.Errorf("images are left: %v", b.images.refs)
		}
	})
}

// users is an engine with containers that use the images.
type users struct {
	orchestrator.Engine // not used
	containers          []orchestrator.Container
}

func (u users) List(_ context.Context, labels map[string]string) ([]orchestrator.Container, error) {
	return slices.DeleteFunc(slices.Clone(u.containers), func(c orchestrator.Container) bool {
		return c.Labels[orchestrator.LabelKind] != labels[orchestrator.LabelKind]
	}), nil
}

// TestRemoveWaitsForContainers removes a function while a start that was
// abandoned, or somebody else's container, still holds its image.
func TestRemoveWaitsForContainers(t *testing.T) {
	for _, c := range []struct {
		kind string // an image's is inherited by containers that others start
		busy time.Duration
		left int
		wait bool
	}{
		{orchestrator.KindInstance, 5 * time.Second, 0, true},
		{orchestrator.KindInstance, time.Minute, 1, true},
		{orchestrator.KindEntry, 5 * time.Second, 0, true},
		{orchestrator.KindImage, 5 * time.Second, 1, false},
	} {
		synctest.Test(t, func(t *testing.T) {
			b := open(t, newStore(t))
			_, r := b.mustDeploy(t, spec("hello"), "sha256:a")
			b.images.busy = time.Now().Add(c.busy)
			b.Engine = users{containers: []orchestrator.Container{
				{Image: r.Image, Labels: map[string]string{orchestrator.LabelKind: c.kind}},
				{Image: "kiln/other:r1", Labels: map[string]string{orchestrator.LabelKind: orchestrator.KindInstance}},
			}}
			start := time.Now()
			if err := b.Remove(t.Context(), "hello"); err != nil {
				t.Fatal(err)
			}
			if len(b.images.refs) != c.left {
				t.Errorf("%s for %s more: images left %v, want %d", c.kind, c.busy, b.images.refs, c.left)
			}
			if waited := time.Since(start); (waited > 0) != c.wait {
				t.Errorf("%s for %s more: waited %s, want a wait: %v", c.kind, c.busy, waited, c.wait)
			}
		})
	}
}

func TestConfigureInPlaceOrAsRevision(t *testing.T) {
	b := open(t, newStore(t))
	_, first := b.mustDeploy(t, spec("hello"), "sha256:a")
	_, r, err := b.Configure(t.Context(), "hello", func(s orchestrator.Spec) (orchestrator.Spec, error) {
		s.Scale.Max = 3
		return s, nil
	})
	if err != nil || r.ID != first.ID || b.fleet.live("hello").Spec.Scale.Max != 3 {
		t.Errorf("changing the scale gave %s (%v), max %d", r.ID, err, b.fleet.live("hello").Spec.Scale.Max)
	}
	_, r, err = b.Configure(t.Context(), "hello", func(s orchestrator.Spec) (orchestrator.Spec, error) {
		s.Env = map[string]string{"A": "1"}
		return s, nil
	})
	if err != nil || r.ID == first.ID || r.ArchiveDigest != "sha256:a" {
		t.Errorf("changing the environment gave %+v (%v)", r, err)
	}
}

func TestRollback(t *testing.T) {
	b := open(t, newStore(t))
	_, first := b.mustDeploy(t, spec("hello"), "sha256:a")
	_, second := b.mustDeploy(t, spec("hello"), "sha256:b")
	if _, r, err := b.Rollback(t.Context(), "hello", ""); err != nil || r.ID != first.ID {
		t.Errorf("rollback gave %s, %v", r.ID, err)
	}
	if got := b.fleet.live("hello").Revision.ID; got != first.ID {
		t.Errorf("served is %s", got)
	}
	if _, r, err := b.Rollback(t.Context(), "hello", "r2"); err != nil || r.ID != second.ID {
		t.Errorf("rollback to r2 gave %s, %v", r.ID, err)
	}
	b.images.RemoveImage(t.Context(), first.Image)
	if _, r, err := b.Rollback(t.Context(), "hello", first.ID); err != nil || r.ID != first.ID {
		t.Errorf("rollback to a deleted image gave %s, %v", r.ID, err)
	}
	if _, _, err := b.Rollback(t.Context(), "hello", "9"); !errors.Is(err, orchestrator.ErrNotFound) {
		t.Errorf("rollback to the unknown gave %v", err)
	}
	if _, _, err := b.Rollback(t.Context(), "hello", ""); !errors.Is(err, orchestrator.ErrConflict) {
		t.Errorf("rollback before the first gave %v", err)
	}
}

// TestRollbackOpensNothing goes back to a revision that was public.
func TestRollbackOpensNothing(t *testing.T) {
	b := open(t, newStore(t))
	_, first := b.mustDeploy(t, spec("hello"), "sha256:a")
	closed := spec("hello")
	closed.Access, closed.Rate = orchestrator.AccessToken, orchestrator.Rate{PerSecond: 5}
	b.mustDeploy(t, closed, "sha256:b")
	f, r, err := b.Rollback(t.Context(), "hello", "")
	if err != nil || r.ID != first.ID {
		t.Fatalf("rollback gave %s, %v", r.ID, err)
	}
	if served := b.fleet.live("hello").Spec; f.Spec.Access != closed.Access || served.Access != closed.Access || served.Rate != closed.Rate {
		t.Errorf("after the rollback access is %q and rate %v, want those of now", served.Access, served.Rate)
	}
}

func TestOpenServesWhatWasLive(t *testing.T) {
	store := newStore(t)
	before := open(t, store)
	_, live := before.mustDeploy(t, spec("hello"), "sha256:a")
	halfway := live
	halfway.ID, halfway.Number, halfway.Status = "r2-aaaaaa", 2, orchestrator.RevisionBuilding
	if err := store.PutRevision(t.Context(), halfway); err != nil {
		t.Fatal(err)
	}
	before.Close()

	after := open(t, store)
	if got := after.fleet.live("hello").Revision.ID; got != live.ID {
		t.Errorf("served after the restart is %q, want %q", got, live.ID)
	}
	if r, err := store.Revision(t.Context(), "hello", halfway.ID); err != nil || r.Status != orchestrator.RevisionFailed {
		t.Errorf("the interrupted revision is %+v, %v", r, err)
	}
}

func TestPruneKeepsFiveAndTheLive(t *testing.T) {
	b := open(t, newStore(t))
	_, first := b.mustDeploy(t, spec("hello"), "sha256:0")
	for _, archive := range []string{"1", "2", "3", "4", "5", "6"} {
		b.mustDeploy(t, spec("hello"), archive)
	}
	if _, _, err := b.Rollback(t.Context(), "hello", first.ID); err != nil {
		t.Fatal(err)
	}
	if err := b.Prune(t.Context()); err != nil {
		t.Fatal(err)
	}
	revisions, _ := b.Revisions(t.Context(), "hello")
	var ready []int
	for _, r := range revisions {
		if r.Status == orchestrator.RevisionReady {
			ready = append(ready, r.Number)
		}
	}
	if want := []int{7, 6, 5, 4, 3, 1}; !slices.Equal(ready, want) {
		t.Errorf("ready revisions are %v, want %v", ready, want)
	}
	if len(b.images.refs) != 6 {
		t.Errorf("images: %v", b.images.refs)
	}
}

// runtimes is an engine that knows these.
type runtimes struct {
	orchestrator.Engine // not used
	names               []string
}

func (r runtimes) Info(context.Context) (orchestrator.EngineInfo, error) {
	return orchestrator.EngineInfo{Runtimes: r.names}, nil
}

// TestUnknownRuntime: nothing is built for a runtime that the engine does not
// have, and no way leads around that.
func TestUnknownRuntime(t *testing.T) {
	b := open(t, newStore(t))
	b.Engine = runtimes{names: []string{"runc", "runsc"}}
	gvisor := spec("hello")
	gvisor.Runtime = "runsc"
	_, first := b.mustDeploy(t, gvisor, "sha256:a")
	b.mustDeploy(t, spec("hello"), "sha256:b")
	builds := b.builder.builds
	b.Engine = runtimes{names: []string{"runc"}} // somebody has removed it
	for name, change := range map[string]func() error{
		"deploy": func() error {
			_, _, err := b.Deploy(t.Context(), orchestrator.Deploy{Spec: gvisor, ArchiveDigest: "sha256:c"}, quiet)
			return err
		},
		"configure": func() error {
			_, _, err := b.Configure(t.Context(), "hello", func(s orchestrator.Spec) (orchestrator.Spec, error) {
				s.Runtime = "runsc"
				return s, nil
			})
			return err
		},
		"rollback": func() error {
			_, _, err := b.Rollback(t.Context(), "hello", first.ID)
			return err
		},
	} {
		err := change()
		var known *orchestrator.Error
		if !errors.Is(err, orchestrator.ErrInvalid) || !errors.As(err, &known) || known.Code != "runtime-unknown" || !strings.Contains(known.Hint, "it has runc;") {
			t.Errorf("%s: got %#v, want runtime-unknown that names what there is", name, err)
		}
	}
	if b.builder.builds != builds {
		t.Errorf("%d builds for it", b.builder.builds-builds)
	}
}
