package events

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/kilnfaas/kiln/orchestrator"
)

// replay makes the records that the journal tells of.
func (q *Queue) replay(ctx context.Context) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	err := q.cfg.Journal.Replay(ctx, func(at orchestrator.Position, data []byte) error {
		e, err := decodeEntry(data)
		if err != nil {
			return fmt.Errorf("entry %d of commit %d: %w", at.Index, at.Commit, err)
		}
		r := ref{at: at, size: len(data)}
		q.commits.add(r)
		q.fold(e, r)
		return nil
	})
	if err != nil {
		return err
	}
	all := make([]*record, 0, len(q.records))
	for _, r := range q.records {
		all = append(all, r)
	}
	slices.SortFunc(all, func(a, b *record) int { return cmp.Compare(a.order, b.order) })
	for _, r := range all {
		if !r.status.Ended() {
			q.bytes += r.inv.Size
			r.lane.bytes += r.inv.Size
			r.lane.push(r, false)
		}
	}
	slices.SortFunc(all, func(a, b *record) int { return a.ended.Compare(b.ended) })
	for _, r := range all {
		if r.status.Ended() {
			q.keep(r)
		}
	}
	q.expire(time.Now())
	return nil
}

// fold takes the next entry of an invocation in; mu is held.
func (q *Queue) fold(e entry, at ref) {
	inv := e.invocation
	r := q.records[inv.ID]
	if e.kind == entryGone {
		if r != nil {
			q.forget(r)
		}
		return
	}
	if r == nil {
		l := q.lane(laneName{inv.Function, inv.Target != ""})
		q.order++
		r = &record{
			id: inv.ID, lane: l, created: inv.CreatedAt, key: inv.OrderingKey, idem: inv.IdempotencyKey,
			order: q.order, index: -1, stored: make(chan struct{}),
		}
		close(r.stored)
		q.records[r.id] = r
		if r.idem != "" {
			q.byKey[idempotencyKey{inv.Function, r.idem}] = r
		}
	}
	q.turn(r, inv, e.kind, at)
	q.commits.need(at) // for last
	if e.kind == entryCall {
		q.commits.need(at) // for call
	}
}

// turn makes an entry, that is needed already, the last one of a record; mu is held.
func (q *Queue) turn(r *record, inv orchestrator.Invocation, kind entryKind, at ref) {
	q.commits.release(r.last)
	r.last = at
	if kind == entryCall {
		q.commits.release(r.call)
		r.call = at
	}
	r.status, r.ended = inv.Status, inv.EndedAt
	r.inv = &inv
	if inv.Status.Ended() {
		r.inv = nil
	}
	if inv.Status == orchestrator.InvocationSucceeded {
		q.commits.release(r.call) // it is not made again
		r.call = ref{}
	}
}

// keep puts an invocation that has ended among the results or the dead letters;
// mu is held.
func (q *Queue) keep(r *record) {
	if r.status == orchestrator.InvocationFailed {
		q.letters.push(r)
		r.lane.dead++
		return
	}
	q.results.push(r)
}

// unkeep undoes keep; mu is held.
func (q *Queue) unkeep(r *record) {
	if r.status == orchestrator.InvocationFailed {
		q.letters.left()
		r.lane.dead--
		return
	}
	q.results.left()
}

// expire forgets results that are too old or too many, and dead letters that
// are too many; mu is held.
func (q *Queue) expire(now time.Time) {
	for {
		r := q.results.oldest()
		if r == nil || q.results.count <= q.cfg.Results && now.Sub(r.ended) < q.cfg.ResultTTL {
			break
		}
		q.unkeep(r)
		q.forget(r)
	}
	for q.letters.count > q.cfg.Dead {
		r := q.letters.oldest()
		q.cfg.Logger.Warn("dead letter dropped: there are too many", "function", r.lane.name.function, "invocation", r.id)
		r.lane.counts.Dropped++
		q.unkeep(r)
		q.forget(r)
	}
}
