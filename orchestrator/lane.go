package orchestrator

import (
	"context"
	"sync"
)

// lanes order the changes of each function: one runs at a time. Among deploys
// that wait, only the latest stays; the others are superseded.
type lanes struct {
	mu     sync.Mutex
	byName map[string]*lane // guarded by mu; an entry lives while somebody holds or awaits it
}

type lane struct {
	turn    chan struct{} // holds one token while nobody is in the lane
	holders int           // in the lane or waiting; guarded by lanes.mu
	waiting context.CancelCauseFunc
	running context.CancelCauseFunc
}

// turn says how a change behaves in a lane.
type turn int

const (
	deployTurn turn = iota // a later deploy supersedes it while it waits
	changeTurn             // waits until it runs
	removeTurn             // as changeTurn, and nothing interrupts it
)

// maxLane bounds the changes of one function that run or wait.
const maxLane = 32

// errSuperseded ends a waiting deploy when a later one of its function arrives.
var errSuperseded = Errorf(ErrConflict, "superseded", "a later deploy of this function took its place").
	WithHint("nothing to do: the later one decides what is live")

// errRemoved ends a deploy whose function is being removed.
var errRemoved = Errorf(ErrConflict, "removed", "the function is being removed").
	WithHint("deploy it again if that was not intended")

func newLanes() *lanes { return &lanes{byName: map[string]*lane{}} }

// enter waits for the function's turn and returns a context for the change and
// the function that ends it. A deploy may be ended from outside while it waits,
// by a later one; deploys and changes by interrupt once they run.
func (l *lanes) enter(ctx context.Context, name string, kind turn) (context.Context, func(), error) {
	ctx, cancel := context.WithCancelCause(ctx)
	l.mu.Lock()
	ln := l.byName[name]
	if ln == nil {
		ln = &lane{turn: make(chan struct{}, 1)}
		ln.turn <- struct{}{}
		l.byName[name] = ln
	}
	if ln.holders >= maxLane {
		l.mu.Unlock()
		cancel(nil)
		return nil, nil, Errorf(ErrExhausted, "too-many-changes", "%d changes of function %q wait already", maxLane, name).
			WithHint("wait until some have ended")
	}
	ln.holders++
	if kind == deployTurn {
		if ln.waiting != nil {
			ln.waiting(errSuperseded)
		}
		ln.waiting = cancel
	}
	l.mu.Unlock()

	leave := func() {
		cancel(nil)
		l.mu.Lock()
		defer l.mu.Unlock()
		if ln.holders--; ln.holders == 0 {
			delete(l.byName, name)
		}
	}
	select {
	case <-ctx.Done():
		leave()
		return nil, nil, context.Cause(ctx)
	case <-ln.turn:
	}
	l.mu.Lock()
	superseded := context.Cause(ctx)
	if superseded == nil && kind == deployTurn {
		ln.waiting = nil
	}
	if superseded == nil && kind != removeTurn {
		ln.running = cancel
	}
	l.mu.Unlock()
	release := func() {
		l.mu.Lock()
		ln.running = nil
		l.mu.Unlock()
		ln.turn <- struct{}{}
		leave()
	}
	if superseded != nil {
		release()
		return nil, nil, superseded
	}
	return ctx, release, nil
}

// interrupt ends the running and the waiting deploy of a function.
func (l *lanes) interrupt(name string, cause error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	ln := l.byName[name]
	if ln == nil {
		return
	}
	for _, cancel := range []context.CancelCauseFunc{ln.waiting, ln.running} {
		if cancel != nil {
			cancel(cause)
		}
	}
}
