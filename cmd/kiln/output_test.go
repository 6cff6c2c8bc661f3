package main

import (
	"bytes"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kilnfaas/kiln/gateway/api"
	"github.com/kilnfaas/kiln/orchestrator"
)

func TestSpan(t *testing.T) {
	for _, tt := range []struct {
		d    time.Duration
		want string
	}{
		{0, "0µs"},
		{900 * time.Microsecond, "900µs"},
		{12 * time.Millisecond, "12ms"},
		{1500 * time.Millisecond, "1.5s"},
		{42 * time.Second, "42s"},
		{119 * time.Second, "119s"},
		{5 * time.Minute, "5m"},
		{119 * time.Minute, "119m"},
		{3 * time.Hour, "3h"},
		{47 * time.Hour, "47h"},
		{49 * time.Hour, "2d"},
	} {
		if got := span(tt.d); got != tt.want {
			t.Errorf("span(%v) = %q, want %q", tt.d, got, tt.want)
		}
	}
}

func TestCutNeverExceedsTheWidth(t *testing.T) {
	const text = "größer als breit"
	for width := range len(text) + 2 {
		if got := []rune(cut(text, width)); len(got) > width {
			t.Errorf("cut to %d gives %d: %q", width, len(got), string(got))
		}
	}
	if got := cut(text, 100); got != text {
		t.Errorf("cut = %q, want it whole", got)
	}
}

func TestCleanTakesOutWhatMovesTheCursor(t *testing.T) {
	for in, want := range map[string]string{
		"plain":                    "plain",
		"a\tb":                     "a b",
		"\x1b[1;31mred\x1b[0m":     "red",
		"\x1b]0;title\x07text":     "text",
		"10%\r50%\r100%\r":         "100%",
		"bell\a and \x1b[2Jscreen": "bell and screen",
	} {
		if got := clean(in); got != want {
			t.Errorf("clean(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestTableAligns(t *testing.T) {
	rows := newTable("A", "LONG HEADING", "C")
	rows.add("wïde cell", "x", "1")
	rows.add("y", "", "2")
	var out bytes.Buffer
	if err := rows.write(&out); err != nil {
		t.Fatal(err)
	}
	want := "A          LONG HEADING  C\nwïde cell  x             1\ny                        2\n"
	if got := out.String(); got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

// TestViewInPlace drives the view of a terminal and replays what it wrote.
func TestViewInPlace(t *testing.T) {
	var out bytes.Buffer
	v := newView(&out, false)
	v.live = true // a buffer is no terminal; there is no goroutine to redraw
	step := func(id string, state orchestrator.StepState) {
		v.event(api.Event{Kind: api.EventStep, Step: id, Name: "step " + id, State: state, Duration: orchestrator.Duration(time.Second)})
	}
	step("a", orchestrator.StepStarted)
	step("b", orchestrator.StepStarted)
	v.event(api.Event{Kind: api.EventLog, Step: "b", Line: "\x1b[1mcompiling"})
	v.mu.Lock()
	v.redraw("")
	v.mu.Unlock()
	screen := replay(out.String())
	if len(screen) != 2 || !strings.Contains(screen[0], "step a") || !strings.Contains(screen[1], "step b") || !strings.Contains(screen[1], "compiling") {
		t.Errorf("while two run the screen is %q", screen)
	}
	step("b", orchestrator.StepDone)
	step("c", orchestrator.StepCached)
	step("a", orchestrator.StepFailed)
	step("d", orchestrator.StepCached)
	step("e", orchestrator.StepCached)
	v.close()
	v.close()
	want := []string{"✓ step b 1.0s", "✓ step c cached", "✗ step a 1.0s", "✓ 2 steps cached"}
	if got := replay(out.String()); strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("at the end the screen is %q, want %q", got, want)
	}
}

// TestViewWithoutTerminal shows what a log gets: a line for each step that ends,
// and one for each that takes long.
func TestViewWithoutTerminal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		v := newView(&out, false)
		v.event(api.Event{Kind: api.EventStep, Step: "a", Name: "RUN --mount=type=cache,target=/x  make\n\tall", State: orchestrator.StepStarted})
		v.event(api.Event{Kind: api.EventStep, Step: "b", Name: "COPY . .", State: orchestrator.StepStarted})
		v.event(api.Event{Kind: api.EventStep, Step: "b", Name: "COPY . .", State: orchestrator.StepDone, Duration: orchestrator.Duration(20 * time.Millisecond)})
		time.Sleep(lifeInterval + time.Second)
		v.event(api.Event{Kind: api.EventStep, Step: "a", State: orchestrator.StepDone, Duration: orchestrator.Duration(11 * time.Second)})
		time.Sleep(10 * lifeInterval)
		v.close()
		want := "✓ COPY . . 20ms\n… RUN make all 10s\n✓ RUN make all 11s\n"
		if got := out.String(); got != want {
			t.Errorf("got:\n%s\nwant:\n%s", got, want)
		}
	})
}

func TestViewKeepsLinesWithinTheTerminal(t *testing.T) {
	var out bytes.Buffer
	v := newView(&out, true)
	v.live = true
	long := strings.Repeat("very long ", 40)
	v.event(api.Event{Kind: api.EventStep, Step: "a", Name: long, State: orchestrator.StepStarted})
	v.event(api.Event{Kind: api.EventLog, Step: "a", Line: long})
	v.mu.Lock()
	v.redraw("")
	v.mu.Unlock()
	v.event(api.Event{Kind: api.EventStep, Step: "a", Name: long, State: orchestrator.StepDone})
	v.close()
	for _, line := range strings.Split(escapes.ReplaceAllString(out.String(), ""), "\n") {
		if width := len([]rune(strings.Trim(line, "\r"))); width > defaultColumns {
			t.Errorf("a line has %d characters: %q", width, line)
		}
	}
}

// replay plays the sequences that the view uses and returns the screen's lines.
func replay(text string) []string {
	var screen []string
	row := 0
	for text != "" {
		switch {
		case strings.HasPrefix(text, "\x1b[J"):
			screen, text = screen[:min(row, len(screen))], text[len("\x1b[J"):]
		case strings.HasPrefix(text, "\x1b["):
			up := 0
			for text = text[len("\x1b["):]; text[0] >= '0' && text[0] <= '9'; text = text[1:] {
				up = up*10 + int(text[0]-'0')
			}
			row, text = row-up, text[1:]
		case text[0] == '\r':
			text = text[1:]
		default:
			line, rest, _ := strings.Cut(text, "\n")
			screen = append(screen[:row], line)
			row, text = row+1, rest
		}
	}
	return screen
}
