package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// printMarkdown writes the tables of an earlier run, whose JSON is in file, as
// docs/performance.md has them.
func printMarkdown(w io.Writer, file string) error {
	r, err := readReport(file)
	if err != nil {
		return err
	}
	return r.markdown(w)
}

// readReport reads the JSON that a run left.
func readReport(file string) (r Report, err error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(data, &r); err != nil {
		return r, fmt.Errorf("%s: %w", file, err)
	}
	return r, nil
}

// earlierReport returns what the last run left in a folder, and an empty report
// where there was none.
func earlierReport(dir string) (Report, error) {
	r, err := readReport(filepath.Join(dir, reportFile))
	if errors.Is(err, fs.ErrNotExist) {
		return Report{}, nil
	}
	return r, err
}

// begun tells when the sections were, in their order.
func (r Report) begun() string {
	var list []string
	for _, section := range slices.Concat(sections, extra) {
		if at, ok := r.Measured[section]; ok {
			list = append(list, section+" "+at.Format("15:04"))
		}
	}
	return strings.Join(list, ", ")
}

// markdown writes a report's tables.
func (r Report) markdown(w io.Writer) error {
	var b strings.Builder
	m := r.Machine
	fmt.Fprintf(&b, "%s. %s, %d cores, kernel %s, %s, %s, %s.\n", r.Started.Format("2006-01-02 15:04 MST"), m.CPU, m.Cores, m.Kernel, m.Engine, m.Nginx, m.Go)
	if len(r.Measured) > 0 {
		b.WriteString("Sections were begun at: " + r.begun() + ".\n")
	}
	t := table(&b, "Targets", "figure", "value", "target", "")
	for _, ratio := range r.Ratios {
		verdict := "reached"
		if !ratio.Met() {
			verdict = "**not reached**"
		}
		t.row(ratio.Name, fmt.Sprintf("%.2f%s", ratio.Value, ratio.Unit), ratio.Bound(), verdict)
	}
	if r.Warm != nil {
		r.Warm.markdown(&b)
	}
	if r.Cold != nil {
		r.Cold.markdown(&b)
	}
	if len(r.Deploys) > 0 {
		t := table(&b, "Deploy of an edit, dependencies unchanged", "template", "samples", "p50 ms", "p99", "max")
		for _, row := range r.Deploys {
			t.row(row.Template, row.Samples, whole(row.P50), whole(row.P99), whole(row.Max))
		}
	}
	if r.Memory != nil {
		r.Memory.markdown(&b)
	}
	if s := r.Soak; s != nil {
		t := table(&b, "Load while instances come and go", "seconds", "asked for /s", "calls", "failed", "instances", "changes", "p50 µs", "p99", "p99.9", "max")
		t.row(s.Seconds, whole(s.Rate), s.Load.Requests, s.Load.Failures, fmt.Sprintf("%d to %d", s.Least, s.Most), s.Changes,
			s.Load.P50, s.Load.P99, s.Load.P999, s.Load.Max)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// wayNames are the ways to a warm function, in the order of the tables.
var wayNames = []string{"direct", "nginx", "kiln"}

func (w Warm) markdown(b *strings.Builder) {
	t := table(b, "Warm, closed loop", "callers", "body, bytes", "way", "answers/s", "p50 µs", "p99", "proxy's CPU µs/call", "function's", "failed")
	for _, row := range w.Closed {
		for _, way := range wayNames {
			s := row.Targets[way]
			t.row(row.Callers, row.Body, way, whole(s.Rate), s.P50, s.P99, tenth(s.ProxyCPU), tenth(s.FunctionCPU), s.Failures)
		}
	}
	t = table(b, "Warm, open loop at half the slower proxy's rate", "callers", "asked for /s", "way", "p50 µs", "p90", "p99", "p99.9", "max", "failed")
	for _, row := range w.Open {
		for _, way := range wayNames {
			s := row.Targets[way]
			t.row(row.Callers, whole(row.Rate), way, s.P50, s.P90, s.P99, s.P999, s.Max, s.Failures)
		}
	}
	t = table(b, fmt.Sprintf("%d functions at random, %d callers", w.Random.Functions, w.Random.Callers),
		"way", "one: answers/s", "many: answers/s", "many / one", "proxy's CPU µs/call: one", "many", "functions': one", "many")
	for _, row := range w.Random.Rows() {
		t.row(row.Way, whole(row.One.Rate), whole(row.Many.Rate), fmt.Sprintf("%.2f", row.Keeps()),
			tenth(row.One.ProxyCPU), tenth(row.Many.ProxyCPU), tenth(row.One.FunctionCPU), tenth(row.Many.FunctionCPU))
	}
}

func (c Cold) markdown(b *strings.Builder) {
	t := table(b, "Cold, first answer", "template", "way", "samples", "of them another way", "p50 ms", "p99", "max")
	for _, row := range c.Single {
		t.row(row.Template, row.Way, row.Samples, row.Others, tenth(row.P50), tenth(row.P99), tenth(row.Max))
	}
	t = table(b, "Bursts of distinct functions from zero", "functions", "way", "p50 ms", "last", "the engine alone", "failed")
	for _, row := range c.Bursts {
		t.row(row.Functions, row.Way, tenth(row.P50), tenth(row.Last), tenth(row.Engine), row.Failures)
	}
}

func (m Memory) markdown(b *strings.Builder) {
	t := table(b, "Memory of the gateway", "functions at zero", "MiB", "list ms", "deploy p50 ms", "failed calls")
	for _, row := range m.Gateway {
		t.row(row.Functions, tenth(row.MiB), tenth(row.ListMS), tenth(row.DeployMS), row.Failures)
	}
	t = table(b, "Memory of an idle instance", "template", "MiB")
	for _, row := range m.Instances {
		t.row(row.Template, tenth(row.MiB))
	}
}

// markdownTable is a table that is being written.
type markdownTable struct{ b *strings.Builder }

// table begins one under a heading.
func table(b *strings.Builder, heading string, columns ...any) markdownTable {
	fmt.Fprintf(b, "\n### %s\n\n", heading)
	t := markdownTable{b}
	t.row(columns...)
	b.WriteString(strings.Repeat("|---", len(columns)) + "|\n")
	return t
}

func (t markdownTable) row(cells ...any) {
	for _, cell := range cells {
		fmt.Fprintf(t.b, "| %v ", cell)
	}
	t.b.WriteString("|\n")
}

func whole(v float64) string { return fmt.Sprintf("%.0f", v) }
func tenth(v float64) string { return fmt.Sprintf("%.1f", v) }
