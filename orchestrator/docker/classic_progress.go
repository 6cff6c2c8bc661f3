package docker

import (
	"regexp"
	"strings"
	"time"

	"github.com/kilnfaas/kiln/orchestrator"
)

// What the classic builder prints among the output of the steps.
var (
	classicStep      = regexp.MustCompile(`^Step (\d+/\d+) : (.*)$`)
	classicContainer = regexp.MustCompile(`^ ---> Running in ([0-9a-f]{12})$`)
	classicImage     = regexp.MustCompile(`^ ---> ([0-9a-f]{12})$`)
	classicOwn       = regexp.MustCompile(`^(Step \d+/\d+ : | ---> |Removing intermediate container [0-9a-f]{12}\n$)`)
	classicRemoved   = regexp.MustCompile(`^Removing intermediate container [0-9a-f]{12}$`)
)

const (
	classicCached = " ---> Using cache"
	classicBuilt  = "Successfully built "
	// The classic builder colours standard error.
	classicRed   = "\x1b[91m"
	classicReset = "\x1b[0m"
)

// classicProgress reads the text of a classic build.
type classicProgress struct {
	log     *buildLog
	now     func() time.Time // the classic builder gives no times
	current *buildStep
	partial strings.Builder // of a line
	// container runs the current step; a cancelled build may leave it behind.
	container string
	runs      func(container string) // called when a step's container was made; may be nil
	built     bool
}

// stream takes a piece of the text. Pieces need not end where lines do.
func (p *classicProgress) stream(text string) {
	text = strings.ReplaceAll(strings.ReplaceAll(text, classicRed, ""), classicReset, "")
	if p.partial.Len() > 0 && classicOwn.MatchString(text) {
		text = "\n" + text // the step's output had no line end
	}
	for {
		line, rest, complete := strings.Cut(text, "\n")
		if room := maxBuildLine - p.partial.Len(); room > 0 {
			p.partial.WriteString(line[:min(len(line), room)])
		} else if p.current != nil {
			p.log.takes(p.current, len(line)) // a line without end counts, too
		}
		if !complete {
			return
		}
		whole := p.partial.String()
		p.partial.Reset()
		p.line(whole)
		text = rest
	}
}

func (p *classicProgress) line(line string) {
	at := p.now()
	if m := classicStep.FindStringSubmatch(line); m != nil {
		p.done(orchestrator.StepDone, at)
		p.current = p.log.step("[" + m[1] + "] " + m[2])
		p.log.start(p.current, at)
		return
	}
	if p.current == nil {
		return // "Sending build context", deprecation notices
	}
	switch m := classicContainer.FindStringSubmatch(line); {
	case m != nil:
		p.container = m[1]
		if p.runs != nil {
			p.runs(p.container)
		}
	case line == classicCached:
		p.done(orchestrator.StepCached, at)
	case classicImage.MatchString(line):
		p.done(orchestrator.StepDone, at)
	case classicRemoved.MatchString(line):
		p.container = ""
	case p.current.state != orchestrator.StepStarted:
		p.built = p.built || strings.HasPrefix(line, classicBuilt)
	default:
		p.log.write(p.current, false, []byte(line+"\n"), at)
	}
}

// done ends the current step, if one runs.
func (p *classicProgress) done(state orchestrator.StepState, at time.Time) {
	if p.current != nil && p.current.state == orchestrator.StepStarted {
		p.log.end(p.current, state, at)
	}
}
