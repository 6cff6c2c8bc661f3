package events

import (
	"container/heap"
	"time"

	"github.com/kilnfaas/kiln/orchestrator"
)

// laneName tells lanes apart: the calls of a function, and what is sent on from
// it to elsewhere, which must not wait for each other.
type laneName struct {
	function string
	outbound bool
}

// lane is the waiting and running invocations of one function. It is guarded by
// the queue's mutex.
type lane struct {
	name    laneName
	due     dueHeap              // waiting, but for those behind another of their ordering key
	keys    map[string][]*record // by ordering key, oldest first; the first waits in due or runs
	storing int                  // on their way to the disk
	waiting int
	bytes   int64 // of waiting and running calls
	running int
	dead    int
	served  bool          // a goroutine looks after it
	wake    chan struct{} // holds one token when there may be something to do
	counts  Counts
}

func newLane(name laneName) *lane {
	return &lane{name: name, keys: map[string][]*record{}, wake: make(chan struct{}, 1)}
}

// record is an invocation in memory.
type record struct {
	id      string
	lane    *lane
	status  orchestrator.InvocationStatus
	inv     *orchestrator.Invocation // as last stored; nil once it has ended, when the journal has it
	created time.Time
	ended   time.Time
	key     string // ordering
	idem    string // idempotency

	call ref // entry with the call's body; none once that is not needed
	last ref // entry with the state, and the result once it has ended

	order   uint64 // in which it came
	index   int    // in lane.due, or -1
	stored  chan struct{}
	failed  error         // why it was not stored; set before stored is closed
	writing bool          // somebody writes its next entry
	over    chan struct{} // closed when it ends; nil while nobody waits
	cancel  func()        // ends the attempt that runs
	unwant  bool          // it is to be canceled when its attempt ends
	dropped bool          // the queue has forgotten it
}

// nextAt returns when a waiting record is due.
func (r *record) nextAt() time.Time {
	if r.inv == nil || r.inv.NextAt.IsZero() {
		return r.created
	}
	return r.inv.NextAt
}

// push makes a record wait in its lane. A new one goes behind those of its
// ordering key; one that is tried again keeps its place.
func (l *lane) push(r *record, again bool) {
	l.waiting++
	if r.key != "" {
		line := l.keys[r.key]
		if !again {
			line = append(line, r)
			l.keys[r.key] = line
		}
		if line[0] != r {
			return
		}
	}
	heap.Push(&l.due, r)
}

// pop takes the first record that is due; nil when there is none, and then how
// long until there is one, negative for never.
func (l *lane) pop(now time.Time) (*record, time.Duration) {
	if len(l.due) == 0 {
		return nil, -1
	}
	if wait := l.due[0].nextAt().Sub(now); wait > 0 {
		return nil, wait
	}
	r := heap.Pop(&l.due).(*record)
	l.waiting--
	return r, 0
}

// remove takes a waiting record out.
func (l *lane) remove(r *record) {
	l.waiting--
	if r.index >= 0 {
		heap.Remove(&l.due, r.index)
	}
	l.leave(r)
}

// leave gives the turn of an ordering key to the next of it.
func (l *lane) leave(r *record) {
	if r.key == "" {
		return
	}
	line := l.keys[r.key]
	for i, other := range line {
		if other != r {
			continue
		}
		line = append(line[:i:i], line[i+1:]...)
		if i == 0 && len(line) > 0 {
			heap.Push(&l.due, line[0])
		}
		break
	}
	if len(line) == 0 {
		delete(l.keys, r.key)
		return
	}
	l.keys[r.key] = line
}

// rouse tells whoever looks after the lane that something changed.
func (l *lane) rouse() {
	select {
	case l.wake <- struct{}{}:
	default: // it will look anyway
	}
}

// empty says whether nothing is left that the lane is needed for.
func (l *lane) empty() bool { return l.waiting == 0 && l.running == 0 }

// dueHeap has the record first that is due first; of those that are due at one
// time the one that came first.
type dueHeap []*record

func (h dueHeap) Len() int { return len(h) }

func (h dueHeap) Less(i, j int) bool {
	if a, b := h[i].nextAt(), h[j].nextAt(); !a.Equal(b) {
		return a.Before(b)
	}
	return h[i].order < h[j].order
}

func (h dueHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

// Push implements heap.Interface.
func (h *dueHeap) Push(x any) {
	r := x.(*record)
	r.index = len(*h)
	*h = append(*h, r)
}

// Pop implements heap.Interface.
func (h *dueHeap) Pop() any {
	old := *h
	r := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	r.index = -1
	return r
}

// hasten makes a waiting record due.
func (l *lane) hasten(r *record, now time.Time) {
	if r.nextAt().After(now) {
		r.inv.NextAt = now
	}
	if r.index >= 0 {
		heap.Fix(&l.due, r.index)
	}
}
