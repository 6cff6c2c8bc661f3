package build

import (
	"context"
	"log/slog"
	"time"

	"github.com/kilnfaas/kiln/orchestrator"
)

// Recorder is told of builds that were carried out.
type Recorder interface {
	// Built is called once for each build, err being what it returns.
	Built(r orchestrator.Revision, took time.Duration, err error)
}

// Record returns a builder that tells recorder of each build of next.
func Record(next orchestrator.RevisionBuilder, recorder Recorder) orchestrator.RevisionBuilder {
	return builderFunc(func(ctx context.Context, r orchestrator.Revision, t orchestrator.Template, progress func(orchestrator.BuildEvent)) (orchestrator.Image, error) {
		start := time.Now()
		image, err := next.BuildRevision(ctx, r, t, progress)
		recorder.Built(r, time.Since(start), err)
		return image, err
	})
}

// logRecorder logs builds that succeeded; the others are returned to the caller.
type logRecorder struct{ logger *slog.Logger }

// Built implements Recorder.
func (l logRecorder) Built(r orchestrator.Revision, took time.Duration, err error) {
	if err != nil {
		return
	}
	l.logger.Info("image built", "function", r.Function, "revision", r.ID, "template", r.Spec.Template, "duration_ms", took.Milliseconds())
}
