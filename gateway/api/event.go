package api

import (
	"time"

	"github.com/kilnfaas/kiln/orchestrator"
)

// EventKind says what an Event carries.
type EventKind string

// The kinds of events. A stream is any number of step and log events and then
// one result or one error, the last line.
const (
	EventStep   EventKind = "step"   // a step of the deploy changed its state
	EventLog    EventKind = "log"    // a line of output of a step
	EventResult EventKind = "result" // the deploy is done; Deployment is set
	EventError  EventKind = "error"  // the deploy failed; Problem is set
)

// Event is one line of a deploy's NDJSON stream.
type Event struct {
	Kind     EventKind              `json:"kind"`
	Time     time.Time              `json:"time"`
	Step     string                 `json:"step,omitempty"`
	Name     string                 `json:"name,omitempty"`
	State    orchestrator.StepState `json:"state,omitempty"`
	Line     string                 `json:"line,omitempty"`
	Duration orchestrator.Duration  `json:"duration,omitzero"`

	Deployment *Deployment `json:"deployment,omitempty"`
	Problem    *Error      `json:"problem,omitempty"`
}

// BuildEvent returns the event of a progress of a deploy.
func BuildEvent(e orchestrator.BuildEvent) Event {
	return Event{
		Kind: EventKind(e.Kind), Time: e.Time,
		Step: e.Step, Name: e.Name, State: e.State, Line: e.Line, Duration: e.Duration,
	}
}
