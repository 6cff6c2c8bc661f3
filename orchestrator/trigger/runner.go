package trigger

import (
	"context"
	"crypto/rand"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	"github.com/kilnfaas/kiln/orchestrator"
)

const (
	// stateTimeout bounds one write of a state.
	stateTimeout = 15 * time.Second
	// maxErrorText bounds what is shown of an error, in bytes.
	maxErrorText = 512
)

// runner is a trigger, its goroutine, and how it does.
type runner struct {
	engine *Engine
	name   name
	wake   chan struct{} // holds one token when there may be something else to do
	pen    chan struct{} // holds one token while nobody writes the state

	mu     sync.Mutex                // guards all that follows; never held across I/O
	want   *orchestrator.Trigger     // nil = it is to go
	renew  bool                      // what is stored belongs to a trigger that went
	state  orchestrator.TriggerState // as stored; Version 0 = not yet
	feed   *feed                     // of the Run that runs
	cancel context.CancelFunc        // ends that
	phase  orchestrator.TriggerPhase
	calm   chan struct{} // closed while no Run runs
	stats  stats
}

func newRunner(e *Engine, n name) *runner {
	r := &runner{
		engine: e, name: n, wake: make(chan struct{}, 1), pen: make(chan struct{}, 1),
		phase: orchestrator.TriggerStarting, calm: make(chan struct{}),
	}
	r.pen <- struct{}{}
	close(r.calm)
	r.stats.progress.Pending = -1
	return r
}

// restore takes what is stored of the trigger, before the runner starts.
func (r *runner) restore(state orchestrator.TriggerState) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.state = state
	r.renew = r.want == nil
}

// serveTrigger makes t what is wanted.
func (r *runner) serveTrigger(t orchestrator.Trigger) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.want != nil && r.want.Equal(t) {
		return
	}
	r.want = &t
	r.disturb()
}

// remove makes nothing wanted: the trigger goes for good.
func (r *runner) remove() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.want == nil {
		return
	}
	r.want, r.renew = nil, true
	r.disturb()
}

// disturb ends the Run that runs and has the runner look again; mu is held.
func (r *runner) disturb() {
	if r.cancel != nil {
		r.cancel()
	}
	r.wakeUp()
}

// wakeUp has the runner look again if it rests.
func (r *runner) wakeUp() {
	select {
	case r.wake <- struct{}{}:
	default: // it will look anyway
	}
}

// step is what a runner does next.
type step int

const (
	stepEnd   step = iota // the trigger is gone
	stepClear             // forget a trigger that went
	stepWrite             // store what the trigger is
	stepRest              // paused
	stepRun
)

// next decides what to do from what is wanted and what is stored; mu is held.
func (r *runner) next() step {
	switch {
	case r.outdated():
		return stepClear
	case r.want == nil:
		return stepEnd
	case r.state.Version == 0 || !r.state.Trigger.Equal(*r.want):
		return stepWrite
	case !r.state.PausedAt.IsZero():
		return stepRest
	}
	return stepRun
}

// serve is the runner's goroutine.
func (r *runner) serve() {
	defer r.engine.work.Done()
	failures, last := 0, stepEnd // in a row, of one step
	for r.engine.ctx.Err() == nil {
		select {
		case <-r.wake: // what it tells of is seen now
		default:
		}
		r.mu.Lock()
		step := r.next()
		r.mu.Unlock()
		if step != last {
			failures, last = 0, step
		}
		var err error
		switch step {
		case stepEnd:
			if r.engine.retired(r) {
				return
			}
		case stepClear:
			err = r.clear(failures)
		case stepWrite:
			err = r.write(r.engine.ctx, r.become)
		case stepRest:
			r.rest(0)
		case stepRun:
			began := time.Now()
			err = r.run()
			if time.Since(began) > orchestrator.RestartPauseMax {
				failures = 0
			}
		}
		if err == nil {
			if step != stepRun {
				failures = 0
			}
			continue
		}
		pause := min(orchestrator.RestartPause<<min(failures, maxDoublings), orchestrator.RestartPauseMax)
		failures++
		r.fail(err)
		r.engine.cfg.Logger.Warn("trigger failed", "function", r.name.function, "trigger", r.name.trigger, "error", err, "again_in", pause)
		r.rest(pause)
	}
}

