package events

import (
	"time"

	"github.com/kilnfaas/kiln/orchestrator"
)

// Counts are what happened to the invocations of a function since the gateway
// started.
type Counts struct {
	Queued    uint64 // calls taken in
	Succeeded uint64 // attempts that ended well
	Retried   uint64 // attempts that are tried again
	Deferred  uint64 // attempts that did not count: the function or the platform was busy
	Failed    uint64 // attempts that made a dead letter
	Dropped   uint64 // dead letters that made room for newer ones
}

func (c *Counts) add(v Verdict) {
	switch {
	case v.Status == orchestrator.InvocationCanceled:
	case v.Status == orchestrator.InvocationSucceeded:
		c.Succeeded++
	case v.Status == orchestrator.InvocationFailed:
		c.Failed++
	case v.Counted:
		c.Retried++
	default:
		c.Deferred++
	}
}

// Stats is the queue of one function at an instant. Outbound is that of the
// results which are sent on from it.
type Stats struct {
	Function string
	Outbound bool
	Waiting  int
	Running  int
	Dead     int           // dead letters
	Age      time.Duration // how long the first in line has been due; 0 when nothing is
	Counts   Counts
}

// Stats yields the queue of each function that has had asynchronous calls.
func (q *Queue) Stats(yield func(Stats) bool) {
	now := time.Now()
	q.mu.Lock()
	all := make([]Stats, 0, len(q.lanes))
	for _, l := range q.lanes {
		s := Stats{Function: l.name.function, Outbound: l.name.outbound, Waiting: l.waiting, Running: l.running, Dead: l.dead, Counts: l.counts}
		if len(l.due) > 0 {
			s.Age = max(0, now.Sub(l.due[0].nextAt()))
		}
		all = append(all, s)
	}
	q.mu.Unlock()
	for _, s := range all {
		if !yield(s) {
			return
		}
	}
}
