package jetstream

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/kilnfaas/kiln/orchestrator"
)

// triggersBucket keeps the states of triggers by function and name. Renaming it
// loses what is in it.
const triggersBucket = "kiln-triggers"

// Triggers is an orchestrator.TriggerStore on JetStream.
type Triggers struct{ bucket *bucket }

var _ orchestrator.TriggerStore = (*Triggers)(nil)

// NewTriggers opens the states of triggers on a server, which remains the
// caller's. Errors are NewStore's.
func NewTriggers(ctx context.Context, server *Server) (*Triggers, error) {
	b, err := server.openBucket(ctx, triggersBucket, "Kiln: triggers by function and name")
	if err != nil {
		return nil, classify(ctx, "open the triggers", err)
	}
	return &Triggers{b}, nil
}

// TriggerStates implements orchestrator.TriggerStore.
func (s *Triggers) TriggerStates(ctx context.Context) ([]orchestrator.TriggerState, error) {
	found, err := s.bucket.list(ctx, "*.*")
	if err != nil {
		return nil, classify(ctx, "list triggers", err)
	}
	all, err := decodeAll(found, decodeTrigger)
	slices.SortFunc(all, func(a, b orchestrator.TriggerState) int {
		return cmp.Or(strings.Compare(a.Function, b.Function), strings.Compare(a.Trigger.Name, b.Trigger.Name))
	})
	return all, err
}

// TriggerState implements orchestrator.TriggerStore.
func (s *Triggers) TriggerState(ctx context.Context, function, name string) (orchestrator.TriggerState, error) {
	k, ok := key(function, name)
	if !ok {
		return orchestrator.TriggerState{}, noTrigger(function, name)
	}
	got, err := s.bucket.get(ctx, k)
	switch {
	case absent(err):
		return orchestrator.TriggerState{}, noTrigger(function, name)
	case err != nil:
		return orchestrator.TriggerState{}, classify(ctx, "read trigger "+k, err)
	}
	return decodeTrigger(got)
}

// PutTriggerState implements orchestrator.TriggerStore.
func (s *Triggers) PutTriggerState(ctx context.Context, state orchestrator.TriggerState) (orchestrator.TriggerState, error) {
	k, ok := key(state.Function, state.Trigger.Name)
	if !ok {
		return orchestrator.TriggerState{}, orchestrator.Errorf(orchestrator.ErrInvalid, "trigger-invalid", "%q is no name of a trigger of %q", state.Trigger.Name, state.Function)
	}
	value, err := json.Marshal(state)
	if err != nil {
		return orchestrator.TriggerState{}, orchestrator.Errorf(orchestrator.ErrInvalid, "trigger-invalid", "encode trigger %s: %w", k, err)
	}
	version, err := s.bucket.put(ctx, k, value, state.Version)
	switch {
	case conflicting(err):
		return orchestrator.TriggerState{}, orchestrator.Errorf(orchestrator.ErrConflict, "trigger-changed", "trigger %s was changed meanwhile", k).
			WithHint("read it again and repeat")
	case err != nil:
		return orchestrator.TriggerState{}, classify(ctx, "write trigger "+k, err)
	}
	state.Version = version
	return state, nil
}

// DeleteTriggerState implements orchestrator.TriggerStore.
func (s *Triggers) DeleteTriggerState(ctx context.Context, function, name string) error {
	k, ok := key(function, name)
	if !ok {
		return nil
	}
	err := s.bucket.drop(ctx, k)
	if absent(err) {
		return nil
	}
	return classify(ctx, "delete trigger "+k, err)
}

func decodeTrigger(e entry) (orchestrator.TriggerState, error) {
	var state orchestrator.TriggerState
	if err := json.Unmarshal(e.value, &state); err != nil {
		return state, fmt.Errorf("decode trigger %s: %w", e.key, err)
	}
	state.Version = e.sequence
	return state, nil
}

func noTrigger(function, name string) error {
	return orchestrator.Errorf(orchestrator.ErrNotFound, "trigger-not-found", "function %q has no trigger %q", function, name).
		WithHint("`kiln triggers ls` lists those there are")
}
