package events

import (
	"context"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/kilnfaas/kiln/orchestrator"
)

const (
	// tidyEvery is how often results are looked at for their age and the journal
	// for what can go.
	tidyEvery = 5 * time.Second
	// minGarbage is how much of the journal has to be unneeded before anything is
	// moved or trimmed, in bytes: trimming rewrites a file of some megabytes.
	minGarbage = 4 << 20
	// moveBatch is how many commits are emptied in one go.
	moveBatch = 64
	// movers is how many invocations are moved at one time: they share commits.
	movers = 32
)

// tidyUp is the janitor: it forgets old results and keeps the journal short.
func (q *Queue) tidyUp() {
	defer q.work.Done()
	ticker := time.NewTicker(tidyEvery)
	defer ticker.Stop()
	for {
		select {
		case <-q.stop:
			return
		case <-ticker.C:
		}
		q.mu.Lock()
		q.expire(time.Now())
		for name, l := range q.lanes {
			if l.empty() && l.storing == 0 && !l.served && l.dead == 0 && q.unknown(name.function) {
				delete(q.lanes, name) // or its name would stay in the metrics
			}
		}
		q.mu.Unlock()
		if err := q.tidy(q.ctx); err != nil && q.ctx.Err() == nil {
			q.cfg.Logger.Warn("the journal of asynchronous calls was not tidied up", "error", err)
		}
	}
}

func (q *Queue) unknown(function string) bool {
	_, err := q.cfg.Functions.Function(q.ctx, function)
	return err != nil
}

// tidy trims the journal. While more of it is unneeded than needed, what is
// needed of its beginning is written again at its end, so that the beginning
// can go: one call that is due next year does not hold a year of others.
func (q *Queue) tidy(ctx context.Context) error {
	for ctx.Err() == nil {
		q.mu.Lock()
		garbage, live := q.commits.total-q.commits.live, q.commits.live
		if garbage < minGarbage {
			q.mu.Unlock()
			return nil
		}
		before, ok := q.commits.cut()
		q.mu.Unlock()
		if ok {
			if err := q.cfg.Journal.Trim(ctx, before); err != nil {
				return err
			}
			continue
		}
		if garbage <= live {
			return nil
		}
		moved, err := q.moveFirst(ctx)
		if err != nil || moved == 0 {
			return err
		}
	}
	return nil
}

// moveFirst writes what is needed of the journal's beginning again at its end,
// and returns how many invocations that were.
func (q *Queue) moveFirst(ctx context.Context) (int, error) {
	q.mu.Lock()
	until := q.commits.order[min(moveBatch, len(q.commits.order))-1]
	var movable []*record
	for _, r := range q.records {
		// Those that run are about to be written anyway.
		if !r.writing && r.status != orchestrator.InvocationRunning && !r.last.none() &&
			(r.last.at.Commit <= until || !r.call.none() && r.call.at.Commit <= until) {
			movable = append(movable, r)
			r.writing = true
		}
	}
	q.mu.Unlock()
	var moving errgroup.Group
	moving.SetLimit(movers)
	for _, r := range movable {
		moving.Go(func() error {
			defer func() {
				q.mu.Lock()
				q.disown(r)
				q.mu.Unlock()
			}()
			return q.move(ctx, r)
		})
	}
	return len(movable), moving.Wait()
}

// move writes the entries of a record again; the caller owns it.
func (q *Queue) move(ctx context.Context, r *record) error {
	q.mu.Lock()
	call, last := r.call, r.last
	q.mu.Unlock()
	state, err := q.read(ctx, last.at)
	if err != nil {
		return err
	}
	var entries []entry
	if !call.none() {
		e, err := q.read(ctx, call.at)
		if err != nil {
			return err
		}
		entries = append(entries, entry{kind: entryCall, invocation: state.invocation, body: e.body})
	}
	if state.kind == entryResult || call.none() {
		entries = append(entries, entry{kind: state.kind, invocation: state.invocation, body: state.body})
	}
	refs, err := q.append(ctx, entries...)
	if err != nil {
		return err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if r.dropped { // a dead letter that made room
		for _, at := range refs {
			q.commits.release(at)
		}
		return nil
	}
	for i, e := range entries {
		q.commits.release(r.last)
		r.last = refs[i]
		if e.kind == entryCall {
			q.commits.release(r.call)
			r.call = refs[i]
			q.commits.need(refs[i])
		}
	}
	return nil
}
