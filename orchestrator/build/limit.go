package build

import (
	"context"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/kilnfaas/kiln/orchestrator"
)

const (
	// maxWaiting is how many builds may wait: more would wait for hours.
	maxWaiting = 256
	// retryWaiting is when it is worth asking again: a build takes some seconds.
	retryWaiting = 30 * time.Second
)

// Limit returns a builder that runs n builds at once and lets the others wait
// in the order they came. Beyond maxWaiting builds are ErrExhausted.
func Limit(next orchestrator.RevisionBuilder, n int) orchestrator.RevisionBuilder {
	slots := semaphore.NewWeighted(int64(n)) // first come, first served
	var waiting atomic.Int64
	wait := func(ctx context.Context, progress func(orchestrator.BuildEvent)) error {
		if slots.TryAcquire(1) { // fails while others wait
			return nil
		}
		defer waiting.Add(-1)
		before := waiting.Add(1) - 1
		if before >= maxWaiting {
			err := orchestrator.Errorf(orchestrator.ErrExhausted, "builds-waiting", "%d builds are waiting already", before).
				WithHint("try again later, or allow more builds at once")
			err.RetryAfter = retryWaiting
			return err
		}
		s := begin(progress, "wait", "[wait] %d at once are built, %d wait before this one", n, before)
		if err := slots.Acquire(ctx, 1); err != nil {
			err = ended(ctx)
			s.end(err)
			return err
		}
		s.end(nil)
		return nil
	}
	return builderFunc(func(ctx context.Context, r orchestrator.Revision, t orchestrator.Template, progress func(orchestrator.BuildEvent)) (orchestrator.Image, error) {
		if err := wait(ctx, progress); err != nil {
			return orchestrator.Image{}, err
		}
		defer slots.Release(1)
		return next.BuildRevision(ctx, r, t, progress)
	})
}
