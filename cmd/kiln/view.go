package main

import (
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/kilnfaas/kiln/gateway/api"
	"github.com/kilnfaas/kiln/orchestrator"
)

// How the live part of a view is drawn.
const (
	frameInterval = 100 * time.Millisecond // smooth for the eye, nothing for the machine
	lifeInterval  = 10 * time.Second       // how often a log says that a long step still runs
	maxLive       = 6                      // steps shown at once; more jump about
	spinner       = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
)

// view shows a deploy: on a terminal the steps that run are rewritten in place
// below those that are done, elsewhere each step that ends is a line, and one that
// takes long is one now and then. Close it when the deploy has ended; its
// goroutine ends with it.
type view struct {
	w        io.Writer
	style    style
	live     bool // rewriting in place
	verbose  bool
	start    time.Time
	stop     chan struct{}
	finished sync.WaitGroup
	once     sync.Once

	mu    sync.Mutex
	steps []*liveStep // guarded by mu; those that run, in order of their start
	drawn int         // guarded by mu; lines of the live part on the screen
	frame int         // guarded by mu
	// cached are the lines of steps that were cached, since the last that was not.
	cached []string // guarded by mu
}

// liveStep is a step that runs.
type liveStep struct {
	id, name string
	started  time.Time
	line     string // the last it printed
}

func newView(w io.Writer, verbose bool) *view {
	v := &view{w: w, style: styleOf(w), verbose: verbose, start: time.Now(), stop: make(chan struct{})}
	interval := lifeInterval
	if _, v.live = terminal(w); v.live {
		interval = frameInterval
	}
	v.finished.Go(func() { v.animate(interval) })
	return v
}

// animate shows time passing until the view is closed.
func (v *view) animate(interval time.Duration) {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		select {
		case <-v.stop:
			return
		case <-ticker.C:
			v.tick()
		}
	}
}

// tick redraws, or where there is no terminal says what still runs.
func (v *view) tick() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.live {
		v.frame++
		v.redraw("")
		return
	}
	for _, s := range v.steps {
		if ran := time.Since(s.started); ran > lifeInterval/2 {
			fmt.Fprintf(v.w, "… %s %s\n", s.name, span(ran.Round(time.Second)))
		}
	}
}

// close takes the live part off the screen.
func (v *view) close() {
	v.once.Do(func() {
		close(v.stop)
		v.finished.Wait()
		v.mu.Lock()
		v.steps = nil
		v.flushCached()
		if v.live {
			v.redraw("")
		}
		v.mu.Unlock()
	})
}

// elapsed says how long the view has been open.
func (v *view) elapsed() string { return span(time.Since(v.start)) }

// event shows one event of the deploy.
func (v *view) event(e api.Event) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if e.Kind == api.EventLog {
		v.log(e)
		return
	}
	if e.Kind != api.EventStep {
		return
	}
	e.Name = oneLine(e.Name)
	index := v.find(e.Step)
	if e.State == orchestrator.StepStarted {
		if index < 0 {
			v.steps = append(v.steps, &liveStep{id: e.Step, name: e.Name, started: time.Now()})
		}
		return
	}
	name := e.Name
	if index >= 0 {
		name = firstOf(name, v.steps[index].name)
		v.steps = append(v.steps[:index], v.steps[index+1:]...)
	}
	line := v.ended(e, firstOf(name, e.Step))
	if e.State == orchestrator.StepCached {
		v.cached = append(v.cached, line)
		return
	}
	v.flushCached()
	v.print(line)
}

// flushCached tells of cached steps: nobody waited for them, so several are one
// line. The caller holds mu.
func (v *view) flushCached() {
	switch n := len(v.cached); n {
	case 0:
	case 1:
		v.print(v.cached[0])
	default:
		v.print(fmt.Sprintf("%s %s", v.style.green("✓"), v.style.dim(fmt.Sprintf("%d steps cached", n))))
	}
	v.cached = nil
}

func (v *view) find(id string) int {
	for i, s := range v.steps {
		if s.id == id {
			return i
		}
	}
	return -1
}

// ended is the line of a step that has ended.
func (v *view) ended(e api.Event, name string) string {
	mark, note := v.style.green("✓"), span(time.Duration(e.Duration))
	switch e.State {
	case orchestrator.StepCached:
		note = "cached"
	case orchestrator.StepFailed:
		mark = v.style.red("✗")
	}
	if v.live {
		name = cut(name, columns(v.w)-len("✓  ")-len(note)-1)
	}
	return mark + " " + name + " " + v.style.dim(note)
}

// maxStepName is how much of a step's name is shown where no terminal says how
// much there is room for.
const maxStepName = 160

// oneLine makes a step's name, which may be a whole shell script, one line,
// without the cache mounts that it begins with.
func oneLine(name string) string {
	words := slices.DeleteFunc(strings.Fields(clean(name)), func(word string) bool { return strings.HasPrefix(word, "--mount=") })
	return cut(strings.Join(words, " "), maxStepName)
}

// log keeps the last line of a step, and prints it when that was asked for.
func (v *view) log(e api.Event) {
	if i := v.find(e.Step); i >= 0 && strings.TrimSpace(e.Line) != "" {
		v.steps[i].line = e.Line
	}
	if v.verbose {
		line := "  | " + clean(e.Line)
		if v.live {
			line = cut(line, columns(v.w))
		}
		v.print(v.style.dim(line))
	}
}

// print adds a line that stays.
func (v *view) print(line string) {
	if v.live {
		v.redraw(line + "\n")
		return
	}
	fmt.Fprintln(v.w, line)
}

// redraw replaces the live part by what stays and the live part of now, in one
// write so that it does not flicker. The caller holds mu.
func (v *view) redraw(stays string) {
	var b strings.Builder
	if v.drawn > 0 {
		fmt.Fprintf(&b, "\x1b[%dA", v.drawn)
	}
	b.WriteString("\r\x1b[J" + stays)
	width, shown := columns(v.w), v.steps
	if hidden := len(shown) - maxLive; hidden > 0 {
		shown = shown[hidden:]
	}
	for _, s := range shown {
		b.WriteString(v.liveLine(s, width) + "\n")
	}
	v.drawn = len(shown)
	_, _ = io.WriteString(v.w, b.String()) // a terminal that went away takes nothing with it
}

// liveLine is the line of a step that runs: what, for how long, and the last it
// printed as far as there is room.
func (v *view) liveLine(s *liveStep, width int) string {
	frames := []rune(spinner)
	mark := string(frames[v.frame%len(frames)])
	note := span(time.Since(s.started).Truncate(frameInterval))
	name := cut(s.name, width-len("x  ")-len(note)-1)
	room := width - 2 - len([]rune(name)) - 1 - len(note) - 2
	text := v.style.yellow(mark) + " " + name + " " + v.style.dim(note)
	if line := clean(s.line); line != "" && room > minLogRoom {
		text += v.style.dim("  " + cut(line, room))
	}
	return text
}

// minLogRoom is the space below which a piece of a log line says nothing.
const minLogRoom = 12

// escapes are the sequences that colour text and move the cursor.
var escapes = regexp.MustCompile(`\x1b(\[[0-9;?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)?|[@-Z\\-_])`)

// clean takes out of a line that a build printed what would colour it, move the
// cursor or ring the bell. Of a line that rewrites itself the last state stays.
func clean(line string) string {
	line = strings.TrimRight(line, "\r")
	line = line[strings.LastIndexByte(line, '\r')+1:]
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\t':
			return ' '
		case r < ' ' || r == 0x7f:
			return -1
		}
		return r
	}, escapes.ReplaceAllString(line, ""))
}
