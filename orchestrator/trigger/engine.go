// Package trigger runs the triggers of functions: for each one it runs its
// source, puts what the source delivers into the queue of asynchronous
// invocations, and keeps the source's position.
//
// A trigger has one goroutine (runner), which is also the one that Source.Run is
// called in. Its steps: write the trigger's state, run the source, pause after it
// failed, and in the end clear away what the trigger was. What it is to do next is
// decided in one place (runner.next) from what is wanted and what is stored, so
// that a crash between any two steps is mended by the next start.
//
// Adding a kind of triggers is a package with an orchestrator.Source and a line
// where the gateway is wired. Package triggertest has the conformance suite.
package trigger

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/events"
)

// Queue is the queue of asynchronous invocations; *events.Queue is one.
type Queue interface {
	EnqueueAll(ctx context.Context, requests []events.Request) ([]events.Queued, error)
}

// Config sets an Engine up.
type Config struct {
	Sources map[string]orchestrator.Source // by type
	Store   orchestrator.TriggerStore      // required
	Logger  *slog.Logger                   // nil = discard
}

// Engine runs triggers. Serve and Remove may be called before Open, which begins
// to run them; Close ends that. All methods are safe for concurrent use.
type Engine struct {
	cfg    Config
	ctx    context.Context // of all runs; ended by Close
	cancel context.CancelFunc
	work   sync.WaitGroup // runners

	mu      sync.Mutex // guards all that follows; taken before a runner's; never held across I/O
	queue   Queue      // nil until Open
	closed  bool
	runners map[name]*runner
	byID    map[string]*runner
}

// name tells triggers apart.
type name struct{ function, trigger string }

var _ orchestrator.TriggerHost = (*Engine)(nil)

// New returns an engine that runs nothing yet.
func New(config Config) *Engine {
	if config.Logger == nil {
		config.Logger = slog.New(slog.DiscardHandler)
	}
	e := &Engine{cfg: config, runners: map[name]*runner{}, byID: map[string]*runner{}}
	e.ctx, e.cancel = context.WithCancel(context.Background())
	return e
}

// Open reads the states of triggers and begins to run those that Serve told of.
// Of the others it clears away what is left: they went while no gateway ran, or
// one that crashed. Errors are the store's.
func (e *Engine) Open(ctx context.Context, queue Queue) error {
	states, err := e.cfg.Store.TriggerStates(ctx)
	if err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.queue = queue
	for _, state := range states {
		n := name{state.Function, state.Trigger.Name}
		r := e.runners[n]
		if r == nil {
			r = newRunner(e, n)
			e.runners[n] = r
		}
		r.restore(state)
		e.byID[state.ID] = r
	}
	for _, r := range e.runners {
		e.start(r)
	}
	return nil
}

// start begins a runner's goroutine once the engine is open; mu is held.
func (e *Engine) start(r *runner) {
	if e.queue == nil || e.closed {
		return
	}
	e.work.Add(1)
	go r.serve()
}

// Close ends all runs, writes their positions and waits for them. It may be
// called again.
func (e *Engine) Close() error {
	e.mu.Lock()
	e.closed = true
	e.mu.Unlock()
	e.cancel()
	e.work.Wait()
	return nil
}

// Check says whether a trigger can be; it is for deploys. The error is
// ErrInvalid, a *orchestrator.SettingError where one setting is to blame.
func (e *Engine) Check(t orchestrator.Trigger) error {
	if err := t.Validate(); err != nil {
		return err
	}
	source, ok := e.cfg.Sources[t.Type]
	if !ok {
		return &orchestrator.SettingError{Setting: "type", Cause: orchestrator.Errorf(orchestrator.ErrInvalid, "trigger-type-unknown",
			"there are no triggers of type %.80q", t.Type).WithHint("there are %s", strings.Join(e.Types(), ", "))}
	}
	return source.Check(t)
}

// Types returns the types of triggers that there are, sorted.
func (e *Engine) Types() []string {
	var types []string
	for kind := range e.cfg.Sources {
		types = append(types, kind)
	}
	slices.Sort(types)
	return types
}

// Serve implements orchestrator.TriggerHost.
func (e *Engine) Serve(function string, triggers []orchestrator.Trigger) {
	e.mu.Lock()
	defer e.mu.Unlock()
	wanted := map[name]bool{}
	for _, t := range triggers {
		n := name{function, t.Name}
		wanted[n] = true
		r := e.runners[n]
		if r == nil {
			r = newRunner(e, n)
			e.runners[n] = r
			e.start(r)
		}
		r.serveTrigger(t)
	}
	for n, r := range e.runners {
		if n.function == function && !wanted[n] {
			r.remove()
		}
	}
}

// Remove implements orchestrator.TriggerHost.
func (e *Engine) Remove(function string) { e.Serve(function, nil) }

// retired forgets a runner that has nothing left to do, and says whether that is
// still so.
func (e *Engine) retired(r *runner) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.want != nil || r.renew {
		return false
	}
	delete(e.runners, r.name)
	return true
}

// known makes an id lead to a runner; "" makes none do so any more.
func (e *Engine) known(r *runner, was, id string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.byID, was)
	if id != "" {
		e.byID[id] = r
	}
}
