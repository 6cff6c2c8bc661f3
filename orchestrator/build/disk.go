package build

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/kilnfaas/kiln/orchestrator"
)

const (
	// diskLook is how often the disk is looked at: a step writes some 100 MiB
	// meanwhile.
	diskLook = 100 * time.Millisecond
	// diskFloor is what a build leaves free: below it engines and stores fail.
	diskFloor = 512 * orchestrator.MiB
	// reclaimTimeout bounds freeing what a build left in the builder's cache.
	reclaimTimeout = 2 * time.Minute
)

// DiskWatch says how a build that fills the engine's disk is found out.
type DiskWatch struct {
	// Free returns the free space on the engine's disk; nil = nobody can tell, and
	// nothing is watched.
	Free func() (orchestrator.Bytes, error)
	// Limit is how much less that may become while a build runs, whoever takes
	// it; 0 = DefaultDisk.
	Limit orchestrator.Bytes
	// Reclaim removes what builds have left in the builder's cache since then; nil
	// = nothing does.
	Reclaim func(ctx context.Context, since time.Time) error
}

// DefaultDisk is room for a large image and what its build leaves behind.
const DefaultDisk = 10 * orchestrator.GiB

// Disk returns a builder that ends a build when the engine's disk loses too much
// while it runs.
func Disk(next orchestrator.RevisionBuilder, watch DiskWatch, logger *slog.Logger) orchestrator.RevisionBuilder {
	if watch.Free == nil {
		return next
	}
	if watch.Limit == 0 {
		watch.Limit = DefaultDisk
	}
	return builderFunc(func(ctx context.Context, r orchestrator.Revision, t orchestrator.Template, progress func(orchestrator.BuildEvent)) (orchestrator.Image, error) {
		before, err := watch.Free()
		if err != nil {
			logger.Warn("the engine's disk is not watched during a build", "function", r.Function, "error", err)
			return next.BuildRevision(ctx, r, t, progress)
		}
		if before <= diskFloor {
			return orchestrator.Image{}, diskFull(before)
		}
		full := errors.New("the build filled the disk")
		bounded, cancel := context.WithCancelCause(ctx)
		started, watched := time.Now(), make(chan struct{})
		go func() {
			defer close(watched)
			if watch.exceeded(bounded, before) {
				cancel(full)
			}
		}()
		var last lines
		image, err := next.BuildRevision(bounded, r, t, func(e orchestrator.BuildEvent) {
			last.add(e)
			progress(e)
		})
		ended := context.Cause(bounded) == full && err != nil
		cancel(nil)
		<-watched
		if !ended {
			return image, err
		}
		watch.reclaim(ctx, started, r, logger)
		failed := orchestrator.Errorf(orchestrator.ErrFunction, "build-disk-limit", "the engine's disk lost more than %s while this was built", watch.allowed(before)).
			WithHint("look for a step that writes without end; build_disk in the gateway's configuration allows more. If others filled the disk meanwhile, deploy it again")
		failed.Output, failed.Cause = last.text, err
		return orchestrator.Image{}, failed
	})
}

func diskFull(free orchestrator.Bytes) error {
	return orchestrator.Errorf(orchestrator.ErrUnavailable, "engine-disk-full", "the engine's disk has %s left, too little to build", free).
		WithHint("free space on it: remove functions (kiln rm), or what nothing uses (docker system prune)")
}

// allowed is what the disk may lose, of which it has free.
func (d DiskWatch) allowed(free orchestrator.Bytes) orchestrator.Bytes {
	return min(d.Limit, free-diskFloor)
}

// exceeded returns true once the disk has lost too much, false when ctx ends.
func (d DiskWatch) exceeded(ctx context.Context, before orchestrator.Bytes) bool {
	ticker := time.NewTicker(diskLook)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-ticker.C:
		}
		if free, err := d.Free(); err == nil && before-free > d.allowed(before) {
			return true
		}
	}
}

func (d DiskWatch) reclaim(ctx context.Context, since time.Time, r orchestrator.Revision, logger *slog.Logger) {
	if d.Reclaim == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), reclaimTimeout)
	defer cancel()
	if err := d.Reclaim(ctx, since); err != nil {
		logger.Warn("what a build left on the disk is still there", "function", r.Function, "error", err)
	}
}
