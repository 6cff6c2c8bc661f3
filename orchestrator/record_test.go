package orchestrator_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/storetest"
)

var errLost = orchestrator.Errorf(orchestrator.ErrUnavailable, "connection-lost", "the connection was lost")

// lossy is a store that does what it is asked, and whose answers get lost.
type lossy struct {
	orchestrator.Store
	puts, deletes int // so many answers more
}

func (s *lossy) PutFunction(ctx context.Context, f orchestrator.Function) (orchestrator.Function, error) {
	written, err := s.Store.PutFunction(ctx, f)
	if s.puts > 0 {
		s.puts--
		return orchestrator.Function{}, errLost
	}
	return written, err
}

func (s *lossy) DeleteFunction(ctx context.Context, name string, version uint64) error {
	err := s.Store.DeleteFunction(ctx, name, version)
	if s.deletes > 0 {
		s.deletes--
		return errLost
	}
	return err
}

func TestAWriteWhoseAnswerIsLostHappened(t *testing.T) {
	store := &lossy{Store: storetest.NewFake()}
	b := open(t, store)
	store.puts = 1 // of the record that a revision is being built
	b.mustDeploy(t, spec("hello"), "sha256:a")
	store.puts = 2 // that one and the switch
	_, second := b.mustDeploy(t, spec("hello"), "sha256:b")
	if got := b.fleet.live("hello").Revision.ID; got != second.ID {
		t.Errorf("served is %s, the store has %s", got, second.ID)
	}
	store.deletes = 1
	if err := b.Remove(t.Context(), "hello"); err != nil {
		t.Errorf("remove: %v", err)
	}
	if got := b.fleet.live("hello").Revision.ID; got != "" {
		t.Errorf("%s is still served", got)
	}
}

func TestChangesGoOnAfterAConflict(t *testing.T) {
	b := open(t, newStore(t))
	f, _ := b.mustDeploy(t, spec("hello"), "sha256:a")
	behind := func() { // as a write that came late does
		t.Helper()
		stored, err := b.Store.Function(t.Context(), "hello")
		if err == nil {
			stored.UpdatedAt = stored.UpdatedAt.Add(time.Second)
			_, err = b.Store.PutFunction(t.Context(), stored)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	behind()
	_, _, err := b.Deploy(t.Context(), orchestrator.Deploy{Spec: spec("hello"), ArchiveDigest: "sha256:b"}, quiet)
	if !errors.Is(err, orchestrator.ErrConflict) {
		t.Errorf("a deploy over a record of version %d gave %v", f.Version, err)
	}
	b.mustDeploy(t, spec("hello"), "sha256:b")
	behind()
	if err := b.Remove(t.Context(), "hello"); !errors.Is(err, orchestrator.ErrConflict) {
		t.Errorf("a removal gave %v", err)
	}
	if err := b.Remove(t.Context(), "hello"); err != nil {
		t.Errorf("the next removal gave %v", err)
	}
}

// slowFleet ends instances when it is told to, and has no room for new ones.
type slowFleet struct {
	*fleet
	gate chan struct{}
	full bool
}

func (f *slowFleet) Remove(ctx context.Context, name string) error {
	select {
	case <-f.gate:
	case <-ctx.Done():
		return ctx.Err()
	}
	return f.fleet.Remove(ctx, name)
}

func (f *slowFleet) Prove(ctx context.Context, r orchestrator.Release) error {
	if f.full {
		<-ctx.Done()
		return ctx.Err()
	}
	return f.fleet.Prove(ctx, r)
}

func TestRemovalOutlivesItsCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := open(t, newStore(t))
		b.mustDeploy(t, spec("hello"), "sha256:a")
		slow := &slowFleet{fleet: b.fleet, gate: make(chan struct{})}
		b.Fleet = slow
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := b.Remove(ctx, "hello"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the caller got %v", err)
		}
		close(slow.gate)
		synctest.Wait()
		if all, _ := b.Store.AllRevisions(t.Context()); len(all) != 0 || len(b.images.refs) != 0 {
			t.Errorf("left: %v, %v", all, b.images.refs)
		}
	})
}

func TestAFirstDeployInheritsNothing(t *testing.T) {
	b := open(t, newStore(t))
	_, old := b.mustDeploy(t, spec("other"), "sha256:old")
	old.Function, old.ID, old.Number = "hello", "r7-aaaaaa", 7 // what a removal that was cut off leaves
	if err := b.Store.PutRevision(t.Context(), old); err != nil {
		t.Fatal(err)
	}
	_, r := b.mustDeploy(t, spec("hello"), "sha256:a")
	if all, _ := b.Revisions(t.Context(), "hello"); len(all) != 1 || all[0].ID != r.ID {
		t.Errorf("revisions: %v", all)
	}
	if _, _, err := b.Rollback(t.Context(), "hello", "r7"); !errors.Is(err, orchestrator.ErrNotFound) {
		t.Errorf("a rollback to the code of a removed function gave %v", err)
	}
}

func TestADeployDoesNotWaitForRoomForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := open(t, newStore(t))
		_, first := b.mustDeploy(t, spec("hello"), "sha256:a")
		b.Fleet = &slowFleet{fleet: b.fleet, full: true}
		_, _, err := b.Deploy(t.Context(), orchestrator.Deploy{Spec: spec("hello"), ArchiveDigest: "sha256:b"}, quiet)
		var e *orchestrator.Error
		if !errors.As(err, &e) || e.Code != "no-capacity" {
			t.Errorf("got %v", err)
		}
		if f, _ := b.Function(t.Context(), "hello"); f.Live != first.ID {
			t.Errorf("live is %s", f.Live)
		}
	})
}

func TestScaleChangesWithoutABuildAfterAnUpgrade(t *testing.T) {
	b := open(t, newStore(t))
	_, first := b.mustDeploy(t, spec("hello"), "sha256:a")
	b.Templates = upgraded{}
	_, r, err := b.Configure(t.Context(), "hello", func(s orchestrator.Spec) (orchestrator.Spec, error) {
		s.Scale.Max = 3
		return s, nil
	})
	if err != nil || r.ID != first.ID || b.builder.builds != 1 || b.fleet.live("hello").Spec.Scale.Max != 3 {
		t.Errorf("got %s, %v, after %d builds", r.ID, err, b.builder.builds)
	}
}

// upgraded has a newer template.
type upgraded struct{ catalogue }

func (upgraded) Template(name string) (orchestrator.Template, error) {
	return orchestrator.Template{Name: name, Digest: "sha256:newer"}, nil
}
