package trigger

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/cloudevents"
	"github.com/kilnfaas/kiln/orchestrator/events"
)

const (
	// positionEvery is how often a position is written at most: writing it takes
	// as long as writing an event does.
	positionEvery = time.Second
	// fullBase and fullMax are the pauses before a full queue, or a store that does
	// not answer, is asked again.
	fullBase = 50 * time.Millisecond
	fullMax  = time.Second
	// maxTogether and maxTogetherBytes bound the events that are stored together,
	// well below what the journal takes in one go.
	maxTogether      = 64
	maxTogetherBytes = 512 << 10
)

// feed is an orchestrator.Feed.
type feed struct {
	runner *runner
	id     string
	begin  []byte
	done   chan struct{} // closed when Run has returned

	mu       sync.Mutex // guards all that follows; never held across I/O
	closed   bool
	inside   sync.WaitGroup // Deliver, Offer and writes that run
	position []byte
	dirty    bool // position is not written
	written  time.Time
	timer    *time.Timer // writes position; nil = nothing waits
}

var _ orchestrator.Feed = (*feed)(nil)

func newFeed(r *runner, state orchestrator.TriggerState) *feed {
	return &feed{runner: r, id: state.ID, begin: state.Position, done: make(chan struct{})}
}

// Function implements orchestrator.Feed.
func (f *feed) Function() string { return f.runner.name.function }

// ID implements orchestrator.Feed.
func (f *feed) ID() string { return f.id }

// Position implements orchestrator.Feed.
func (f *feed) Position() []byte { return bytes.Clone(f.begin) }

// Ready implements orchestrator.Feed.
func (f *feed) Ready() {
	if !f.enter() {
		return
	}
	defer f.leave()
	f.runner.mu.Lock()
	defer f.runner.mu.Unlock()
	f.runner.phase, f.runner.stats.failing = orchestrator.TriggerRunning, false
}

// enter says whether the feed is open, and keeps it so until leave.
func (f *feed) enter() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return false
	}
	f.inside.Add(1)
	return true
}

func (f *feed) leave() { f.inside.Done() }

// close refuses what comes from now on, and waits for what is inside.
func (f *feed) close() {
	f.mu.Lock()
	f.closed = true
	if f.timer != nil {
		f.timer.Stop()
	}
	f.mu.Unlock()
	close(f.done)
	f.inside.Wait()
}

func errEnded() error {
	return orchestrator.Errorf(orchestrator.ErrUnavailable, "trigger-ended", "the trigger does not run any more")
}

// Deliver implements orchestrator.Feed.
func (f *feed) Deliver(ctx context.Context, position []byte, all ...orchestrator.CloudEvent) error {
	if len(position) > orchestrator.MaxPosition {
		return orchestrator.Errorf(orchestrator.ErrInvalid, "position-invalid", "a position of %d bytes is over %d", len(position), orchestrator.MaxPosition)
	}
	all = slices.Clone(all)
	requests, err := f.requests(all)
	if err != nil {
		return err
	}
	if !f.enter() {
		return errEnded()
	}
	defer f.leave()
	most, pause := maxTogether, fullBase
	for len(requests) > 0 {
		n := together(requests, most)
		queued, err := f.runner.engine.queue.EnqueueAll(ctx, requests[:n])
		switch {
		case err == nil:
			f.runner.delivered(all[:n], queued)
			requests, all, pause = requests[n:], all[n:], fullBase
			continue
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case n > 1 && (errors.Is(err, orchestrator.ErrExhausted) || errors.Is(err, orchestrator.ErrTooLarge)):
			most = n / 2 // there may be room for some of them
			continue
		case errors.Is(err, orchestrator.ErrInvalid), errors.Is(err, orchestrator.ErrTooLarge):
			return err
		}
		f.runner.fail(err)
		if !f.wait(ctx, pause) {
			return cmp.Or(context.Cause(ctx), errEnded())
		}
		pause = min(2*pause, fullMax)
	}
	f.runner.fail(nil)
	f.move(position)
	return nil
}

// wait says whether a pause passed while the trigger ran.
func (f *feed) wait(ctx context.Context, pause time.Duration) bool {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
	case <-f.done:
	}
	return false
}

