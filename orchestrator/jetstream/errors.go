package jetstream

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/kilnfaas/kiln/orchestrator"
)

// Codes of the JetStream API that say that a bound of storage is reached. The
// client library has no names for them.
const (
	codeNoResources jetstream.ErrorCode = 10023 // insufficient resources
	codeMemoryFull  jetstream.ErrorCode = 10028
	codeStorageFull jetstream.ErrorCode = 10047
	codeStoreFailed jetstream.ErrorCode = 10077 // the stream's own limit, or the disk
)

// classify turns an error of the client into one of orchestrator's classes. op
// says what was tried ("read function resize"). ctx is the caller's: it tells
// whose time was over.
func classify(ctx context.Context, op string, err error) error {
	if err == nil {
		return nil
	}
	var classed *orchestrator.Error
	if errors.As(err, &classed) {
		return err
	}
	wrapped := fmt.Errorf("%s: %w", op, err)
	var api *jetstream.APIError
	switch {
	case ctx.Err() != nil:
		return orchestrator.Errorf(orchestrator.ErrDeadline, "store-deadline", "%w", errors.Join(wrapped, context.Cause(ctx)))
	case errors.As(err, &api) && exhausted(api):
		return orchestrator.Errorf(orchestrator.ErrExhausted, "store-full", "%w", wrapped).
			WithHint("make room on the disk that holds the data folder, or raise the stream's limits")
	}
	return orchestrator.Errorf(orchestrator.ErrUnavailable, "store-unavailable", "%w", wrapped).
		WithHint("try again; the gateway's log says more if it stays")
}

func exhausted(err *jetstream.APIError) bool {
	switch err.ErrorCode {
	case codeNoResources, codeMemoryFull, codeStorageFull, codeStoreFailed:
		return true
	}
	return strings.Contains(err.Description, "no space left")
}

// conflicting says whether a write was refused for its expected sequence.
func conflicting(err error) bool {
	var api *jetstream.APIError
	return errors.As(err, &api) && (api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence ||
		api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequenceConstant)
}

func absent(err error) bool {
	return errors.Is(err, jetstream.ErrKeyNotFound) || errors.Is(err, jetstream.ErrMsgNotFound) // a deleted key is a key not found
}
