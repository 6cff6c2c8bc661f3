package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/term"

	"github.com/kilnfaas/kiln/orchestrator"
)

// defaultColumns is the width of what is not a terminal, or does not tell.
const defaultColumns = 80

// style colours text for a terminal; the zero value leaves it plain.
type style struct{ on bool }

// styleOf returns the style of a stream: colours on a terminal unless NO_COLOR
// (no-color.org) is set or TERM is dumb.
func styleOf(w io.Writer) style {
	_, isTerminal := terminal(w)
	return style{on: isTerminal && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"}
}

func (s style) wrap(code, text string) string {
	if !s.on || text == "" {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

func (s style) bold(text string) string   { return s.wrap("1", text) }
func (s style) dim(text string) string    { return s.wrap("2", text) }
func (s style) red(text string) string    { return s.wrap("31", text) }
func (s style) green(text string) string  { return s.wrap("32", text) }
func (s style) yellow(text string) string { return s.wrap("33", text) }

// terminal returns the file descriptor of a stream that is a terminal.
func terminal(w any) (int, bool) {
	file, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(file.Fd())) {
		return 0, false
	}
	return int(file.Fd()), true
}

// columns returns the width of a stream.
func columns(w io.Writer) int {
	if fd, ok := terminal(w); ok {
		if width, _, err := term.GetSize(fd); err == nil && width > 0 {
			return width
		}
	}
	return defaultColumns
}

// writeJSON writes an API object as it is.
func (t *tool) writeJSON(value any) error {
	encoder := json.NewEncoder(t.out)
	encoder.SetIndent("", "  ")
	encoder.SetEscapeHTML(false)
	return encoder.Encode(value)
}

// table is rows below a heading, in aligned columns.
type table struct {
	heading []string
	rows    [][]string
}

func newTable(heading ...string) *table { return &table{heading: heading} }

func (t *table) add(cells ...string) { t.rows = append(t.rows, cells) }

// columnGap is the space between columns.
const columnGap = 2

// write prints the table. On a terminal the last column is cut at the edge.
func (t *table) write(w io.Writer) error {
	widths := make([]int, len(t.heading))
	for _, row := range append([][]string{t.heading}, t.rows...) {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	_, isTerminal := terminal(w)
	edge, colours := columns(w), styleOf(w)
	var b strings.Builder
	for n, row := range append([][]string{t.heading}, t.rows...) {
		var line strings.Builder
		for i, cell := range row {
			line.WriteString(cell)
			if i < len(row)-1 {
				line.WriteString(strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell)+columnGap))
			}
		}
		text := strings.TrimRight(line.String(), " ")
		if isTerminal {
			text = cut(text, edge)
		}
		if n == 0 {
			text = colours.dim(text)
		}
		b.WriteString(text + "\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// cut shortens text to a width in characters.
func cut(text string, width int) string {
	if utf8.RuneCountInString(text) <= width {
		return text
	}
	if width < 1 {
		return ""
	}
	return string([]rune(text)[:width-1]) + "…"
}

// Spans of time as people count them.
const (
	day        = 24 * time.Hour
	justNow    = 2 * time.Second
	fewMinutes = 2 * time.Minute
	fewHours   = 2 * time.Hour
	fewDays    = 2 * day
)

// ago says how long ago a moment was, as seen from now.
func ago(t, now time.Time) string {
	if t.IsZero() {
		return "never"
	}
	d := now.Sub(t)
	if d < justNow {
		return "just now"
	}
	return span(d) + " ago"
}

// span says how long something took or lasts, in one unit.
func span(d time.Duration) string {
	switch {
	case d < time.Millisecond:
		return fmt.Sprintf("%dµs", d.Microseconds())
	case d < time.Second:
		return fmt.Sprintf("%dms", d.Milliseconds())
	case d < 10*time.Second:
		return fmt.Sprintf("%.1fs", d.Seconds())
	case d < fewMinutes:
		return fmt.Sprintf("%.0fs", d.Seconds())
	case d < fewHours:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < fewDays:
		return fmt.Sprintf("%dh", int(d.Hours()))
	}
	return fmt.Sprintf("%dd", int(d/day))
}

// short is the beginning of a container's id, as Docker shows it.
func short(id string) string {
	const shown = 12
	if len(id) > shown {
		return id[:shown]
	}
	return id
}

// running says in a few words what runs for a function.
func running(s orchestrator.FunctionStatus) string {
	var parts []string
	for _, part := range []struct {
		n    int
		name string
	}{{s.Ready, "ready"}, {s.Frozen, "frozen"}, {s.Starting, "starting"}, {s.Draining, "draining"}} {
		if part.n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", part.n, part.name))
		}
	}
	if s.CrashLoop != nil {
		parts = append(parts, "crash loop")
	}
	if len(parts) == 0 {
		return "asleep"
	}
	return strings.Join(parts, ", ")
}

// firstLine is the first line of a text, for a cell of a table.
func firstLine(text string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(text), "\n")
	return line
}
