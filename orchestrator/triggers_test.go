package orchestrator_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kilnfaas/kiln/orchestrator"
)

// host remembers the triggers that run.
type host struct {
	running map[string][]orchestrator.Trigger
	served  int
}

func (h *host) Serve(function string, triggers []orchestrator.Trigger) {
	h.running[function] = triggers
	h.served++
}

func (h *host) Remove(function string) { delete(h.running, function) }

// TestTriggersGoWithTheLiveSettings through a function's life.
func TestTriggersGoWithTheLiveSettings(t *testing.T) {
	store := newStore(t)
	b := open(t, store)
	h := &host{running: map[string][]orchestrator.Trigger{}}
	b.Triggers = h
	with := func(names ...string) orchestrator.Spec {
		s := spec("hello")
		for _, name := range names {
			s.Triggers = append(s.Triggers, orchestrator.Trigger{Name: name, Type: "k"})
		}
		return s
	}
	want := func(when string, names ...string) {
		t.Helper()
		var got []string
		for _, trigger := range h.running["hello"] {
			got = append(got, trigger.Name)
		}
		if diff := cmp.Diff(names, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", when, diff)
		}
	}
	b.builder.fail = errors.New("broken")
	if _, _, err := b.Deploy(t.Context(), orchestrator.Deploy{Spec: with("never"), ArchiveDigest: "sha256:a"}, quiet); err == nil {
		t.Fatal("the deploy succeeded")
	}
	if h.served != 0 {
		t.Error("a function that never was live has triggers")
	}
	b.builder.fail = nil
	b.mustDeploy(t, with("one"), "sha256:a")
	want("after a deploy", "one")
	_, live := b.mustDeploy(t, with("one", "two"), "sha256:a")
	want("after a change of triggers alone", "one", "two")
	if live.Number != 2 {
		t.Errorf("a change of triggers made revision %d", live.Number)
	}
	b.mustDeploy(t, with("three"), "sha256:b")
	want("after another deploy", "three")
	if _, _, err := b.Rollback(t.Context(), "hello", ""); err != nil {
		t.Fatal(err)
	}
	want("after a rollback: those of now", "three")
	if _, _, err := b.Configure(t.Context(), "hello", func(s orchestrator.Spec) (orchestrator.Spec, error) {
		s.Triggers = with("four").Triggers
		return s, nil
	}); err != nil {
		t.Fatal(err)
	}
	want("after PATCH", "four")
	b.Close()
	h.running = map[string][]orchestrator.Trigger{}
	b = open(t, store, func(s *orchestrator.Service) { s.Triggers = h })
	want("after a restart", "four")
	if err := b.Remove(t.Context(), "hello"); err != nil {
		t.Fatal(err)
	}
	if len(h.running) != 0 {
		t.Errorf("after the removal %s runs", fmt.Sprint(h.running))
	}
}
