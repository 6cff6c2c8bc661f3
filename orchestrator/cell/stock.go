package cell

import (
	"slices"
	"time"

	"github.com/kilnfaas/kiln/orchestrator"
)

const (
	// rateWindow is how far back cold starts count towards the size of a stock.
	rateWindow = time.Minute
	// extraLife is how long cells beyond the minimum wait.
	extraLife = 2 * time.Minute
	// The pauses after a cell that could not be made.
	firstRetry = 2 * time.Second
	maxRetry   = time.Minute
)

// Target returns how many cells of a template should wait:
// clamp(min, cold starts of the last minute / 2, max).
func Target(minimum, maximum, coldStarts int) int {
	return max(minimum, min(coldStarts/2, maximum))
}

// stock is the cells of one template. It is guarded by Launcher.mu.
type stock struct {
	template orchestrator.Template
	image    string  // empty until it has been made
	waiting  []*cell // oldest first
	starting int
	begun    int  // of those starting: the engine is at it
	making   bool // the image is being made
	failures int
	retryAt  time.Time
	colds    []time.Time // cold starts in the window, oldest first; at most twice the maximum
	// claimants wait for those begun, longest first; never more than those.
	claimants []*claimant
}

// stock returns a template's stock; mu is held.
func (l *Launcher) stock(template orchestrator.Template) *stock {
	s := l.stocks[template.Name]
	if s == nil {
		s = &stock{template: template}
		l.stocks[template.Name] = s
	}
	return s
}

// take removes the cell that has waited longest; nil if there is none.
func (s *stock) take() *cell {
	if len(s.waiting) == 0 {
		return nil
	}
	c := s.waiting[0]
	s.waiting = slices.Delete(s.waiting, 0, 1)
	return c
}

func (s *stock) takeAll() []*cell {
	all := s.waiting
	s.waiting = nil
	return all
}

func (s *stock) remove(c *cell) {
	s.waiting = slices.DeleteFunc(s.waiting, func(other *cell) bool { return other == c })
}

// cold counts a cold start; no more are remembered than the maximum needs.
func (s *stock) cold(now time.Time, limit int) {
	s.colds = append(s.colds, now)
	if extra := len(s.colds) - max(1, limit); extra > 0 {
		s.colds = slices.Delete(s.colds, 0, extra)
	}
}

// recent returns the number of cold starts in the window.
func (s *stock) recent(now time.Time) int {
	old := 0
	for old < len(s.colds) && now.Sub(s.colds[old]) >= rateWindow {
		old++
	}
	s.colds = slices.Delete(s.colds, 0, old)
	return len(s.colds)
}

// expired takes out what waits beyond target and has done so for long enough,
// or all beyond it when the template is not in use any more.
func (s *stock) expired(now time.Time, target int) (gone []*cell) {
	for len(s.waiting) > target && (target == 0 || now.Sub(s.waiting[0].readyAt) >= extraLife) {
		gone = append(gone, s.take())
	}
	return gone
}

// failed puts the next attempt off.
func (s *stock) failed(now time.Time) {
	pause := firstRetry
	for range s.failures {
		if pause *= 2; pause >= maxRetry {
			pause = maxRetry
			break
		}
	}
	s.failures++
	s.retryAt = now.Add(pause)
}