// maxDoublings keeps a pause from overflowing.
const maxDoublings = 16

// rest waits for something else to do, for ever when pause is 0.
func (r *runner) rest(pause time.Duration) {
	var over <-chan time.Time
	r.mu.Lock()
	r.phase, r.stats.retryAt = orchestrator.TriggerPaused, time.Time{}
	if pause > 0 {
		timer := time.NewTimer(pause)
		defer timer.Stop()
		over = timer.C
		r.phase, r.stats.retryAt = orchestrator.TriggerRetrying, time.Now().Add(pause)
	}
	r.mu.Unlock()
	select {
	case <-r.wake:
	case <-over:
	case <-r.engine.ctx.Done():
	}
	r.mu.Lock()
	r.phase, r.stats.retryAt = orchestrator.TriggerStarting, time.Time{}
	r.mu.Unlock()
}

// become makes a state that of the trigger that is wanted; mu is held.
func (r *runner) become(state *orchestrator.TriggerState) {
	if r.want == nil || r.outdated() {
		return // what is stored goes first
	}
	if state.Version == 0 {
		*state = orchestrator.TriggerState{Function: r.name.function, ID: rand.Text(), MadeAt: time.Now().UTC().Round(0)}
	}
	state.Trigger = *r.want
}

// write stores a changed state. One write of a trigger's state follows the other;
// change is called with mu held.
func (r *runner) write(ctx context.Context, change func(*orchestrator.TriggerState)) error {
	select {
	case <-r.pen:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() { r.pen <- struct{}{} }()
	r.mu.Lock()
	state := r.state
	change(&state)
	was := r.state.ID
	r.mu.Unlock()
	if state.Trigger.Name == "" {
		return nil // it went, and there is nothing to store any more
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stateTimeout)
	defer cancel()
	stored, err := r.put(ctx, state)
	if err != nil {
		return err
	}
	r.engine.known(r, was, stored.ID)
	r.mu.Lock()
	r.state = stored
	r.mu.Unlock()
	return nil
}

// put stores a state. When it was written although an earlier write said that it
// was not, the version is another one than is known.
func (r *runner) put(ctx context.Context, state orchestrator.TriggerState) (orchestrator.TriggerState, error) {
	store := r.engine.cfg.Store
	stored, err := store.PutTriggerState(ctx, state)
	if !conflict(err) {
		return stored, err
	}
	there, lookErr := store.TriggerState(ctx, r.name.function, r.name.trigger)
	if lookErr != nil || state.Version != 0 && there.ID != state.ID {
		return stored, err
	}
	if state.Version == 0 {
		state.ID, state.MadeAt = there.ID, there.MadeAt
	}
	state.Version = there.Version
	return store.PutTriggerState(ctx, state)
}

// clear takes away what a trigger that went has left: what its source made
// outside, and its state. failures is how often that has failed by now.
func (r *runner) clear(failures int) error {
	r.mu.Lock()
	state := r.state
	r.phase = orchestrator.TriggerStarting
	r.mu.Unlock()
	if forgetter, ok := r.engine.cfg.Sources[state.Trigger.Type].(orchestrator.Forgetter); ok && state.Version != 0 {
		ctx, cancel := context.WithTimeout(r.engine.ctx, orchestrator.ForgetTimeout)
		err := protect(func() error { return forgetter.Forget(ctx, state.Trigger, state.ID, state.Position) })
		cancel()
		if err != nil && (failures < orchestrator.ForgetTries-1 || r.engine.ctx.Err() != nil) {
			return fmt.Errorf("clear away what a removed trigger has left outside: %w", err)
		}
		if err != nil {
			r.engine.cfg.Logger.Error("what a removed trigger has left outside stays there", "function", r.name.function,
				"trigger", r.name.trigger, "type", state.Trigger.Type, "id", state.ID, "error", err)
		}
	}
	select {
	case <-r.pen:
	case <-r.engine.ctx.Done():
		return nil
	}
	defer func() { r.pen <- struct{}{} }()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.engine.ctx), stateTimeout)
	defer cancel()
	if err := r.engine.cfg.Store.DeleteTriggerState(ctx, r.name.function, r.name.trigger); err != nil {
		return fmt.Errorf("clear away a removed trigger: %w", err)
	}
	r.engine.known(r, state.ID, "")
	r.mu.Lock()
	r.state, r.renew, r.stats = orchestrator.TriggerState{}, false, stats{progress: orchestrator.Progress{Pending: -1}}
	r.mu.Unlock()
	return nil
}

