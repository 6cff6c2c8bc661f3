package pool

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

// queue is FIFO. Its zero value is empty.
type queue struct {
	first, last *waiter
	len         int
	spare       *waiter // to use again, linked by next
	spares      int
}

// maxSpare bounds the waiters kept for use again: each has a channel, which is
// worth keeping under overload and not worth more than some 10 KiB a function.
const maxSpare = 64

// take returns a waiter to push.
func (q *queue) take(now instant) *waiter {
	w := q.spare
	if w == nil {
		return &waiter{granted: make(chan grant, 1), since: now}
	}
	q.spare, w.next = w.next, nil
	q.spares--
	w.since = now
	return w
}

// recycle takes back a waiter that has left the queue and whose channel is empty.
func (q *queue) recycle(w *waiter) {
	if q.spares < maxSpare {
		w.next, q.spare = q.spare, w
		q.spares++
	}
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
