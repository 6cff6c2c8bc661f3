package events

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/kilnfaas/kiln/orchestrator"
)

// Filter selects invocations for List.
type Filter struct {
	Function string                        // "" = all
	Status   orchestrator.InvocationStatus // "" = any
	Before   string                        // id: those that came before it; "" = from the newest on
	Limit    int                           // at most; must be above 0
}

func unknownInvocation(id string) error {
	return orchestrator.Errorf(orchestrator.ErrNotFound, "invocation-unknown", "there is no invocation %.64q, or its result is no longer kept", id).
		WithHint("kiln invocations ls shows those that are known")
}

// Invocation returns one invocation and the kept body of its result, which is
// not to be changed. The error is ErrNotFound or the journal's.
func (q *Queue) Invocation(ctx context.Context, id string) (orchestrator.Invocation, []byte, error) {
	for {
		q.mu.Lock()
		r := q.records[id]
		if r == nil || r.last.none() {
			q.mu.Unlock()
			return orchestrator.Invocation{}, nil, unknownInvocation(id)
		}
		inv, at, status := r.inv, r.last.at, r.status
		if inv != nil {
			copied := *inv
			copied.Status = status
			q.mu.Unlock()
			return copied, nil, nil
		}
		q.mu.Unlock()
		e, err := q.read(ctx, at)
		if errors.Is(err, orchestrator.ErrNotFound) && q.moved(r, at) {
			continue
		}
		if err != nil {
			return orchestrator.Invocation{}, nil, err
		}
		if e.kind != entryResult {
			e.body = nil
		}
		return e.invocation, e.body, nil
	}
}

// moved says whether the state of a record is elsewhere by now, or nowhere.
func (q *Queue) moved(r *record, from orchestrator.Position) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return r.last.at != from
}

// Wait waits until an invocation has ended or ctx has. An unknown one is
// ErrNotFound.
func (q *Queue) Wait(ctx context.Context, id string) error {
	q.mu.Lock()
	r := q.records[id]
	if r == nil {
		q.mu.Unlock()
		return unknownInvocation(id)
	}
	if r.status.Ended() {
		q.mu.Unlock()
		return nil
	}
	if r.over == nil {
		r.over = make(chan struct{})
	}
	over := r.over
	q.mu.Unlock()
	select {
	case <-over:
	case <-ctx.Done():
	case <-q.stop:
	}
	return nil
}

// List returns invocations, newest first.
func (q *Queue) List(ctx context.Context, filter Filter) ([]orchestrator.Invocation, error) {
	q.mu.Lock()
	var ids []string
	for id, r := range q.records {
		if (filter.Function == "" || r.lane.name.function == filter.Function) && (filter.Status == "" || r.status == filter.Status) &&
			(filter.Before == "" || id < filter.Before) {
			ids = append(ids, id)
		}
	}
	q.mu.Unlock()
	slices.SortFunc(ids, func(a, b string) int { return cmp.Compare(b, a) }) // ids begin with the time
	all := []orchestrator.Invocation{}
	for _, id := range ids {
		if len(all) == filter.Limit {
			break
		}
		inv, _, err := q.Invocation(ctx, id)
		switch {
		case errors.Is(err, orchestrator.ErrNotFound):
			continue
		case err != nil:
			return nil, err
		}
		all = append(all, inv)
	}
	return all, nil
}

// Cancel ends an invocation that has not ended: one that waits at once, one that
// runs by ending its request. The error is ErrNotFound, or ErrConflict when it
// has ended.
func (q *Queue) Cancel(ctx context.Context, id string) (orchestrator.Invocation, error) {
	q.mu.Lock()
	r := q.records[id]
	if r == nil || r.last.none() {
		q.mu.Unlock()
		return orchestrator.Invocation{}, unknownInvocation(id)
	}
	q.own(r)
	switch {
	case r.status == orchestrator.InvocationRunning:
		r.unwant = true
		if r.cancel != nil {
			r.cancel()
		}
		q.disown(r)
		q.mu.Unlock()
		if err := q.Wait(ctx, id); err != nil {
			return orchestrator.Invocation{}, err
		}
		inv, _, err := q.Invocation(ctx, id)
		return inv, err
	case r.status.Ended():
		status := r.status
		q.disown(r)
		q.mu.Unlock()
		return orchestrator.Invocation{}, orchestrator.Errorf(orchestrator.ErrConflict, "invocation-ended", "invocation %s has ended: it %s", id, ending[status])
	}
	r.lane.remove(r) // nobody begins it any more
	inv := *r.inv
	q.mu.Unlock()
	inv.Status, inv.NextAt, inv.EndedAt = orchestrator.InvocationCanceled, time.Time{}, time.Now().UTC().Round(0)
	refs, err := q.append(ctx, entry{kind: entryState, invocation: inv})
	q.mu.Lock()
	defer q.mu.Unlock()
	q.disown(r)
	if err != nil {
		r.lane.push(r, false)
		q.attend(r.lane)
		return orchestrator.Invocation{}, err
	}
	q.turn(r, inv, entryState, refs[0])
	r.lane.bytes, q.bytes = r.lane.bytes-inv.Size, q.bytes-inv.Size
	q.end(r)
	r.lane.rouse()
	return inv, nil
}

