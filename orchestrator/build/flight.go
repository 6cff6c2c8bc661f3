package build

import (
	"context"
	"slices"
	"sync"

	"github.com/kilnfaas/kiln/orchestrator"
)

// keptEvents is how much of a call's progress is kept for those who join it
// late, or take it slowly: a long build has a few thousand lines.
const keptEvents = 8192

// flights runs calls of which those with equal keys share one. Each caller gets
// all progress, also what was before it joined, from its own goroutine: one
// that takes it slowly holds up nobody else.
//
// A call goes on while one of its callers waits. The last to leave cancels it
// and returns once it has ended. The zero value is ready.
type flights[T any] struct {
	mu    sync.Mutex
	calls map[string]*flight[T] // guarded by mu: those that may be joined
}

// flight is one call. It belongs to its callers.
type flight[T any] struct {
	cancel  context.CancelCauseFunc
	ended   chan struct{} // closed once value and err are set
	value   T
	err     error
	waiting int // guarded by flights.mu

	mu      sync.Mutex
	events  []orchestrator.BuildEvent // guarded by mu: the last of all
	dropped int                       // guarded by mu: events before those
	changed chan struct{}             // guarded by mu: closed by the next event
}

// do calls f, or joins a call of the same key that is under way. leader says
// whether f was this caller's.
func (g *flights[T]) do(ctx context.Context, key string, progress func(orchestrator.BuildEvent), f func(context.Context, func(orchestrator.BuildEvent)) (T, error)) (value T, leader bool, err error) {
	c, leader := g.join(ctx, key, f)
	for next := 0; ; {
		events, changed := c.since(&next)
		for _, e := range events {
			progress(e)
		}
		if len(events) > 0 {
			continue
		}
		select {
		case <-changed:
		case <-c.ended:
			// Nothing follows; what came since the last look is still to be told.
			events, _ := c.since(&next)
			for _, e := range events {
				progress(e)
			}
			g.leave(ctx, key, c)
			return c.value, leader, c.err
		case <-ctx.Done():
			g.leave(ctx, key, c)
			return value, leader, ended(ctx)
		}
	}
}

// join returns the call of a key, and whether it was started here.
func (g *flights[T]) join(ctx context.Context, key string, f func(context.Context, func(orchestrator.BuildEvent)) (T, error)) (*flight[T], bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if c := g.calls[key]; c != nil {
		c.waiting++
		return c, false
	}
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	c := &flight[T]{cancel: cancel, ended: make(chan struct{}), changed: make(chan struct{}), waiting: 1}
	if g.calls == nil {
		g.calls = map[string]*flight[T]{}
	}
	g.calls[key] = c
	go func() {
		defer close(c.ended)
		c.value, c.err = f(ctx, c.tell)
		// Who comes from now on starts anew: a failure may not happen again.
		g.forget(key, c)
	}()
	return c, true
}

// leave takes a caller off a call; the last one waits for its end.
func (g *flights[T]) leave(ctx context.Context, key string, c *flight[T]) {
	g.mu.Lock()
	c.waiting--
	last := c.waiting == 0
	if last && g.calls[key] == c {
		delete(g.calls, key)
	}
	g.mu.Unlock()
	if last {
		c.cancel(context.Cause(ctx))
		<-c.ended
	}
}

func (g *flights[T]) forget(key string, c *flight[T]) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.calls[key] == c {
		delete(g.calls, key)
	}
}

// tell adds an event for all callers.
func (c *flight[T]) tell(e orchestrator.BuildEvent) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.events) == keptEvents {
		half := keptEvents / 2
		c.events = slices.Delete(c.events, 0, half)
		c.dropped += half
	}
	c.events = append(c.events, e)
	close(c.changed)
	c.changed = make(chan struct{})
}

// since returns the events from number *next on, advances it, and returns what
// the next event will close.
func (c *flight[T]) since(next *int) ([]orchestrator.BuildEvent, <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	*next = max(*next, c.dropped)
	events := slices.Clone(c.events[*next-c.dropped:])
	*next += len(events)
	return events, c.changed
}
