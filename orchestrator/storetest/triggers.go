package storetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kilnfaas/kiln/orchestrator"
)

// FakeTriggers is a TriggerStore in memory. Its contents outlive whoever uses it,
// so that a test can go on with it as a restarted gateway would.
type FakeTriggers struct {
	states *records[[2]string, orchestrator.TriggerState] // by function and name
}

var _ orchestrator.TriggerStore = (*FakeTriggers)(nil)

// NewFakeTriggers returns an empty TriggerStore.
func NewFakeTriggers() *FakeTriggers {
	order := func(a, b [2]string) int { return slices.Compare(a[:], b[:]) }
	return &FakeTriggers{newRecords("trigger", order, func(s *orchestrator.TriggerState) *uint64 { return &s.Version })}
}

// TriggerStates implements orchestrator.TriggerStore.
func (s *FakeTriggers) TriggerStates(ctx context.Context) ([]orchestrator.TriggerState, error) {
	return s.states.list(ctx)
}

// TriggerState implements orchestrator.TriggerStore.
func (s *FakeTriggers) TriggerState(ctx context.Context, function, name string) (orchestrator.TriggerState, error) {
	state, ok, err := s.states.get(ctx, [2]string{function, name})
	if err == nil && !ok {
		err = orchestrator.Errorf(orchestrator.ErrNotFound, "trigger-not-found", "function %q has no state of a trigger %q", function, name)
	}
	return state, err
}

// PutTriggerState implements orchestrator.TriggerStore.
func (s *FakeTriggers) PutTriggerState(ctx context.Context, state orchestrator.TriggerState) (orchestrator.TriggerState, error) {
	return s.states.put(ctx, [2]string{state.Function, state.Trigger.Name}, state)
}

// DeleteTriggerState implements orchestrator.TriggerStore.
func (s *FakeTriggers) DeleteTriggerState(ctx context.Context, function, name string) error {
	_, err := s.states.remove(ctx, [2]string{function, name}, whatever)
	return err
}

// RunTriggers checks a TriggerStore against its contract, as Run does a Store.
func RunTriggers(t *testing.T, open func(t *testing.T) orchestrator.TriggerStore) {
	for _, test := range []struct {
		name string
		run  func(*testing.T, orchestrator.TriggerStore)
	}{
		{"StateIsKeptAsWritten", stateIsKeptAsWritten},
		{"StatesAreSorted", statesAreSorted},
		{"CreateConflictsWithWhatExists", stateCreateConflicts},
		{"WriteOfAnOldVersionConflicts", stateOldVersionConflicts},
		{"RemovedStateStaysRemoved", removedStateStaysRemoved},
		{"StrangeNamesNameNothing", strangeStateNames},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, open(t)) })
	}
}

// TriggerState returns a state with every field set, for tests to store.
func TriggerState(function, name string) orchestrator.TriggerState {
	made := time.Date(2026, 3, 1, 12, 30, 15, 123456789, time.UTC)
	return orchestrator.TriggerState{
		Function: function,
		Trigger: orchestrator.Trigger{Name: name, Type: "schedule", Settings: orchestrator.Settings{
			"cron": "0 3 * * *", "n": 2.5, "on": true, "list": []any{"a", 1.0}, "below": map[string]any{"ü": "ß\n"},
		}},
		ID: "ABCDEFGHIJKLMNOPQRSTUVWXYZ", Position: []byte{0, 1, 255}, PausedAt: made.Add(time.Hour), MadeAt: made,
	}
}

func putState(t *testing.T, s orchestrator.TriggerStore, state orchestrator.TriggerState) orchestrator.TriggerState {
	t.Helper()
	put, err := s.PutTriggerState(t.Context(), state)
	if err != nil {
		t.Fatalf("PutTriggerState: %v", err)
	}
	return put
}

