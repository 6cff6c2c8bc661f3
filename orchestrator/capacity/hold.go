package capacity

import "time"

const (
	// patience is how long a claim lets smaller ones pass. Most that do not fit at
	// once are served sooner.
	patience = time.Second
	// holdFor is how long memory that becomes free is then kept for it: most calls
	// are shorter, after which an instance is idle and can be ended.
	holdFor = 3 * time.Second
	// restFor is how long the others go on after that, so that claims that nothing
	// can serve hold them up for half of the time at most.
	restFor = holdFor
)

// hold keeps the memory that becomes free for a claim that was passed by smaller
// ones for too long. One claim at a time has it, the first in line, and those of
// higher priority are served all the same. When it ends unused, the next in line
// that fit what was kept are served. Its zero value is nobody's.
type hold struct {
	of    *ticket   // nil = nobody's
	until time.Time // its end, or that of the rest after it
}

// look ends a hold whose time is over, and begins one.
func (h *hold) look(now time.Time, l *line) {
	if now.Before(h.until) {
		return
	}
	if h.of != nil {
		h.end(now)
		return
	}
	for t := range l.heads() {
		if !t.passed.IsZero() && now.Sub(t.passed) >= patience {
			h.of, h.until = t, now.Add(holdFor)
			return
		}
	}
}

// end leaves the memory to everybody for a while.
func (h *hold) end(now time.Time) { h.of, h.until = nil, now.Add(restFor) }

// admits says whether a ticket may have memory that is free.
func (h *hold) admits(t *ticket) bool {
	return h.of == nil || t == h.of || t.priority < h.of.priority
}
