package events

import (
	"context"
	"net/http"
	"time"

	"github.com/google/uuid"

	"github.com/kilnfaas/kiln/orchestrator"
)

const (
	// maxDelay bounds how far ahead a call may be scheduled.
	maxDelay = 366 * 24 * time.Hour
	// maxKey bounds an ordering or idempotency key, in bytes.
	maxKey = 256
	// MaxSequence bounds the functions of a sequence: what chains of destinations
	// end after, too.
	MaxSequence = maxHops
)

// Request is a call to be made later.
type Request struct {
	Function       string
	Path           string // below the function, with the query
	Header         http.Header
	Body           []byte // the queue's from now on
	NotBefore      time.Time
	OrderingKey    string
	IdempotencyKey string
	CallbackURL    string
	Then           []string // functions that get the result, one after another
}

// Enqueue stores a call and returns its invocation once that is on disk; found
// says that the same call (same function and idempotency key) is there already,
// and then its invocation is returned. An idempotency key is remembered as long
// as its invocation is.
//
// Errors: ErrNotFound for an unknown function, ErrInvalid, ErrTooLarge,
// ErrExhausted when the queue is full, and the journal's.
func (q *Queue) Enqueue(ctx context.Context, request Request) (_ orchestrator.Invocation, found bool, err error) {
	queued, err := q.EnqueueAll(ctx, []Request{request})
	if err != nil {
		return orchestrator.Invocation{}, false, err
	}
	return queued[0].Invocation, queued[0].Found, nil
}

// Queued is what became of one request of EnqueueAll.
type Queued struct {
	Invocation orchestrator.Invocation
	Found      bool // the same call was there already
}

// EnqueueAll is Enqueue for several calls that are stored together: when it
// returns an error none of them is queued, after a crash all are there or none.
// Calls of one function that are due at the same time are made in the order of
// the requests. Together they must fit orchestrator.MaxAppend.
func (q *Queue) EnqueueAll(ctx context.Context, requests []Request) ([]Queued, error) {
	queued := make([]Queued, len(requests))
	entries := make([]entry, 0, len(requests))
	now := time.Now()
	for i, request := range requests {
		if _, err := q.cfg.Functions.Function(ctx, request.Function); err != nil {
			return nil, err
		}
		inv, err := request.invocation(now)
		if err != nil {
			return nil, err
		}
		queued[i].Invocation = inv
	}
	records := make([]*record, len(requests))
	q.mu.Lock()
	for i, request := range requests {
		inv := queued[i].Invocation
		if request.IdempotencyKey != "" {
			if known := q.byKey[idempotencyKey{inv.Function, request.IdempotencyKey}]; known != nil {
				records[i], queued[i].Found = known, true
				continue
			}
		}
		l := q.lane(laneName{function: inv.Function})
		if err := q.full(l, inv.Size); err != nil {
			q.reject(records[:i], queued, err)
			q.mu.Unlock()
			return nil, err
		}
		records[i] = q.admit(l, inv)
		entries = append(entries, entry{kind: entryCall, invocation: inv, body: request.Body})
	}
	q.mu.Unlock()
	if len(entries) > 0 {
		if err := q.store(ctx, entries, records, queued); err != nil {
			return nil, err
		}
	}
	for i, r := range records {
		if !queued[i].Found {
			continue
		}
		var err error
		if queued[i].Invocation, err = q.known(ctx, r); err != nil {
			return nil, err
		}
	}
	return queued, nil
}

// store writes the calls that were not found, as one commit.
func (q *Queue) store(ctx context.Context, entries []entry, records []*record, queued []Queued) error {
	refs, err := q.append(ctx, entries...)
	q.mu.Lock()
	defer q.mu.Unlock()
	if err != nil {
		q.reject(records, queued, err)
		return err
	}
	for i, r := range records {
		if !queued[i].Found {
			q.arrived(r, refs[0])
			refs = refs[1:]
		}
	}
	return nil
}

// reject forgets calls that were admitted and are not stored; mu is held.
func (q *Queue) reject(records []*record, queued []Queued, reason error) {
	for i, r := range records {
		if queued[i].Found {
			continue
		}
		r.failed = reason
		q.forget(r)
		r.lane.bytes, q.bytes = r.lane.bytes-r.inv.Size, q.bytes-r.inv.Size
		close(r.stored)
	}
}

