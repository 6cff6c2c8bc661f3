package reconcile

import "time"

// ledger remembers since when things have been without an owner, so that only
// those that stay so are reaped.
type ledger struct {
	since map[string]time.Time
}

func newLedger() ledger { return ledger{since: map[string]time.Time{}} }

// overdue takes what has no owner now and returns what has had none for grace.
// Whatever is not named any more is forgotten.
func (l ledger) overdue(now time.Time, grace time.Duration, orphans []string) []string {
	present := make(map[string]bool, len(orphans))
	var over []string
	for _, id := range orphans {
		present[id] = true
		first, known := l.since[id]
		if !known {
			l.since[id] = now
			first = now
		}
		if now.Sub(first) >= grace {
			over = append(over, id)
		}
	}
	for id := range l.since {
		if !present[id] {
			delete(l.since, id)
		}
	}
	return over
}
