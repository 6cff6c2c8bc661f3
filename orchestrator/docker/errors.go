package docker

import (
	"context"
	"errors"
	"fmt"
	"strings"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/docker/client"

	"github.com/kilnfaas/kiln/orchestrator"
)

// engineHint is what to do about an engine that does not answer.
const engineHint = "check that Docker runs and that this user may use it: docker info"

// translate gives an error of the Docker client one of the orchestrator's
// classes. ctx is the caller's: when that has ended, the engine is not to
// blame. what completes "cannot …".
func translate(ctx context.Context, what string, err error) error {
	if err == nil {
		return nil
	}
	var known *orchestrator.Error
	if errors.As(err, &known) {
		return err
	}
	fail := func(class error, code string) *orchestrator.Error {
		return orchestrator.Errorf(class, code, "cannot %s: %w", what, err)
	}
	switch cause := ctx.Err(); {
	case errors.Is(cause, context.Canceled):
		return fmt.Errorf("%s: %w", what, context.Canceled)
	case cause != nil:
		return orchestrator.Errorf(orchestrator.ErrDeadline, "engine-deadline", "no time left to %s: %w", what, cause)
	}
	switch {
	case client.IsErrConnectionFailed(err):
		return fail(orchestrator.ErrUnavailable, "engine-unreachable").WithHint(engineHint)
	case errors.Is(err, context.DeadlineExceeded):
		return fail(orchestrator.ErrUnavailable, "engine-timeout").WithHint(engineHint)
	case strings.Contains(err.Error(), "no space left on device"):
		return fail(orchestrator.ErrUnavailable, "engine-disk-full").WithHint("free space on the engine's disk, see docker system df")
	case strings.Contains(err.Error(), "invalid reference format"):
		return fail(orchestrator.ErrInvalid, "image-reference-invalid")
	case cerrdefs.IsNotFound(err):
		return fail(orchestrator.ErrNotFound, "engine-not-found")
	case cerrdefs.IsConflict(err), cerrdefs.IsAlreadyExists(err), cerrdefs.IsNotModified(err):
		return fail(orchestrator.ErrConflict, "engine-conflict")
	case cerrdefs.IsInvalidArgument(err):
		return fail(orchestrator.ErrInvalid, "engine-refused")
	}
	return fail(orchestrator.ErrUnavailable, "engine-failed")
}

// invalid is an error of a configuration that cannot be passed on.
func invalid(code, format string, args ...any) *orchestrator.Error {
	return orchestrator.Errorf(orchestrator.ErrInvalid, code, format, args...)
}
