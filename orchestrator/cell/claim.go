package cell

import (
	"context"
	"slices"

	"github.com/kilnfaas/kiln/orchestrator"
)

// claimant is a start that waits for a cell which the engine is making. That one
// was begun earlier than a container of the start's own would be, so it is there
// earlier.
type claimant struct {
	cell    *cell         // nil when the start has to go on without; guarded by Launcher.mu
	settled chan struct{} // closed once cell is decided
}

// claim takes a cell to load: one that waits, else the next that the engine is
// making already and that nobody else waits for. It is nil if there is none, or
// ctx ends. The context it returns ends with the cell.
func (l *Launcher) claim(ctx context.Context, template orchestrator.Template) (*cell, context.Context) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.stock(template)
	c := s.take()
	poke(l.kick)
	if c == nil {
		c = l.awaitCell(ctx, s)
	}
	if c == nil || c.state != waiting { // it died on the way
		return nil, nil
	}
	loadCtx, cancel := context.WithCancelCause(ctx)
	c.state, c.died = loading, cancel
	return c, loadCtx
}

// awaitCell waits for a cell that is being made. mu is held, but not meanwhile.
func (l *Launcher) awaitCell(ctx context.Context, s *stock) *cell {
	if s.begun <= len(s.claimants) {
		return nil
	}
	mine := &claimant{settled: make(chan struct{})}
	s.claimants = append(s.claimants, mine)
	l.mu.Unlock()
	select {
	case <-mine.settled:
	case <-ctx.Done():
	}
	l.mu.Lock()
	s.claimants = slices.DeleteFunc(s.claimants, func(c *claimant) bool { return c == mine })
	switch {
	case mine.cell == nil || ctx.Err() == nil:
		return mine.cell
	case l.closed:
		l.end(mine.cell)
	default:
		s.put(mine.cell)
	}
	return nil
}

// put gives a cell that waits to the start that has waited longest for one, or
// keeps it.
func (s *stock) put(c *cell) {
	if len(s.claimants) == 0 {
		s.waiting = append(s.waiting, c)
		return
	}
	first := s.claimants[0]
	s.claimants = slices.Delete(s.claimants, 0, 1)
	first.cell = c
	close(first.settled)
}

// release lets those go on that no cell being made is left for, the latest first.
func (s *stock) release() {
	for len(s.claimants) > s.begun {
		last := len(s.claimants) - 1
		close(s.claimants[last].settled)
		s.claimants = slices.Delete(s.claimants, last, last+1)
	}
}

// settle lets go of a cell that was loaded, which is an instance now and whose
// memory its pool has reserved, and ends one that was not.
func (l *Launcher) settle(c *cell, loaded bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c.died(nil)
	if !loaded {
		l.end(c)
		return
	}
	delete(l.cells, c.id)
	c.reservation.Release()
}
