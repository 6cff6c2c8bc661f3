package docker

import (
	"fmt"
	"strings"
	"time"

	"github.com/kilnfaas/kiln/orchestrator"
)

const (
	// keptLines of each step go into the error when it fails.
	keptLines = 50
	// maxBuildLine bounds a line of output in an event; the rest of it is cut.
	maxBuildLine = 16 << 10
)

// buildLog makes build events of what a builder reports: it numbers the steps,
// holds each to started -> done | cached | failed, and keeps their last lines.
// It belongs to one goroutine.
type buildLog struct {
	prefix string // of step ids, so that several builds of a deploy can be told apart
	emit   func(orchestrator.BuildEvent)
	steps  []*buildStep
	broken *buildStep // the first that failed; others may end for its sake
	latest time.Time  // of what was reported

	allowed int64  // bytes of output; 0 = any number
	printed int64  // bytes of output up to now
	flooded func() // called once when more is printed than allowed
}

// buildStep is one step of a build.
type buildStep struct {
	id      string
	name    string
	state   orchestrator.StepState // empty until started
	started time.Time
	partial [2][]byte // unfinished line of stdout and stderr
	last    []string  // the last lines, at most keptLines
}

func newBuildLog(prefix string, emit func(orchestrator.BuildEvent)) *buildLog {
	if emit == nil {
		emit = func(orchestrator.BuildEvent) {}
	}
	return &buildLog{prefix: prefix, emit: emit}
}

// step adds a step that has not started.
func (l *buildLog) step(name string) *buildStep {
	s := &buildStep{id: fmt.Sprintf("%s-%d", l.prefix, len(l.steps)+1), name: name}
	l.steps = append(l.steps, s)
	return s
}

// start begins a step; a second time it does nothing.
func (l *buildLog) start(s *buildStep, at time.Time) {
	if s.state != "" {
		return
	}
	s.state, s.started = orchestrator.StepStarted, at
	l.saw(at)
	l.emit(orchestrator.BuildEvent{Kind: orchestrator.BuildStep, Time: at, Step: s.id, Name: s.name, State: s.state})
}

// end ends a step in a final state. The first final state stays, except that a
// step can still turn out to have failed.
func (l *buildLog) end(s *buildStep, state orchestrator.StepState, at time.Time) {
	l.start(s, at)
	if s.state == orchestrator.StepFailed || (s.state != orchestrator.StepStarted && state != orchestrator.StepFailed) {
		return
	}
	l.flush(s, at)
	l.saw(at)
	s.state = state
	if state == orchestrator.StepFailed && l.broken == nil {
		l.broken = s
	}
	event := orchestrator.BuildEvent{Kind: orchestrator.BuildStep, Time: at, Step: s.id, Name: s.name, State: state}
	if took := at.Sub(s.started); took > 0 {
		event.Duration = orchestrator.Duration(took)
	}
	l.emit(event)
}

// write adds output of a step. Lines end at a line feed, or at a carriage return
// as progress bars have them.
func (l *buildLog) write(s *buildStep, stderr bool, text []byte, at time.Time) {
	l.start(s, at)
	l.saw(at)
	if !l.takes(s, len(text)) {
		return
	}
	rest := &s.partial[0]
	if stderr {
		rest = &s.partial[1]
	}
	for _, c := range text {
		switch {
		case c == '\n' || c == '\r':
			if len(*rest) > 0 || c == '\n' {
				l.line(s, string(*rest), at)
			}
			*rest = (*rest)[:0]
		case len(*rest) < maxBuildLine:
			*rest = append(*rest, c)
		}
	}
}

// takes counts output of a step, and says whether it is still within what is
// allowed. What is over that is thrown away.
func (l *buildLog) takes(s *buildStep, n int) bool {
	before := l.printed
	l.printed += int64(n)
	if l.allowed == 0 || l.printed <= l.allowed {
		return true
	}
	if before <= l.allowed && l.flooded != nil {
		l.broken = s
		l.flooded()
	}
	return false
}

// flush emits lines that lack their end.
func (l *buildLog) flush(s *buildStep, at time.Time) {
	for i := range s.partial {
		if len(s.partial[i]) > 0 {
			l.line(s, string(s.partial[i]), at)
			s.partial[i] = nil
		}
	}
}

func (l *buildLog) line(s *buildStep, text string, at time.Time) {
	text = strings.ToValidUTF8(text, "\uFFFD")
	if len(s.last) == keptLines {
		copy(s.last, s.last[1:])
		s.last = s.last[:keptLines-1]
	}
	s.last = append(s.last, text)
	l.emit(orchestrator.BuildEvent{Kind: orchestrator.BuildLog, Time: at, Step: s.id, Line: text})
}

// saw keeps the latest time of the builder's clock.
func (l *buildLog) saw(at time.Time) {
	if at.After(l.latest) {
		l.latest = at
	}
}

// finish ends what is still open when the stream is over.
func (l *buildLog) finish(state orchestrator.StepState) {
	for _, s := range l.steps {
		if s.state == orchestrator.StepStarted {
			l.end(s, state, l.latest)
		}
	}
}

// output is what an error shows: the last lines of the failed step.
func (l *buildLog) output() []string {
	if l.broken == nil {
		return nil
	}
	return l.broken.last
}