// ending says in words how an invocation ended.
var ending = map[orchestrator.InvocationStatus]string{
	orchestrator.InvocationSucceeded: "succeeded",
	orchestrator.InvocationFailed:    "failed",
	orchestrator.InvocationCanceled:  "was canceled",
}

// Retry makes an invocation that failed or was canceled wait again, with all of
// its attempts before it, and one that waits for its next attempt be tried at
// once. The error is ErrNotFound, or ErrConflict when it runs or succeeded.
func (q *Queue) Retry(ctx context.Context, id string) (orchestrator.Invocation, error) {
	q.mu.Lock()
	r := q.records[id]
	if r == nil || r.last.none() {
		q.mu.Unlock()
		return orchestrator.Invocation{}, unknownInvocation(id)
	}
	q.own(r)
	was := r.status
	if r.dropped || was == orchestrator.InvocationRunning || was == orchestrator.InvocationSucceeded {
		q.disown(r)
		q.mu.Unlock()
		return orchestrator.Invocation{}, orchestrator.Errorf(orchestrator.ErrConflict, "invocation-not-waiting", "invocation %s is %s and cannot be tried again", id, was)
	}
	if !was.Ended() {
		defer q.mu.Unlock()
		q.disown(r)
		r.lane.hasten(r, time.Now())
		q.attend(r.lane)
		return *r.inv, nil
	}
	at := r.last.at
	q.mu.Unlock()
	inv, refs, err := q.revive(ctx, at)
	q.mu.Lock()
	defer q.mu.Unlock()
	q.disown(r)
	if err != nil || r.dropped {
		return orchestrator.Invocation{}, cmp.Or(err, unknownInvocation(id))
	}
	q.unkeep(r)
	q.turn(r, inv, entryState, refs[0])
	r.lane.bytes, q.bytes = r.lane.bytes+inv.Size, q.bytes+inv.Size
	r.lane.push(r, false)
	q.attend(r.lane)
	return inv, nil
}

// revive writes that an invocation which has ended waits again.
func (q *Queue) revive(ctx context.Context, at orchestrator.Position) (orchestrator.Invocation, []ref, error) {
	e, err := q.read(ctx, at)
	if err != nil {
		return orchestrator.Invocation{}, nil, err
	}
	inv := e.invocation
	inv.Status, inv.Error, inv.Result = orchestrator.InvocationWaiting, "", nil
	inv.Tries, inv.Deferred = 0, 0
	inv.NextAt, inv.EndedAt = time.Time{}, time.Time{}
	inv.RevivedAt = time.Now().UTC().Round(0)
	refs, err := q.append(ctx, entry{kind: entryState, invocation: inv})
	return inv, refs, err
}

// Drop forgets a dead letter. The error is ErrNotFound, or ErrConflict when it
// is none.
func (q *Queue) Drop(ctx context.Context, id string) error {
	q.mu.Lock()
	r := q.records[id]
	if r == nil || r.last.none() {
		q.mu.Unlock()
		return unknownInvocation(id)
	}
	q.own(r)
	if r.dropped || r.status != orchestrator.InvocationFailed {
		q.disown(r)
		q.mu.Unlock()
		return orchestrator.Errorf(orchestrator.ErrConflict, "no-dead-letter", "invocation %s is %s and no dead letter", id, r.status)
	}
	q.mu.Unlock()
	refs, err := q.append(ctx, entry{kind: entryGone, invocation: orchestrator.Invocation{ID: id}})
	q.mu.Lock()
	defer q.mu.Unlock()
	q.disown(r)
	if err != nil {
		return err
	}
	q.commits.release(refs[0]) // nothing before it is replayed without it
	if !r.dropped {
		q.unkeep(r)
		q.forget(r)
	}
	return nil
}

func (q *Queue) read(ctx context.Context, at orchestrator.Position) (entry, error) {
	data, err := q.cfg.Journal.Read(ctx, at)
	if err != nil {
		return entry{}, err
	}
	return decodeEntry(data)
}
