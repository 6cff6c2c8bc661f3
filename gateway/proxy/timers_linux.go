package proxy

import "container/heap"

// timers tells which of its clients is due. It is a heap that is touched as
// rarely as possible: a client whose time moves back keeps its entry, and is
// looked at again when that comes up; only a time that moves forward makes a new
// one. A keep-alive client that makes calls one after the other moves its
// deadline back with each and so costs a heap operation once a timeout, not once
// a call. Times are nanoseconds on the loop's clock.
type timers struct{ entries []timer }

type timer struct {
	at int64
	c  *client
}

// set makes a client due at a time; 0 is never.
func (t *timers) set(c *client, at int64) {
	c.due = at
	if at == 0 || c.entry != 0 && c.entry <= at {
		return
	}
	c.entry = at
	heap.Push(t, timer{at, c})
}

// next returns when the first entry is, 0 when there is none.
func (t *timers) next() int64 {
	if len(t.entries) == 0 {
		return 0
	}
	return t.entries[0].at
}

// expired returns a client that is due, or nil.
func (t *timers) expired(now int64) *client {
	for len(t.entries) > 0 && t.entries[0].at <= now {
		e := heap.Pop(t).(timer)
		if e.at != e.c.entry {
			continue // a nearer one took its place
		}
		e.c.entry = 0
		switch {
		case e.c.due == 0:
		case e.c.due > now:
			t.set(e.c, e.c.due)
		default:
			e.c.due = 0
			return e.c
		}
	}
	return nil
}

func (t *timers) Len() int           { return len(t.entries) }
func (t *timers) Less(i, j int) bool { return t.entries[i].at < t.entries[j].at }
func (t *timers) Swap(i, j int)      { t.entries[i], t.entries[j] = t.entries[j], t.entries[i] }
func (t *timers) Push(x any)         { t.entries = append(t.entries, x.(timer)) }
func (t *timers) Pop() any {
	last := t.entries[len(t.entries)-1]
	t.entries[len(t.entries)-1] = timer{}
	t.entries = t.entries[:len(t.entries)-1]
	return last
}
