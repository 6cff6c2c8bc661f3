package nats

import (
	"context"
	"errors"

	"github.com/kilnfaas/kiln/orchestrator"
)

// deliver hands events over. Those that can never be taken are dropped, and told
// of by their index.
func deliver(ctx context.Context, feed orchestrator.Feed, events []orchestrator.CloudEvent) (dropped map[int]bool, err error) {
	err = feed.Deliver(ctx, nil, events...)
	if !hopeless(err) {
		return nil, err
	}
	// One of them cannot be taken, and then none was.
	dropped = map[int]bool{}
	for i, event := range events {
		err := feed.Deliver(ctx, nil, event)
		switch {
		case hopeless(err):
			feed.Drop(event, err)
			dropped[i] = true
		case err != nil:
			return dropped, err
		}
	}
	return dropped, nil
}

// hopeless says whether an event can never be taken.
func hopeless(err error) bool {
	return errors.Is(err, orchestrator.ErrInvalid) || errors.Is(err, orchestrator.ErrTooLarge)
}
