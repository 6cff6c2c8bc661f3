package pool

import "sync"

// waiter is a request in the queue.
type waiter struct {
	granted    chan grant // capacity 1; receives exactly one grant unless the waiter left the queue
	since      instant
	next, prev *waiter
	queued     bool
}

// grant is what a waiter gets: an instance with a slot taken, or an error.
type grant struct {
	in  *instance
	err error
}

// waiters are reused, as each has a channel.
var waiters = sync.Pool{New: func() any { return &waiter{granted: make(chan grant, 1)} }}

// queue is FIFO. Its zero value is empty.
type queue struct {
	first, last *waiter
	len         int
}

func (q *queue) push(w *waiter) {
	w.queued, w.next, w.prev = true, nil, q.last
	if q.last != nil {
		q.last.next = w
	} else {
		q.first = w
	}
	q.last = w
	q.len++
}

func (q *queue) remove(w *waiter) {
	if w.prev != nil {
		w.prev.next = w.next
	} else {
		q.first = w.next
	}
	if w.next != nil {
		w.next.prev = w.prev
	} else {
		q.last = w.prev
	}
	w.queued, w.next, w.prev = false, nil, nil
	q.len--
}

// pop takes out the one that has waited longest; nil if there is none.
func (q *queue) pop() *waiter {
	w := q.first
	if w != nil {
		q.remove(w)
	}
	return w
}
