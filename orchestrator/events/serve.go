package events

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/kilnfaas/kiln/orchestrator"
)

// serve looks after a lane until nothing waits or runs in it: it begins the
// attempts that are due, as many at a time as the function may have.
func (q *Queue) serve(l *lane) {
	defer q.work.Done()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	var attempts sync.WaitGroup
	defer attempts.Wait()
	for {
		limit := q.limit(l)
		q.mu.Lock()
		if q.closed || l.empty() {
			l.served = false
			q.mu.Unlock()
			q.tellBacklog(l, 0)
			return
		}
		r, wait := q.begin(l, limit)
		backlog := 0
		if r != nil || wait == 0 {
			backlog = l.waiting
		}
		q.mu.Unlock()
		q.tellBacklog(l, backlog)
		if r != nil {
			attempts.Go(func() { q.attempt(r) })
			continue
		}
		if wait > 0 {
			timer.Reset(wait)
		} else {
			timer.Stop()
		}
		select {
		case <-l.wake:
		case <-timer.C:
		case <-q.stop:
		}
	}
}

// tellBacklog tells the fleet how many calls of a lane wait and are due.
func (q *Queue) tellBacklog(l *lane, calls int) {
	if !l.name.outbound {
		q.cfg.Fleet.Backlog(l.name.function, calls)
	}
}

// limit returns how many invocations of a lane may run at one time.
func (q *Queue) limit(l *lane) int {
	if l.name.outbound {
		return maxOutbound
	}
	return max(1, int(float64(q.cfg.Fleet.Slots(l.name.function))*q.cfg.Share))
}

// begin takes the next invocation of a lane; nil when none may run now, and then
// how long until one is due: 0 when some are and have to wait for others to end,
// negative when nothing but an event brings one. mu is held.
func (q *Queue) begin(l *lane, limit int) (*record, time.Duration) {
	if l.running >= limit {
		return nil, 0
	}
	r, wait := l.pop(time.Now())
	if r == nil {
		return nil, wait
	}
	l.running++
	r.status = orchestrator.InvocationRunning
	return r, 0
}

// attempt makes one attempt of an invocation that begin took.
func (q *Queue) attempt(r *record) {
	select {
	case q.running <- struct{}{}:
		defer func() { <-q.running }()
	case <-q.stop:
		q.back(r, time.Time{})
		return
	}
	ctx, cancel := context.WithCancel(q.ctx)
	defer cancel()
	q.mu.Lock()
	inv := *r.inv
	r.cancel = cancel
	unwanted := r.unwant
	q.mu.Unlock()
	if unwanted {
		cancel()
	}
	started := time.Now()
	answer := q.call(ctx, r, inv)
	took := time.Since(started)
	q.mu.Lock()
	r.cancel = nil
	unwanted = r.unwant
	q.mu.Unlock()
	if q.ctx.Err() != nil && !unwanted {
		q.back(r, time.Time{}) // cut by the gateway's end: the next one makes it again
		return
	}
	q.settle(r, inv, answer, started, took)
}

// call makes the call of an invocation.
func (q *Queue) call(ctx context.Context, r *record, inv orchestrator.Invocation) Answer {
	body, err := q.body(ctx, r)
	switch {
	case err != nil:
		return Answer{Err: err}
	case inv.Target != "":
		return q.cfg.Deliver(ctx, Call{Invocation: inv, Body: body})
	}
	return q.cfg.Invoke(ctx, Call{Invocation: inv, Body: body})
}

// body reads the body of a call, again when it was moved meanwhile.
func (q *Queue) body(ctx context.Context, r *record) ([]byte, error) {
	for {
		q.mu.Lock()
		at := r.call.at
		q.mu.Unlock()
		data, err := q.cfg.Journal.Read(ctx, at)
		if err == nil {
			_, _, body, err := splitEntry(data) // the state is known
			return body, err
		}
		q.mu.Lock()
		moved := r.call.at != at
		q.mu.Unlock()
		if !moved {
			return nil, err
		}
	}
}

// back makes an invocation wait again as if it had not run.
func (q *Queue) back(r *record, next time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	r.lane.running--
	r.status = orchestrator.InvocationWaiting
	if !next.IsZero() {
		r.inv.NextAt = next
	}
	r.lane.push(r, true)
	q.attend(r.lane)
}