// Offer implements orchestrator.Feed.
func (f *feed) Offer(ctx context.Context, all ...orchestrator.CloudEvent) ([]bool, error) {
	all = slices.Clone(all)
	requests, err := f.requests(all)
	if err != nil {
		return nil, err
	}
	if !f.enter() {
		return nil, errEnded()
	}
	defer f.leave()
	queued, err := f.runner.engine.queue.EnqueueAll(ctx, requests)
	f.runner.fail(err)
	if err != nil {
		return nil, err
	}
	f.runner.delivered(all, queued)
	replayed := make([]bool, len(queued))
	for i, q := range queued {
		replayed[i] = q.Found
	}
	return replayed, nil
}

// Drop implements orchestrator.Feed.
func (f *feed) Drop(event orchestrator.CloudEvent, reason error) {
	r := f.runner
	r.engine.cfg.Logger.Warn("an event was left out", "function", r.name.function, "trigger", r.name.trigger, "event", event.ID, "error", reason)
	r.dropped(1, reason)
}

// Missed implements orchestrator.Feed.
func (f *feed) Missed(n int, reason error) {
	if n <= 0 {
		return
	}
	r := f.runner
	r.engine.cfg.Logger.Warn("events were left out", "function", r.name.function, "trigger", r.name.trigger, "events", n, "error", reason)
	r.dropped(n, reason)
}

// Report implements orchestrator.Feed.
func (f *feed) Report(p orchestrator.Progress) {
	f.runner.mu.Lock()
	defer f.runner.mu.Unlock()
	f.runner.stats.progress = p
}

// Fail implements orchestrator.Feed.
func (f *feed) Fail(err error) { f.runner.fail(err) }

// requests makes the calls of events, whose attributes it completes.
func (f *feed) requests(all []orchestrator.CloudEvent) ([]events.Request, error) {
	requests := make([]events.Request, len(all))
	for i := range all {
		request, err := f.runner.request(f.id, &all[i])
		if err != nil {
			return nil, err
		}
		requests[i] = request
	}
	return requests, nil
}

// request makes the call of an event, whose attributes it completes.
func (r *runner) request(id string, e *orchestrator.CloudEvent) (events.Request, error) {
	from := e.Source // with the ID it names the event
	*e = complete(*e, r.name)
	if err := e.Validate(); err != nil {
		return events.Request{}, err
	}
	// Keys are shown to all who may look at invocations; the trigger's id, which is
	// the right to send to a Receiver, is not.
	sum := sha256.Sum256([]byte(id + "\x00" + from + "\x00" + e.ID))
	return events.Request{
		Function: r.name.function, Path: "/", Header: cloudevents.Header(*e), Body: e.Data,
		OrderingKey: e.Extensions[orchestrator.PartitionKey], IdempotencyKey: "trigger/" + hex.EncodeToString(sum[:]),
	}, nil
}

// together returns how many requests, of at most most, are stored in one go.
func together(requests []events.Request, most int) int {
	size := 0
	for n, request := range requests {
		size += len(request.Body)
		if n == most || n > 0 && size > maxTogetherBytes {
			return n
		}
	}
	return len(requests)
}

// move makes a position the one to go on from.
func (f *feed) move(position []byte) {
	if position == nil {
		return
	}
	f.mu.Lock()
	f.position, f.dirty = bytes.Clone(position), true
	wait := positionEvery - time.Since(f.written)
	if wait > 0 {
		if f.timer == nil && !f.closed {
			f.timer = time.AfterFunc(wait, f.flushLater)
		}
		f.mu.Unlock()
		return
	}
	f.mu.Unlock()
	f.flush()
}

func (f *feed) flushLater() {
	if f.enter() {
		defer f.leave()
		f.flush()
	}
}

// flush writes the latest position, if that is needed.
func (f *feed) flush() {
	f.mu.Lock()
	dirty := f.dirty
	f.written = time.Now()
	if f.timer != nil {
		f.timer.Stop()
		f.timer = nil
	}
	f.mu.Unlock()
	if !dirty {
		return
	}
	err := f.runner.write(context.Background(), func(state *orchestrator.TriggerState) {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.dirty = false
		if state.ID == f.id {
			state.Position = f.position
		}
	})
	if err == nil {
		return
	}
	f.runner.fail(err)
	f.runner.engine.cfg.Logger.Warn("the position of a trigger was not written", "function", f.runner.name.function, "trigger", f.runner.name.trigger, "error", err)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dirty = true
	if f.timer == nil && !f.closed {
		f.timer = time.AfterFunc(positionEvery, f.flushLater)
	}
}
