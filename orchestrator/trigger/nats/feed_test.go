package nats_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/kilnfaas/kiln/orchestrator"
)

// patience bounds every wait; nothing waits that long when it works.
const patience = 30 * time.Second

// feed is an orchestrator.Feed that keeps what it is given.
type feed struct {
	t      testing.TB
	id     string
	before func(events []orchestrator.CloudEvent) error // called by Deliver

	mu       sync.Mutex
	changed  chan struct{} // closed and replaced when something below changes
	position []byte
	events   []orchestrator.CloudEvent // each id once
	known    map[string]bool
	again    int // events that had been there
	ready    int
	dropped  []error
	missed   int
	failed   []error
	progress orchestrator.Progress
}

var _ orchestrator.Feed = (*feed)(nil)

func newFeed(t testing.TB) *feed {
	return &feed{t: t, id: rand.Text(), changed: make(chan struct{}), known: map[string]bool{}}
}

func (f *feed) change(how func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	how()
	close(f.changed)
	f.changed = make(chan struct{})
}

func (f *feed) Function() string { return "target" }
func (f *feed) ID() string       { return f.id }

func (f *feed) Position() []byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.position
}

func (f *feed) Ready() { f.change(func() { f.ready++ }) }

func (f *feed) Deliver(ctx context.Context, position []byte, events ...orchestrator.CloudEvent) error {
	for _, event := range events {
		if event.Source == "" {
			event.Source = "/x"
		}
		if err := event.Validate(); err != nil {
			return err
		}
	}
	if f.before != nil {
		if err := f.before(events); err != nil {
			return err
		}
	}
	f.change(func() {
		for _, event := range events {
			if f.known[event.ID] {
				f.again++
				continue
			}
			f.known[event.ID] = true
			f.events = append(f.events, event)
		}
		if position != nil {
			f.position = position
		}
	})
	return ctx.Err()
}

func (f *feed) Offer(context.Context, ...orchestrator.CloudEvent) ([]bool, error) {
	panic("nats offers nothing")
}

func (f *feed) Drop(_ orchestrator.CloudEvent, reason error) {
	f.change(func() { f.dropped = append(f.dropped, reason) })
}

func (f *feed) Missed(n int, _ error) {
	if n > 0 {
		f.change(func() { f.missed += n })
	}
}

func (f *feed) Report(p orchestrator.Progress) { f.change(func() { f.progress = p }) }

func (f *feed) Fail(err error) {
	if err != nil {
		f.change(func() { f.failed = append(f.failed, err) })
	}
}

// until waits for a condition, which is looked at with mu held.
func (f *feed) until(what string, met func() bool) {
	f.t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	for {
		f.mu.Lock()
		ok, changed := met(), f.changed
		f.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-changed:
		case <-deadline.C:
			f.mu.Lock()
			defer f.mu.Unlock()
			f.t.Fatalf("not so within %s: %s; %d events, dropped %v, failed %v", patience, what, len(f.events), f.dropped, f.failed)
		}
	}
}

// take waits for n events and returns all there were, which are forgotten.
func (f *feed) take(n int) []orchestrator.CloudEvent {
	f.t.Helper()
	f.until(fmt.Sprintf("there are %d events", n), func() bool { return len(f.events) >= n })
	f.mu.Lock()
	defer f.mu.Unlock()
	taken := f.events
	f.events = nil
	return taken
}

// run is one Run of a source.
type run struct {
	t      testing.TB
	ctx    context.Context
	cancel context.CancelFunc
	ended  chan error
}

// start runs a source and waits until it watches.
func (f *feed) start(source orchestrator.Source, trigger orchestrator.Trigger) *run {
	f.t.Helper()
	f.mu.Lock()
	before := f.ready
	f.mu.Unlock()
	r := f.begin(source, trigger)
	f.until("the source watches", func() bool {
		select {
		case err := <-r.ended:
			f.t.Fatalf("Run = %v", err)
		default:
		}
		return f.ready > before
	})
	return r
}

// begin runs a source.
func (f *feed) begin(source orchestrator.Source, trigger orchestrator.Trigger) *run {
	ctx, cancel := context.WithCancel(context.Background())
	r := &run{f.t, ctx, cancel, make(chan error, 1)}
	go func() {
		err := source.Run(ctx, trigger, f)
		f.change(func() { r.ended <- err })
	}()
	f.t.Cleanup(cancel)
	return r
}

// stop ends the run.
func (r *run) stop() {
	r.t.Helper()
	r.cancel()
	select {
	case <-r.ended:
	case <-time.After(orchestrator.StopTimeout):
		r.t.Fatal("Run does not return")
	}
}

// fails waits until the run ends by itself.
func (r *run) fails() error {
	r.t.Helper()
	select {
	case err := <-r.ended:
		return err
	case <-time.After(patience):
		r.t.Fatal("Run does not return")
		return nil
	}
}
