package build

import (
	"fmt"
	"time"

	"github.com/kilnfaas/kiln/orchestrator"
)

// step is a step of a deploy that the pipeline itself takes.
type step struct {
	progress func(orchestrator.BuildEvent)
	id, name string
	started  time.Time
}

// begin tells that a step starts. id is unique within a deploy; the builder's
// own ids have another form.
func begin(progress func(orchestrator.BuildEvent), id, format string, args ...any) *step {
	s := &step{progress: progress, id: "kiln-" + id, name: fmt.Sprintf(format, args...), started: time.Now()}
	s.state(orchestrator.StepStarted)
	return s
}

// passed tells of a step for which nothing had to be done.
func passed(progress func(orchestrator.BuildEvent), id, format string, args ...any) {
	s := &step{progress: progress, id: "kiln-" + id, name: fmt.Sprintf(format, args...), started: time.Now()}
	s.state(orchestrator.StepCached)
}

func (s *step) state(state orchestrator.StepState) {
	now := time.Now()
	e := orchestrator.BuildEvent{Kind: orchestrator.BuildStep, Time: now, Step: s.id, Name: s.name, State: state}
	if state != orchestrator.StepStarted {
		e.Duration = orchestrator.Duration(now.Sub(s.started))
	}
	s.progress(e)
}

// end tells how a step ended.
func (s *step) end(err error) {
	if err != nil {
		s.state(orchestrator.StepFailed)
		return
	}
	s.state(orchestrator.StepDone)
}

// line tells something about a step.
func (s *step) line(format string, args ...any) {
	s.progress(orchestrator.BuildEvent{
		Kind: orchestrator.BuildLog, Time: time.Now(), Step: s.id, Name: s.name, Line: fmt.Sprintf(format, args...),
	})
}
