package auth

import (
	"time"

	"golang.org/x/time/rate"

	"github.com/kilnfaas/kiln/orchestrator"
)

// take takes one from a limit, or says when there will be one. A nil limit has
// no end.
func take(limit *rate.Limiter, code, detail string) error {
	if limit == nil {
		return nil
	}
	now := time.Now()
	if limit.AllowN(now, 1) {
		return nil
	}
	// A reservation tells the wait; given back, it takes nothing from others.
	reserved := limit.ReserveN(now, 1)
	wait := reserved.DelayFrom(now)
	reserved.CancelAt(now)
	err := orchestrator.Errorf(orchestrator.ErrExhausted, code, "%s", detail).
		WithHint("wait as long as Retry-After says, or have the rate raised")
	err.RetryAfter = wait
	return err
}