func stateIsKeptAsWritten(t *testing.T, s orchestrator.TriggerStore) {
	put := putState(t, s, TriggerState("f", "a"))
	if put.Version == 0 {
		t.Error("PutTriggerState returned version 0")
	}
	got, err := s.TriggerState(t.Context(), "f", "a")
	if diff := cmp.Diff(put, got); err != nil || diff != "" {
		t.Errorf("TriggerState (-put +got): %v\n%s", err, diff)
	}
	put.Position = make([]byte, orchestrator.MaxPosition)
	put.PausedAt = time.Time{}
	again := putState(t, s, put)
	all, err := s.TriggerStates(t.Context())
	if diff := cmp.Diff([]orchestrator.TriggerState{again}, all); err != nil || diff != "" {
		t.Errorf("TriggerStates after a change (-put +got): %v\n%s", err, diff)
	}
}

func statesAreSorted(t *testing.T, s orchestrator.TriggerStore) {
	if all, err := s.TriggerStates(t.Context()); err != nil || len(all) != 0 {
		t.Errorf("TriggerStates of an empty store = %v, %v", all, err)
	}
	want := []string{"f/a", "f/b", "f-1/c", "g/a"}
	for _, name := range []string{"g/a", "f/b", "f-1/c", "f/a"} {
		function, trigger, _ := strings.Cut(name, "/")
		putState(t, s, TriggerState(function, trigger))
	}
	all, err := s.TriggerStates(t.Context())
	var got []string
	for _, state := range all {
		got = append(got, state.Function+"/"+state.Trigger.Name)
	}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("TriggerStates (-want +got): %v\n%s", err, diff)
	}
}

func stateCreateConflicts(t *testing.T, s orchestrator.TriggerStore) {
	putState(t, s, TriggerState("f", "a"))
	_, err := s.PutTriggerState(t.Context(), TriggerState("f", "a"))
	wantClass(t, "PutTriggerState of what exists", err, orchestrator.ErrConflict)
}

func stateOldVersionConflicts(t *testing.T, s orchestrator.TriggerStore) {
	old := putState(t, s, TriggerState("f", "a"))
	putState(t, s, old)
	_, err := s.PutTriggerState(t.Context(), old)
	wantClass(t, "PutTriggerState of an old version", err, orchestrator.ErrConflict)
}

// removedStateStaysRemoved: a position that is written while its trigger goes
// must not bring it back.
func removedStateStaysRemoved(t *testing.T, s orchestrator.TriggerStore) {
	put := putState(t, s, TriggerState("f", "a"))
	for range 2 { // absent is no error
		if err := s.DeleteTriggerState(t.Context(), "f", "a"); err != nil {
			t.Fatalf("DeleteTriggerState: %v", err)
		}
	}
	_, err := s.PutTriggerState(t.Context(), put)
	wantClass(t, "PutTriggerState of a removed state", err, orchestrator.ErrConflict)
	_, err = s.TriggerState(t.Context(), "f", "a")
	wantClass(t, "TriggerState after the removal", err, orchestrator.ErrNotFound)
	put.Version = 0
	putState(t, s, put)
}

func strangeStateNames(t *testing.T, s orchestrator.TriggerStore) {
	putState(t, s, TriggerState("f", "a"))
	for _, name := range []string{"", "*", ">", "a.b", "a ", "a\x00"} {
		if err := s.DeleteTriggerState(t.Context(), "f", name); err != nil {
			t.Errorf("DeleteTriggerState(%q) = %v, want none: absent is no error", name, err)
		}
		_, err := s.TriggerState(t.Context(), name, "a")
		wantClass(t, fmt.Sprintf("TriggerState of %q", name), err, orchestrator.ErrNotFound)
		if _, err := s.PutTriggerState(t.Context(), TriggerState("f", "b")); err != nil && !errors.Is(err, orchestrator.ErrConflict) {
			t.Error(err)
		}
	}
	if all, err := s.TriggerStates(t.Context()); err != nil || len(all) != 2 {
		t.Errorf("TriggerStates = %v, %v, want the two that were put", all, err)
	}
}