// run runs the source until it returns, and says why when nobody wanted that.
func (r *runner) run() error {
	ctx, cancel := context.WithCancel(r.engine.ctx)
	defer cancel()
	r.mu.Lock()
	if r.next() != stepRun {
		r.mu.Unlock()
		return nil
	}
	trigger := *r.want
	source := r.engine.cfg.Sources[trigger.Type]
	if source == nil {
		r.mu.Unlock()
		return orchestrator.Errorf(orchestrator.ErrInvalid, "trigger-type-unknown", "this gateway has no triggers of type %.80q", trigger.Type)
	}
	feed := newFeed(r, r.state)
	r.feed, r.cancel, r.phase, r.calm = feed, cancel, orchestrator.TriggerStarting, make(chan struct{})
	calm := r.calm
	r.mu.Unlock()

	watched := r.watch(ctx, calm)
	err := protect(func() error { return source.Run(ctx, trigger, feed) })
	unwanted := ctx.Err() != nil
	feed.close()
	feed.flush()
	r.mu.Lock()
	r.feed, r.cancel, r.phase = nil, nil, orchestrator.TriggerStarting
	close(calm)
	r.mu.Unlock()
	watched()
	if unwanted {
		return nil
	}
	if err == nil {
		err = orchestrator.Errorf(orchestrator.ErrUnavailable, "source-ended", "the source has ended")
	}
	return err
}

// watch complains of a Run that does not return after ctx ended. What it returns
// waits for that, once calm is closed.
func (r *runner) watch(ctx context.Context, calm <-chan struct{}) (end func()) {
	over := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(over)
		select {
		case <-calm:
		case <-time.After(orchestrator.StopTimeout):
			r.engine.cfg.Logger.Error("a trigger does not end", "function", r.name.function, "trigger", r.name.trigger)
		}
	})
	return func() {
		if !stop() {
			<-over
		}
	}
}

// protect makes a panic of a source an error of its trigger: the others, and the
// gateway, go on.
func protect(f func() error) (err error) {
	defer func() {
		if cause := recover(); cause != nil {
			err = &orchestrator.Error{
				Class: orchestrator.ErrUnavailable, Code: "source-panicked", Detail: fmt.Sprint("the source panicked: ", cause), Cause: fmt.Errorf("%s", debug.Stack()),
			}
		}
	}()
	return f()
}

// outdated says whether what is stored belongs to a trigger that went, and has to
// be cleared away; mu is held.
func (r *runner) outdated() bool {
	return r.renew || r.want != nil && r.state.Version != 0 && r.want.Type != r.state.Trigger.Type
}

// change stores what people changed of a trigger. It refuses while the one before
// it is cleared away: the change would go with that.
func (r *runner) change(ctx context.Context, edit func(*orchestrator.TriggerState)) error {
	early := false
	err := r.write(ctx, func(state *orchestrator.TriggerState) {
		if early = r.want == nil || r.outdated(); !early {
			r.become(state)
			edit(state)
		}
	})
	if err == nil && early {
		err = orchestrator.Errorf(orchestrator.ErrUnavailable, "trigger-starting", "what the trigger was before is still cleared away").WithHint("try again in a moment")
	}
	return err
}