// invocation checks a request and makes its invocation.
func (r Request) invocation(now time.Time) (orchestrator.Invocation, error) {
	refused := func(code, format string, args ...any) error {
		return orchestrator.Errorf(orchestrator.ErrInvalid, code, format, args...)
	}
	switch {
	case len(r.Body) > MaxCall:
		return orchestrator.Invocation{}, orchestrator.Errorf(orchestrator.ErrTooLarge, "request-too-large",
			"the body of an asynchronous call is over %s", orchestrator.Bytes(MaxCall)).WithHint("store the data elsewhere and send where it is, or call the function synchronously")
	case len(r.OrderingKey) > maxKey || len(r.IdempotencyKey) > maxKey:
		return orchestrator.Invocation{}, refused("key-invalid", "a key has more than %d characters", maxKey)
	case len(r.Then) >= MaxSequence:
		return orchestrator.Invocation{}, refused("sequence-invalid", "the sequence has more than %d functions", MaxSequence)
	case r.NotBefore.Sub(now) > maxDelay:
		return orchestrator.Invocation{}, refused("delay-invalid", "the call is to be made in more than %s", orchestrator.Duration(maxDelay))
	}
	id, err := uuid.NewV7()
	if err != nil {
		return orchestrator.Invocation{}, err
	}
	inv := orchestrator.Invocation{
		ID: id.String(), Function: r.Function, Status: orchestrator.InvocationWaiting,
		Path: r.Path, Header: r.Header, Size: int64(len(r.Body)),
		OrderingKey: r.OrderingKey, IdempotencyKey: r.IdempotencyKey, CallbackURL: r.CallbackURL, Then: r.Then,
		CreatedAt: now.UTC().Round(0),
	}
	if r.NotBefore.After(now) {
		inv.NotBefore = r.NotBefore.UTC().Round(0)
		inv.NextAt = inv.NotBefore
	}
	return inv, nil
}

// full says why no more calls of a lane can be queued; mu is held.
func (q *Queue) full(l *lane, size int64) error {
	if q.closed {
		return orchestrator.Errorf(orchestrator.ErrUnavailable, "stopping", "the gateway is stopping").WithHint("try again in a moment")
	}
	const hint = "try again later; raise scale.max or concurrency if this is the usual load, or async_depth of the gateway"
	if l.storing+l.waiting+l.running >= q.cfg.Depth {
		return orchestrator.Errorf(orchestrator.ErrExhausted, "queue-full", "%d calls of %s are waiting, which is the limit", q.cfg.Depth, l.name.function).WithHint(hint)
	}
	if q.bytes+size > q.cfg.Bytes {
		return orchestrator.Errorf(orchestrator.ErrExhausted, "queue-full", "the calls that wait have %d MiB, which is the limit", q.cfg.Bytes>>20).WithHint(hint)
	}
	return nil
}

// admit makes the record of an invocation that is about to be stored; mu is held.
func (q *Queue) admit(l *lane, inv orchestrator.Invocation) *record {
	q.order++
	r := &record{
		id: inv.ID, lane: l, status: inv.Status, inv: &inv, created: inv.CreatedAt,
		key: inv.OrderingKey, idem: inv.IdempotencyKey, order: q.order, index: -1, stored: make(chan struct{}), writing: true,
	}
	q.records[r.id] = r
	if r.idem != "" {
		q.byKey[idempotencyKey{l.name.function, r.idem}] = r
	}
	l.storing++
	l.bytes, q.bytes = l.bytes+inv.Size, q.bytes+inv.Size
	return r
}

// arrived takes a stored invocation into its lane; mu is held.
func (q *Queue) arrived(r *record, at ref) {
	r.call, r.last = at, at
	q.commits.need(at) // once for each of the two
	r.lane.storing--
	r.lane.counts.Queued++
	q.disown(r)
	r.lane.push(r, false)
	close(r.stored)
	q.attend(r.lane)
}

// forget drops an invocation from memory; mu is held.
func (q *Queue) forget(r *record) {
	r.dropped = true
	delete(q.records, r.id)
	if key := (idempotencyKey{r.lane.name.function, r.idem}); r.idem != "" && q.byKey[key] == r {
		delete(q.byKey, key)
	}
	if r.last.none() {
		r.lane.storing-- // it was never stored
		q.disown(r)
	}
	q.commits.release(r.call)
	q.commits.release(r.last)
	r.call, r.last = ref{}, ref{}
}

// known returns the invocation of a call that was made before.
func (q *Queue) known(ctx context.Context, r *record) (orchestrator.Invocation, error) {
	select {
	case <-r.stored:
	case <-ctx.Done():
		return orchestrator.Invocation{}, orchestrator.Errorf(orchestrator.ErrDeadline, "store-deadline", "%w", context.Cause(ctx))
	}
	q.mu.Lock()
	failed := r.failed
	q.mu.Unlock()
	if failed != nil {
		return orchestrator.Invocation{}, failed
	}
	inv, _, err := q.Invocation(ctx, r.id)
	return inv, err
}