// settle writes what came of an attempt.
func (q *Queue) settle(r *record, inv orchestrator.Invocation, answer Answer, started time.Time, took time.Duration) {
	policy := q.policy(inv)
	verdict := Decide(policy, Try{
		Counted: inv.Tries, Deferred: inv.Deferred, Age: time.Since(begun(inv)), Answer: answer, Jitter: rand.Float64(),
	})
	q.mu.Lock()
	q.own(r)
	unwanted := r.unwant
	q.mu.Unlock()
	if unwanted && verdict.Status != orchestrator.InvocationSucceeded {
		verdict.Status = orchestrator.InvocationCanceled
	}
	verdict = mayGoOn(inv, answer, verdict)
	inv = afterAttempt(inv, answer, verdict, started, took)
	entries := []entry{{kind: entryState, invocation: inv}}
	if inv.Status.Ended() {
		entries[0].kind, entries[0].body = entryResult, kept(answer.Body)
		if inv.Status != orchestrator.InvocationCanceled {
			entries = append(entries, q.outcome(policy, inv, entries[0].body)...)
		}
		if next := q.nextStage(&inv, entries[0].body); next != nil {
			entries = append(entries, *next)
			entries[0].invocation = inv
		}
	}
	ctx, cancel := q.writingContext()
	defer cancel()
	refs, err := q.append(ctx, entries...)
	q.mu.Lock()
	defer q.mu.Unlock()
	q.disown(r)
	r.lane.counts.add(verdict)
	if err != nil {
		q.cfg.Logger.Error("the end of an asynchronous attempt was not stored; it is made again", "invocation", r.id, "error", err)
		r.lane.running--
		r.status = orchestrator.InvocationWaiting
		r.inv.NextAt = time.Now().Add(journalPause)
		r.lane.push(r, true)
		q.attend(r.lane)
		return
	}
	q.settled(r, inv, entries, refs)
}

// settled takes what was written into memory; mu is held.
func (q *Queue) settled(r *record, inv orchestrator.Invocation, entries []entry, refs []ref) {
	l := r.lane
	l.running--
	q.turn(r, inv, entries[0].kind, refs[0])
	if inv.Status.Ended() {
		l.bytes, q.bytes = l.bytes-inv.Size, q.bytes-inv.Size
		q.end(r)
		l.leave(r)
	} else {
		l.push(r, true)
	}
	for i, e := range entries[1:] {
		follower := q.admit(q.lane(laneName{e.invocation.Function, e.invocation.Target != ""}), e.invocation)
		q.arrived(follower, refs[1+i])
	}
	q.attend(l)
	l.rouse()
}

// end keeps an invocation that has just ended and tells those who wait for it;
// mu is held.
func (q *Queue) end(r *record) {
	r.unwant = false
	q.keep(r)
	if r.over != nil {
		close(r.over)
		r.over = nil
	}
	q.expire(time.Now())
}

// begun returns from when on the age of an invocation counts: from when it was
// to be made.
func begun(inv orchestrator.Invocation) time.Time {
	if inv.RevivedAt.After(inv.CreatedAt) {
		return inv.RevivedAt
	}
	if inv.NotBefore.After(inv.CreatedAt) {
		return inv.NotBefore
	}
	return inv.CreatedAt
}

// policy returns how an invocation is tried: what is sent on has a policy of its
// own, as it is not the function's affair.
func (q *Queue) policy(inv orchestrator.Invocation) orchestrator.Async {
	if inv.Target != "" {
		return outboundPolicy
	}
	f, err := q.cfg.Functions.Function(q.ctx, inv.Function)
	if err != nil {
		return orchestrator.DefaultSpec().Async
	}
	return f.Spec.Async.Completed()
}

// outboundPolicy is for callbacks and destinations: whoever is away for an hour
// still gets them.
var outboundPolicy = orchestrator.Async{
	Attempts: 12, Backoff: orchestrator.Duration(time.Second), BackoffMax: orchestrator.Duration(15 * time.Minute),
	MaxAge: orchestrator.Duration(24 * time.Hour), RetryOn: []string{"408", "425", "5xx"},
}

