package enginetest

import (
	"context"
	"fmt"
	"iter"
	"time"

	"github.com/kilnfaas/kiln/orchestrator"
)

// watcher is one event stream.
type watcher struct {
	labels map[string]string
	queue  []orchestrator.Event // guarded by Fake.mu
	ready  chan struct{}        // capacity 1
	broken chan struct{}        // closed by Down
}

// publish hands an event to the streams. Call with mu held.
func (f *Fake) publish(e orchestrator.Event) {
	for w := range f.watchers {
		if !hasAll(e.Labels, w.labels) {
			continue
		}
		w.queue = append(w.queue, e)
		select {
		case w.ready <- struct{}{}:
		default:
		}
	}
}

// Events passes events on until ctx ends.
func (f *Fake) Events(ctx context.Context, labels map[string]string, handle func(orchestrator.Event)) error {
	for {
		f.mu.Lock()
		up := f.up
		f.mu.Unlock()
		select {
		case <-up:
		case <-ctx.Done():
			return fmt.Errorf("follow events: %w", ctx.Err())
		}
		if err := f.follow(ctx, labels, handle); err != nil {
			return fmt.Errorf("follow events: %w", err)
		}
	}
}

// follow returns nil when the engine goes down.
func (f *Fake) follow(ctx context.Context, labels map[string]string, handle func(orchestrator.Event)) error {
	w := &watcher{labels: labels, ready: make(chan struct{}, 1), broken: make(chan struct{})}
	f.mu.Lock()
	select {
	case <-f.up:
	default:
		f.mu.Unlock()
		return nil
	}
	f.watchers[w] = struct{}{}
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		delete(f.watchers, w)
		f.mu.Unlock()
	}()
	handle(orchestrator.Event{Kind: orchestrator.EventResync, Time: time.Now()})
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-w.broken:
			return nil
		case <-w.ready:
		}
		f.mu.Lock()
		events := w.queue
		w.queue = nil
		f.mu.Unlock()
		for _, e := range events {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			handle(e)
		}
	}
}

// Logs yields lines of a container.
func (f *Fake) Logs(ctx context.Context, id string, options orchestrator.LogOptions) iter.Seq2[orchestrator.LogLine, error] {
	return func(yield func(orchestrator.LogLine, error) bool) {
		if err := f.begin(ctx, OpLogs); err != nil {
			yield(orchestrator.LogLine{}, err)
			return
		}
		f.mu.Lock()
		c, err := f.container(id)
		next := 0
		if err == nil && options.Tail >= 0 {
			next = max(0, len(c.log)-options.Tail)
		}
		f.mu.Unlock()
		if err != nil {
			yield(orchestrator.LogLine{}, err)
			return
		}
		for {
			f.mu.Lock()
			lines, grown, ended := c.log[next:], c.grown, c.state == orchestrator.ContainerExited
			f.mu.Unlock()
			next += len(lines)
			for _, line := range lines {
				if line.Time.Before(options.Since) {
					continue
				}
				if !yield(line, nil) {
					return
				}
			}
			if !options.Follow || ended {
				return
			}
			select {
			case <-grown:
			case <-ctx.Done():
				return
			}
		}
	}
}
