package triggertest

import (
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/kilnfaas/kiln/orchestrator"
)

// Patience bounds what a Recorder waits for; nothing takes that long when it works.
const Patience = 30 * time.Second

// Recorder is an orchestrator.Feed that keeps what it is given, for tests of one
// source without an engine. All of it may be used from any goroutine.
type Recorder struct {
	t  testing.TB
	id string

	mu      sync.Mutex
	changed chan struct{}                                // closed and replaced when kept changes
	before  func(events []orchestrator.CloudEvent) error // nil = nothing
	known   map[string]bool                              // ids of what was delivered
	kept    Kept
}

// Kept is what a Recorder was given.
type Kept struct {
	Position []byte
	Events   []orchestrator.CloudEvent // each id once, in order, without those that were taken
	Again    int                       // events that had been delivered before
	Ready    int                       // how often a source watched
	Dropped  []error                   // reasons
	Missed   int
	Failed   []error
	Progress orchestrator.Progress
}

var _ orchestrator.Feed = (*Recorder)(nil)

// NewRecorder returns the feed of a trigger with an id of its own.
func NewRecorder(t testing.TB) *Recorder {
	return &Recorder{t: t, id: rand.Text(), changed: make(chan struct{}), known: map[string]bool{}}
}

// Twin returns another feed of the same trigger, which was given nothing.
func (r *Recorder) Twin() *Recorder {
	twin := NewRecorder(r.t)
	twin.id = r.id
	return twin
}

func (r *Recorder) change(how func(k *Kept)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	how(&r.kept)
	close(r.changed)
	r.changed = make(chan struct{})
}

// Before has what is delivered from now on go through a function first, which may
// wait, or refuse it; nil ends that.
func (r *Recorder) Before(deliver func(events []orchestrator.CloudEvent) error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.before = deliver
}

// Forget forgets which events there were, as a queue does in time.
func (r *Recorder) Forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.kept.Again = 0
	clear(r.known)
}

// Kept returns what there is now.
func (r *Recorder) Kept() Kept {
	r.mu.Lock()
	defer r.mu.Unlock()
	k := r.kept
	k.Events, k.Dropped, k.Failed = slices.Clone(k.Events), slices.Clone(k.Dropped), slices.Clone(k.Failed)
	return k
}

// Function implements orchestrator.Feed.
func (r *Recorder) Function() string { return functionName }

// ID implements orchestrator.Feed.
func (r *Recorder) ID() string { return r.id }

// Position implements orchestrator.Feed.
func (r *Recorder) Position() []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.kept.Position
}

// Ready implements orchestrator.Feed.
func (r *Recorder) Ready() { r.change(func(k *Kept) { k.Ready++ }) }

// Deliver implements orchestrator.Feed. Events that no CloudEvent may be are refused.
func (r *Recorder) Deliver(ctx context.Context, position []byte, events ...orchestrator.CloudEvent) error {
	for _, event := range events {
		if event.Source == "" {
			event.Source = "/x" // as the engine does
		}
		if err := event.Validate(); err != nil {
			return err
		}
	}
	r.mu.Lock()
	before := r.before
	r.mu.Unlock()
	if before != nil {
		if err := before(events); err != nil {
			return err
		}
	}
	r.change(func(k *Kept) {
		for _, event := range events {
			if r.known[event.ID] {
				k.Again++
				continue
			}
			r.known[event.ID] = true
			k.Events = append(k.Events, event)
		}
		if position != nil {
			k.Position = position
		}
	})
	return ctx.Err()
}

// Offer implements orchestrator.Feed; no source that a Recorder is for offers.
func (r *Recorder) Offer(context.Context, ...orchestrator.CloudEvent) ([]bool, error) {
	panic("triggertest: a Recorder is offered nothing")
}

// Drop implements orchestrator.Feed.
func (r *Recorder) Drop(_ orchestrator.CloudEvent, reason error) {
	r.change(func(k *Kept) { k.Dropped = append(k.Dropped, reason) })
}

// Missed implements orchestrator.Feed.
func (r *Recorder) Missed(n int, _ error) { r.change(func(k *Kept) { k.Missed += n }) }

// Report implements orchestrator.Feed.
func (r *Recorder) Report(p orchestrator.Progress) { r.change(func(k *Kept) { k.Progress = p }) }

// Fail implements orchestrator.Feed.
func (r *Recorder) Fail(err error) {
	if err != nil {
		r.change(func(k *Kept) { k.Failed = append(k.Failed, err) })
	}
}

// Until waits for a condition.
func (r *Recorder) Until(what string, met func(k Kept) bool) {
	r.t.Helper()
	deadline := time.NewTimer(Patience)
	defer deadline.Stop()
	for {
		r.mu.Lock()
		ok, changed := met(r.kept), r.changed
		r.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-changed:
		case <-deadline.C:
			k := r.Kept()
			r.t.Fatalf("not so within %s: %s; %d events, dropped %v, failed %v", Patience, what, len(k.Events), k.Dropped, k.Failed)
		}
	}
}

// Take waits for n events and returns all there are, which are taken with that.
func (r *Recorder) Take(n int) []orchestrator.CloudEvent {
	r.t.Helper()
	r.Until(fmt.Sprintf("there are %d events", n), func(k Kept) bool { return len(k.Events) >= n })
	r.mu.Lock()
	defer r.mu.Unlock()
	taken := r.kept.Events
	r.kept.Events = nil
	return taken
}

// Running is one Run of a source into a Recorder. It ends with the test at the latest.
type Running struct {
	t      testing.TB
	ctx    context.Context
	cancel context.CancelFunc
	ended  chan error
}

// Start runs a source and waits until it watches.
func (r *Recorder) Start(source orchestrator.Source, trigger orchestrator.Trigger) *Running {
	r.t.Helper()
	before := r.Kept().Ready
	run := r.Begin(source, trigger)
	r.Until("the source watches", func(k Kept) bool {
		select {
		case err := <-run.ended:
			r.t.Fatalf("Run = %v", err)
		default:
		}
		return k.Ready > before
	})
	return run
}

// Begin runs a source.
func (r *Recorder) Begin(source orchestrator.Source, trigger orchestrator.Trigger) *Running {
	ctx, cancel := context.WithCancel(context.Background())
	run := &Running{r.t, ctx, cancel, make(chan error, 1)}
	go func() {
		err := source.Run(ctx, trigger, r)
		r.change(func(*Kept) { run.ended <- err })
	}()
	r.t.Cleanup(cancel)
	return run
}

// Done is closed when the source is told to stop.
func (run *Running) Done() <-chan struct{} { return run.ctx.Done() }

// Cancel tells the source to stop.
func (run *Running) Cancel() { run.cancel() }

// Stop tells the source to stop and waits until it has.
func (run *Running) Stop() {
	run.t.Helper()
	run.cancel()
	select {
	case <-run.ended:
	case <-time.After(orchestrator.StopTimeout):
		run.t.Fatal("Run does not return")
	}
}

// Fails waits until the source ends by itself.
func (run *Running) Fails() error {
	run.t.Helper()
	select {
	case err := <-run.ended:
		return err
	case <-time.After(Patience):
		run.t.Fatal("Run does not return")
		return nil
	}
}
