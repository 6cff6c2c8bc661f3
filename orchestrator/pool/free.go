package pool

import "math/rand/v2"

// mruConcurrency is the number of slots up to which the most recently used
// instance is picked: its caches are warm and the others become idle. With more
// slots per instance the load of one matters more than its warmth.
const mruConcurrency = 3

// freeList holds the ready instances with a free slot, most recently used first.
type freeList struct{ newest, oldest *instance }

func (l *freeList) pushNewest(in *instance) {
	in.listed, in.newer, in.older = true, nil, l.newest
	if l.newest != nil {
		l.newest.newer = in
	} else {
		l.oldest = in
	}
	l.newest = in
}

func (l *freeList) remove(in *instance) {
	if in.newer != nil {
		in.newer.older = in.older
	} else {
		l.newest = in.older
	}
	if in.older != nil {
		in.older.newer = in.newer
	} else {
		l.oldest = in.newer
	}
	in.listed, in.newer, in.older = false, nil, nil
}

// offer makes a ready instance available to pick.
func (p *Pool) offer(in *instance) {
	in.slot = len(p.ready)
	p.ready = append(p.ready, in)
	if in.inflight < p.concurrency {
		p.free.pushNewest(in)
	}
}

// withhold undoes offer; it may be called on one that is not offered.
func (p *Pool) withhold(in *instance) {
	if in.slot < 0 {
		return
	}
	last := len(p.ready) - 1
	moved := p.ready[last]
	p.ready[in.slot], moved.slot = moved, in.slot
	p.ready[last], in.slot = nil, -1
	p.ready = p.ready[:last]
	if in.listed {
		p.free.remove(in)
	}
}

// pick returns the ready instance that takes the next request, or nil.
func (p *Pool) pick() *instance {
	in := p.free.newest
	if in == nil || p.concurrency <= mruConcurrency || len(p.ready) == 1 {
		return in
	}
	// The less loaded of two picked at random is nearly as good as the least
	// loaded of all, and does not send everything to one that has just started.
	r := rand.Uint32()
	n := uint32(len(p.ready))
	a, b := p.ready[(r&0xffff)%n], p.ready[(r>>16)%n]
	if b.inflight < a.inflight {
		a = b
	}
	if a.inflight < p.concurrency {
		return a
	}
	return in
}

// occupy takes a slot of an instance.
func (p *Pool) occupy(in *instance) {
	in.inflight++
	in.prewarmed, in.used = false, true
	if in.inflight >= p.concurrency && in.listed {
		p.free.remove(in)
	}
}

// vacate gives a slot back.
func (p *Pool) vacate(in *instance) {
	in.inflight--
	if in.slot < 0 {
		return
	}
	switch {
	case !in.listed:
		p.free.pushNewest(in)
	case p.concurrency <= mruConcurrency && p.free.newest != in:
		p.free.remove(in)
		p.free.pushNewest(in)
	}
}
