package build

import (
	"context"
	"errors"
	"time"

	"github.com/kilnfaas/kiln/orchestrator"
)

// Timeout returns a builder that gives a build so much time and not more. A
// build that takes longer is ErrFunction with the last lines it had.
func Timeout(next orchestrator.RevisionBuilder, limit time.Duration) orchestrator.RevisionBuilder {
	return builderFunc(func(ctx context.Context, r orchestrator.Revision, t orchestrator.Template, progress func(orchestrator.BuildEvent)) (orchestrator.Image, error) {
		late := errors.New("the build's time is over")
		bounded, cancel := context.WithTimeoutCause(ctx, limit, late)
		defer cancel()
		var last lines
		image, err := next.BuildRevision(bounded, r, t, func(e orchestrator.BuildEvent) {
			last.add(e)
			progress(e)
		})
		if err != nil && context.Cause(bounded) == late {
			timeout := orchestrator.Errorf(orchestrator.ErrFunction, "build-timeout", "the build took longer than %v", limit).
				WithHint("look at what its last step waits for; build_timeout in the gateway's configuration gives more time")
			timeout.Output, timeout.Cause = last.text, err
			return orchestrator.Image{}, timeout
		}
		return image, err
	})
}

// shownLines is how many lines an error carries.
const shownLines = 50

// lines keeps the last lines of a build's output.
type lines struct{ text []string }

func (l *lines) add(e orchestrator.BuildEvent) {
	if e.Kind != orchestrator.BuildLog {
		return
	}
	l.text = append(l.text, e.Line)
	l.text = l.text[max(0, len(l.text)-shownLines):]
}
