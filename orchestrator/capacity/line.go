package capacity

import (
	"iter"
	"slices"
	"time"

	"github.com/kilnfaas/kiln/orchestrator"
)

// ticket is somebody in a line.
type ticket struct {
	function string
	priority Priority
	memory   orchestrator.Bytes
	granted  chan struct{} // closed when it is its turn
	passed   time.Time     // when one behind it was served, as it did not fit; zero = never
}

func newTicket(function string, priority Priority, memory orchestrator.Bytes) *ticket {
	return &ticket{function: function, priority: priority, memory: memory, granted: make(chan struct{})}
}

// line is a queue with priorities in which functions take turns. Its zero value
// is empty. It is not safe for concurrent use.
type line struct {
	classes [priorities][]*turn
	count   int
}

// turn is what one function has in one class, oldest first; never empty.
type turn struct {
	function string
	tickets  []*ticket
}

func (l *line) len() int { return l.count }

func (l *line) push(t *ticket) {
	l.count++
	class := &l.classes[t.priority]
	for _, f := range *class {
		if f.function == t.function {
			f.tickets = append(f.tickets, t)
			return
		}
	}
	*class = append(*class, &turn{function: t.function, tickets: []*ticket{t}})
}

// pop takes out the next ticket in order whose turn it is and that fits; nil if
// there is none. Its function goes to the end of its class.
func (l *line) pop(fits func(*ticket) bool) *ticket {
	for c := range l.classes {
		for i, f := range l.classes[c] {
			t := f.tickets[0]
			if !fits(t) {
				continue
			}
			l.count--
			l.classes[c] = slices.Delete(l.classes[c], i, i+1)
			if f.tickets = f.tickets[1:]; len(f.tickets) > 0 {
				l.classes[c] = append(l.classes[c], f)
			}
			return t
		}
	}
	return nil
}

// heads returns the tickets whose turn it can be, in order.
func (l *line) heads() iter.Seq[*ticket] {
	return func(yield func(*ticket) bool) {
		for _, class := range l.classes {
			for _, f := range class {
				if !yield(f.tickets[0]) {
					return
				}
			}
		}
	}
}

// remove takes a ticket out and says whether it was still in.
func (l *line) remove(t *ticket) bool {
	class := l.classes[t.priority]
	for i, f := range class {
		if f.function != t.function {
			continue
		}
		k := slices.Index(f.tickets, t)
		if k < 0 {
			return false
		}
		l.count--
		if f.tickets = slices.Delete(f.tickets, k, k+1); len(f.tickets) == 0 {
			l.classes[t.priority] = slices.Delete(class, i, i+1)
		}
		return true
	}
	return false
}

// waiting says whether somebody of a class is in line.
func (l *line) waiting(p Priority) bool { return len(l.classes[p]) > 0 }

// wanted sums up the memory of the tickets of one class.
func (l *line) wanted(p Priority) (sum orchestrator.Bytes) {
	for _, f := range l.classes[p] {
		for _, t := range f.tickets {
			sum += t.memory
		}
	}
	return sum
}
