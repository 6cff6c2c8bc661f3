package trigger

import (
	"context"
	"errors"
	"time"

	"github.com/google/uuid"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/events"
)

// Pauses that senders are asked for.
const (
	pausedRetry   = time.Minute
	startingRetry = time.Second
)

func conflict(err error) bool { return errors.Is(err, orchestrator.ErrConflict) }

// find returns the runner of a trigger that is wanted; ErrNotFound.
func (e *Engine) find(function, trigger string) (*runner, error) {
	e.mu.Lock()
	r := e.runners[name{function, trigger}]
	e.mu.Unlock()
	if r != nil {
		if _, ok := r.status(time.Now()); ok {
			return r, nil
		}
	}
	return nil, orchestrator.Errorf(orchestrator.ErrNotFound, "trigger-unknown", "function %q has no trigger %.80q", function, trigger).
		WithHint("kiln triggers ls shows those there are")
}

// Trigger describes one trigger; ErrNotFound.
func (e *Engine) Trigger(function, trigger string) (orchestrator.TriggerStatus, error) {
	r, err := e.find(function, trigger)
	if err != nil {
		return orchestrator.TriggerStatus{}, err
	}
	s, _ := r.status(time.Now())
	return s, nil
}

// Pause ends the Run of a trigger and keeps it from running until Resume, also
// over restarts. It returns once nothing is delivered any more. Errors:
// ErrNotFound, the store's, ErrDeadline when the Run does not end.
func (e *Engine) Pause(ctx context.Context, function, trigger string) (orchestrator.TriggerStatus, error) {
	r, err := e.find(function, trigger)
	if err != nil {
		return orchestrator.TriggerStatus{}, err
	}
	now := time.Now().UTC().Round(0)
	err = r.change(ctx, func(state *orchestrator.TriggerState) {
		if state.PausedAt.IsZero() {
			state.PausedAt = now
		}
	})
	if err != nil {
		return orchestrator.TriggerStatus{}, err
	}
	r.mu.Lock()
	r.disturb()
	calm := r.calm
	r.mu.Unlock()
	select {
	case <-calm:
	case <-ctx.Done():
		return orchestrator.TriggerStatus{}, orchestrator.Errorf(orchestrator.ErrDeadline, "trigger-ending", "the trigger has not ended yet: %w", context.Cause(ctx))
	}
	return e.Trigger(function, trigger)
}

// Resume undoes Pause: the trigger goes on where it was. Errors are ErrNotFound
// and the store's.
func (e *Engine) Resume(ctx context.Context, function, trigger string) (orchestrator.TriggerStatus, error) {
	r, err := e.find(function, trigger)
	if err != nil {
		return orchestrator.TriggerStatus{}, err
	}
	err = r.change(ctx, func(state *orchestrator.TriggerState) {
		state.PausedAt = time.Time{}
	})
	if err != nil {
		return orchestrator.TriggerStatus{}, err
	}
	r.mu.Lock()
	r.wakeUp()
	r.mu.Unlock()
	return e.Trigger(function, trigger)
}

// Test queues an event as the trigger would deliver it and returns its
// invocation. It also works while the trigger is paused. Errors are ErrNotFound
// and the queue's.
func (e *Engine) Test(ctx context.Context, function, trigger string) (orchestrator.Invocation, error) {
	r, err := e.find(function, trigger)
	if err != nil {
		return orchestrator.Invocation{}, err
	}
	r.mu.Lock()
	id := r.state.ID
	want := r.want
	r.mu.Unlock()
	e.mu.Lock()
	queue := e.queue
	e.mu.Unlock()
	if want == nil || queue == nil || e.cfg.Sources[want.Type] == nil {
		return orchestrator.Invocation{}, orchestrator.Errorf(orchestrator.ErrUnavailable, "trigger-starting", "the trigger is not ready").WithHint("try again in a moment")
	}
	event := e.cfg.Sources[want.Type].Sample(*want)
	event.ID = "test-" + uuid.NewString()
	request, err := r.request(id, &event)
	if err != nil {
		return orchestrator.Invocation{}, err
	}
	queued, err := queue.EnqueueAll(ctx, []events.Request{request})
	if err != nil {
		return orchestrator.Invocation{}, err
	}
	return queued[0].Invocation, nil
}

// Listens says whether there is a hook of an id whose trigger takes requests, as
// Receive does, before a request's body is read for nothing.
func (e *Engine) Listens(id string) error {
	_, err := e.hook(id)
	return err
}

// hook is a trigger that takes requests.
type hook struct {
	runner   *runner
	receiver orchestrator.Receiver
	trigger  orchestrator.Trigger
	feed     *feed
}

// hook finds the trigger of an id. Errors are Receive's.
func (e *Engine) hook(id string) (hook, error) {
	e.mu.Lock()
	r := e.byID[id]
	e.mu.Unlock()
	unknown := orchestrator.Errorf(orchestrator.ErrNotFound, "hook-unknown", "there is no such hook").
		WithHint("kiln triggers describe shows the address of a trigger")
	if r == nil {
		return hook{}, unknown
	}
	r.mu.Lock()
	feed, want, paused := r.feed, r.want, !r.state.PausedAt.IsZero()
	r.mu.Unlock()
	if want == nil {
		return hook{}, unknown
	}
	receiver, ok := e.cfg.Sources[want.Type].(orchestrator.Receiver)
	switch {
	case !ok:
		return hook{}, unknown
	case paused:
		err := orchestrator.Errorf(orchestrator.ErrUnavailable, "trigger-paused", "the trigger is paused").WithHint("kiln triggers resume lets it go on")
		err.RetryAfter = pausedRetry
		return hook{}, err
	case feed == nil:
		err := orchestrator.Errorf(orchestrator.ErrUnavailable, "trigger-starting", "the trigger is not ready")
		err.RetryAfter = startingRetry
		return hook{}, err
	}
	return hook{r, receiver, *want, feed}, nil
}

// Receive takes a request to the hook of an id in. Errors: ErrNotFound when there
// is none, ErrUnavailable while its trigger is paused or not ready, and the
// Receiver's.
func (e *Engine) Receive(ctx context.Context, id string, request orchestrator.Incoming) (orchestrator.Reply, error) {
	h, err := e.hook(id)
	if err != nil {
		return orchestrator.Reply{}, err
	}
	var reply orchestrator.Reply
	err = protect(func() (err error) {
		reply, err = h.receiver.Receive(ctx, h.trigger, h.feed, request)
		return err
	})
	h.runner.received(err)
	return reply, err
}
