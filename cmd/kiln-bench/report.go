package main

import (
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"html/template"
	"io"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/kilnfaas/kiln/orchestrator/docker"
)

// Report is a run.
type Report struct {
	Started time.Time `json:"started"`
	// Measured tells when each section was begun: see -keep.
	Measured map[string]time.Time `json:"measured"`
	Machine  Machine              `json:"machine"`
	Warm     *Warm                `json:"warm,omitempty"`
	Cold     *Cold                `json:"cold,omitempty"`
	Deploys  []DeployRow          `json:"deploys,omitempty"`
	Memory   *Memory              `json:"memory,omitempty"`
	Soak     *Soak                `json:"soak,omitempty"`
	Sim      *Sim                 `json:"sim,omitempty"`
	Events   *Events              `json:"events,omitempty"`
	Ratios   []Ratio              `json:"ratios"`
}

// Machine is where a run took place.
type Machine struct {
	CPU    string `json:"cpu"`
	Cores  int    `json:"cores"`
	Kernel string `json:"kernel"`
	Engine string `json:"engine"`
	Nginx  string `json:"nginx"`
	Go     string `json:"go"`
}

// Ratio is a figure that has a target.
type Ratio struct {
	Name   string  `json:"name"`
	Value  float64 `json:"value"`
	Target float64 `json:"target"`
	AtMost bool    `json:"at_most"` // the target is an upper bound
	Unit   string  `json:"unit,omitempty"`
}

// Met says whether the target was reached.
func (r Ratio) Met() bool {
	if r.AtMost {
		return r.Value <= r.Target
	}
	return r.Value >= r.Target
}

// Bound is the target in words.
func (r Ratio) Bound() string {
	word := "at least"
	if r.AtMost {
		word = "at most"
	}
	return fmt.Sprintf("%s %.4g%s", word, r.Target, r.Unit)
}

func coldRow(template, way string, took []time.Duration) ColdRow {
	slices.Sort(took)
	ms := func(q float64) float64 {
		return float64(took[min(int(q*float64(len(took))), len(took)-1)].Microseconds()) / 1000
	}
	return ColdRow{Template: template, Way: way, Samples: len(took), P50: ms(0.5), P99: ms(0.99), Max: ms(1)}
}

// ratios derives the figures with targets (issue "As fast as nginx when warm").
func ratios(r Report) []Ratio {
	var all []Ratio
	if r.Warm != nil {
		all = append(all, warmRatios(*r.Warm)...)
	}
	if r.Cold != nil {
		all = append(all, coldRatios(*r.Cold)...)
	}
	for _, d := range r.Deploys {
		if d.Template == "python" {
			all = append(all, Ratio{Name: "deploy of an edit, p50, python", Value: d.P50 / 1000, Target: 3, AtMost: true, Unit: " s"})
		}
	}
	if r.Memory != nil {
		for _, g := range r.Memory.Gateway {
			if g.Functions > 0 {
				all = append(all,
					Ratio{Name: fmt.Sprintf("%d functions of 4 templates, calls that failed", g.Functions), Value: float64(g.Failures), AtMost: true},
					Ratio{Name: fmt.Sprintf("list of %d functions", g.Functions), Value: g.ListMS, Target: 100, AtMost: true, Unit: " ms"})
			}
			if g.Functions == 100 {
				all = append(all, Ratio{Name: "gateway's memory, idle, 100 functions", Value: g.MiB, Target: 80, AtMost: true, Unit: " MiB"})
			}
		}
	}
	if s := r.Soak; s != nil {
		name := fmt.Sprintf("%.0f s at 50 %% load, %d to %d instances underneath, failed calls", s.Seconds, s.Least, s.Most)
		all = append(all, Ratio{Name: name, Value: float64(s.Load.Failures), AtMost: true})
	}
	if r.Events != nil {
		all = append(all, eventRatios(*r.Events)...)
	}
	if r.Sim != nil {
		all = append(all, simRatios(*r.Sim)...)
	}
	// Where nothing was answered there is nothing to divide by.
	return slices.DeleteFunc(all, func(r Ratio) bool { return math.IsNaN(r.Value) || math.IsInf(r.Value, 0) })
}

func warmRatios(w Warm) []Ratio {
	var all []Ratio
	for _, row := range w.Closed {
		kiln, nginx, direct := row.Targets["kiln"], row.Targets["nginx"], row.Targets["direct"]
		if row.Callers == 1 && row.Body == 0 {
			all = append(all, Ratio{Name: "Kiln / direct, p50, 1 caller", Value: kiln.P50 / direct.P50, Target: 1.8, AtMost: true})
		}
		if row.Callers > 1 && row.Body <= 1<<10 {
			load := fmt.Sprintf("%d callers, %d bytes", row.Callers, row.Body)
			all = append(all,
				Ratio{Name: "Kiln / nginx, req/s, " + load, Value: kiln.Rate / nginx.Rate, Target: 0.95},
				Ratio{Name: "Kiln / nginx, p99, " + load, Value: kiln.P99 / nginx.P99, Target: 1.2, AtMost: true})
		}
	}
	many := fmt.Sprintf("%d functions at random / one", w.Random.Functions)
	return append(all,
		Ratio{Name: many, Value: w.Random.Kiln.Keeps(), Target: 0.9},
		Ratio{Name: many + ", as a share of what nginx keeps", Value: w.Random.Kiln.Keeps() / w.Random.Nginx.Keeps(), Target: 0.9})
}