// afterAttempt returns an invocation as it is after an attempt.
func afterAttempt(inv orchestrator.Invocation, answer Answer, verdict Verdict, started time.Time, took time.Duration) orchestrator.Invocation {
	attempt := orchestrator.Attempt{
		StartedAt: started.UTC().Round(0), Duration: orchestrator.Duration(took.Round(time.Microsecond)),
		Status: answer.Status, Revision: answer.Revision, Counted: verdict.Counted,
	}
	if verdict.Status != orchestrator.InvocationSucceeded {
		attempt.Error = reason(answer)
	}
	attempts := slices.Clone(inv.Attempts)
	// What was put off again and again is one line, or it would push out the rest.
	if n := len(attempts); n > 0 && !attempt.Counted && !attempts[n-1].Counted && attempts[n-1].Error == attempt.Error {
		attempts[n-1] = attempt
	} else {
		attempts = append(attempts, attempt)
	}
	inv.Attempts = attempts[max(0, len(attempts)-maxAttemptsKept):]
	inv.Status, inv.NextAt = verdict.Status, time.Time{}
	if verdict.Counted {
		inv.Tries++
		inv.Deferred = 0
	} else {
		inv.Deferred++
	}
	if verdict.Status == orchestrator.InvocationWaiting {
		inv.NextAt = time.Now().Add(verdict.Wait).UTC().Round(0)
		return inv
	}
	inv.EndedAt = time.Now().UTC().Round(0)
	if answer.Err == nil {
		body := kept(answer.Body)
		inv.Result = &orchestrator.Result{
			Status: answer.Status, Header: keptHeader(answer.Header), Size: int64(len(body)),
			Truncated: answer.Truncated || len(body) < len(answer.Body),
		}
	}
	if verdict.Status == orchestrator.InvocationFailed {
		inv.Error = verdict.Reason
	}
	return inv
}

// kept returns what is kept of an answer's body.
func kept(body []byte) []byte { return body[:min(len(body), MaxResult)] }

// maxResultHeader bounds what is kept of an answer's header, in bytes.
const maxResultHeader = 8 << 10

// keptHeader returns what is kept of an answer's header: the function's own
// fields as far as they fit.
func keptHeader(header map[string][]string) map[string][]string {
	own := map[string][]string{}
	size := 0
	for name, values := range header {
		if len(values) == 0 || strings.HasPrefix(name, "Kiln-") || name == "Server-Timing" || name == "Date" || name == "Content-Length" {
			continue
		}
		for _, v := range values {
			size += len(name) + len(v)
		}
		if size <= maxResultHeader {
			own[name] = values
		}
	}
	return own
}

// mayGoOn makes a success a failure when the next function of a sequence would get
// a part of the result only.
func mayGoOn(inv orchestrator.Invocation, answer Answer, verdict Verdict) Verdict {
	if verdict.Status == orchestrator.InvocationSucceeded && len(inv.Then) > 0 && (answer.Truncated || len(answer.Body) > MaxResult) {
		verdict.Status = orchestrator.InvocationFailed
		verdict.Reason = fmt.Sprintf("the result is over %s, which is too much to hand on to %s", orchestrator.Bytes(MaxResult), inv.Then[0])
	}
	return verdict
}

// nextStage returns the call of the next function of a sequence, and notes it in
// the invocation whose result it gets; nil when the sequence ends here.
func (q *Queue) nextStage(inv *orchestrator.Invocation, body []byte) *entry {
	if len(inv.Then) == 0 || inv.Status != orchestrator.InvocationSucceeded {
		return nil
	}
	next, sent := passOn(*inv, functionScheme+inv.Then[0], body)
	next.ID = uuid.Must(uuid.NewV7()).String()
	next.Then, next.CallbackURL, next.OrderingKey = inv.Then[1:], inv.CallbackURL, inv.OrderingKey
	inv.Next = next.ID
	return &entry{kind: entryCall, invocation: next, body: sent}
}

// outcome returns the calls that pass the end of an invocation on: to its
// callback and to the function's destination.
func (q *Queue) outcome(policy orchestrator.Async, inv orchestrator.Invocation, body []byte) []entry {
	if inv.Target != "" || inv.Hops >= maxHops {
		return nil
	}
	destination := policy.OnSuccess
	if inv.Status == orchestrator.InvocationFailed {
		destination = policy.OnFailure
	}
	callback := inv.CallbackURL
	if len(inv.Then) > 0 && inv.Status == orchestrator.InvocationSucceeded {
		callback = "" // the last function's result is what was asked for
	}
	var entries []entry
	for _, target := range []string{callback, destination} {
		if target == "" {
			continue
		}
		next, sent := passOn(inv, target, body)
		next.ID = uuid.Must(uuid.NewV7()).String()
		entries = append(entries, entry{kind: entryCall, invocation: next, body: sent})
	}
	return entries
}