// imageWake is the target in milliseconds of a wake by the image where docker run
// takes plainRun; on a slower machine their ratio is what can be compared.
const imageWake, plainRun = 260.0, 190.0

// engineThaw is the target in milliseconds of a call that the engine has to thaw
// an instance for, where the engine's own unpause takes plainThaw.
const engineThaw, plainThaw = 15.0, 8.0

func coldRatios(c Cold) []Ratio {
	var all []Ratio
	for _, row := range c.Single {
		switch row.Way {
		case "cell":
			all = append(all,
				Ratio{Name: "wake by cell, p50, " + row.Template, Value: row.P50, Target: 12, AtMost: true, Unit: " ms"},
				Ratio{Name: "wake by cell, p99, " + row.Template, Value: row.P99, Target: 40, AtMost: true, Unit: " ms"})
			for _, plain := range c.Single {
				if plain.Template == row.Template && plain.Way == "docker-run (cell turn)" {
					all = append(all, Ratio{Name: "docker run / cell, p50, " + row.Template, Value: plain.P50 / row.P50, Target: 15})
				}
			}
		case "image":
			all = append(all, Ratio{Name: "wake by image, p50, " + row.Template, Value: row.P50, Target: imageWake, AtMost: true, Unit: " ms"})
			for _, plain := range c.Single {
				if plain.Template == row.Template && plain.Way == "docker-run (image turn)" {
					all = append(all, Ratio{Name: "wake by image / docker run, p50, " + row.Template, Value: row.P50 / plain.P50, Target: imageWake / plainRun, AtMost: true})
				}
			}
		case "frozen-cgroup":
			all = append(all, Ratio{Name: "frozen (cgroup) to answer, p50, " + row.Template, Value: row.P50, Target: 2, AtMost: true, Unit: " ms"})
		case "frozen-engine":
			all = append(all, Ratio{Name: "frozen (engine) to answer, p50, " + row.Template, Value: row.P50, Target: engineThaw, AtMost: true, Unit: " ms"})
			for _, plain := range c.Single {
				if plain.Template == row.Template && plain.Way == "unpause" {
					all = append(all, Ratio{Name: "frozen (engine) to answer / unpause alone, p50, " + row.Template, Value: row.P50 / plain.P50, Target: engineThaw / plainThaw, AtMost: true})
				}
			}
		}
	}
	for _, b := range c.Bursts {
		name := fmt.Sprintf("burst of %d by %s: p50 / the engine's time for all", b.Functions, b.Way)
		all = append(all, Ratio{Name: name, Value: b.P50 / b.Engine, Target: 1, AtMost: true},
			Ratio{Name: fmt.Sprintf("burst of %d by %s: failed", b.Functions, b.Way), Value: float64(b.Failures), AtMost: true})
	}
	return all
}

//go:embed report.html.tmpl
var page string

// reportFile is the name of a report's JSON.
const reportFile = "bench.json"

// write leaves bench.json and bench.html in dir.
func (r Report) write(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, reportFile), append(data, '\n'), 0o644); err != nil {
		return err
	}
	t, err := template.New("report").Funcs(template.FuncMap{"plot": plot, "join": strings.Join}).Parse(page)
	if err != nil {
		return err
	}
	f, err := os.Create(filepath.Join(dir, "bench.html"))
	if err != nil {
		return err
	}
	return joinErr(t.Execute(f, r), f.Close())
}

// print shows the simulation, if there was one, and the ratios.
func (r Report) print(w io.Writer) {
	if r.Sim != nil {
		r.Sim.print(w)
		fmt.Fprintln(w)
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, ratio := range r.Ratios {
		verdict := "reached"
		if !ratio.Met() {
			verdict = "NOT REACHED"
		}
		fmt.Fprintf(table, "%s\t%.2f%s\t%s\t%s\n", ratio.Name, ratio.Value, ratio.Unit, ratio.Bound(), verdict)
	}
	table.Flush()
}

func describeMachine(ctx context.Context, engine *docker.Client) Machine {
	m := Machine{Cores: runtime.NumCPU(), Go: runtime.Version(), Nginx: nginxVersion()}
	if engine == nil {
		m.Engine = "no engine"
	} else if info, err := engine.Info(ctx); err == nil {
		m.Engine = "Docker " + info.Version + ", cgroup v" + info.CgroupVersion
	}
	if release, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		m.Kernel = strings.TrimSpace(string(release))
	}
	if info, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(info)) {
			if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
				m.CPU = strings.TrimSpace(value)
				break
			}
		}
	}
	return m
}
