package main

import (
	"context"
	"fmt"
	"io"
	"runtime"
	"slices"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/scale"
)

// The policies compared.
const (
	policyFixed     = "fixed 10 min"
	policyHistogram = "histogram"
	policyCells     = "histogram + cells"
)

// Sim is what keep-alive policies do to synthetic traces.
type Sim struct {
	Functions int          `json:"functions"`
	Hours     float64      `json:"hours"`
	Seed      uint64       `json:"seed"`
	Calls     int          `json:"calls"`
	Policies  []SimPolicy  `json:"policies"`
	Traffic   []SimTraffic `json:"traffic"`
}

// SimPolicy is what one policy does. Shares are percentages of calls.
type SimPolicy struct {
	Name  string  `json:"name"`
	Cold  int     `json:"cold_calls"`    // waited for a container
	Cell  int     `json:"cell_calls"`    // waited for a cell
	Share float64 `json:"cold_percent"`  // of all calls
	Cells float64 `json:"cell_percent"`  // of all calls
	P50   float64 `json:"functions_p50"` // of functions' shares of cold calls
	P75   float64 `json:"functions_p75"`
	GBh   float64 `json:"wasted_gb_hours"` // instances idle, cells waiting
	Waste float64 `json:"wasted_percent"`  // of the fixed policy's
	// Prewarms are the starts in expectation of a call.
	Prewarms int `json:"prewarms"`
	Refused  int `json:"refused"`
}

// SimTraffic is a kind of arrivals. The slices go with Policies.
type SimTraffic struct {
	Name      string    `json:"name"`
	Functions int       `json:"functions"`
	Calls     int       `json:"calls"`
	Cold      []int     `json:"cold_calls"`
	GBh       []float64 `json:"wasted_gb_hours"` // instances only: cells belong to no kind
}

const (
	simSpan = 48 * time.Hour
	simSeed = 2020
)

// runSim replays a population under each policy. It needs no engine.
func runSim(ctx context.Context, p plan) (Sim, error) {
	p.say(fmt.Sprintf("sim: %d functions, %v", p.simulated, simSpan))
	return simulate(ctx, population(p.simulated, simSeed), simSpan, simSeed)
}

// usual is what functions have when their owners say nothing.
func usual(adaptive bool) scale.Settings {
	return scale.Settings{FreezeAfter: orchestrator.DefaultFreezeAfter, KeepAlive: orchestrator.DefaultKeepAlive, Adaptive: adaptive}
}

// simulate is runSim for any population. The result depends on its arguments
// alone: functions do not influence each other, except through cells, which are
// run over all starts in order of time.
func simulate(ctx context.Context, all []workload, span time.Duration, seed uint64) (Sim, error) {
	fixed, adaptive := make([]outcome, len(all)), make([]outcome, len(all))
	next := make(chan int)
	var work sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		work.Go(func() {
			for i := range next {
				a, b := newReplay(i, usual(false)), newReplay(i, usual(true))
				for c := range all[i].calls(span) {
					a.arrive(c)
					b.arrive(c)
				}
				fixed[i], adaptive[i] = a.finish(span), b.finish(span)
			}
		})
	}
	for i := range all {
		if ctx.Err() != nil {
			break
		}
		next <- i
	}
	close(next)
	work.Wait()
	if err := ctx.Err(); err != nil {
		return Sim{}, err
	}
	s := Sim{Functions: len(all), Hours: span.Hours(), Seed: seed}
	for _, o := range fixed {
		s.Calls += o.calls
	}
	cells, waste := byCells(all, adaptive, span)
	s.add(policyFixed, all, fixed, nil, 0)
	s.add(policyHistogram, all, adaptive, nil, 0)
	s.add(policyCells, all, adaptive, cells, waste)
	return s, nil
}

// mibSeconds is a GB-hour.
const mibSeconds = 1024 * 3600

// add takes in what a policy did. cells are the calls of each function that a
// cell served, waste what the cells cost.
func (s *Sim) add(name string, all []workload, outcomes []outcome, cells []int, waste float64) {
	p := SimPolicy{Name: name}
	var shares []float64
	kind := map[traffic]*SimTraffic{}
	if s.Traffic == nil {
		for _, k := range kinds {
			s.Traffic = append(s.Traffic, SimTraffic{Name: string(k.traffic)})
		}
	}
	for i := range s.Traffic {
		t := &s.Traffic[i]
		t.Functions, t.Calls, t.Cold, t.GBh = 0, 0, append(t.Cold, 0), append(t.GBh, 0)
		kind[traffic(t.Name)] = t
	}
	for i, o := range outcomes {
		cell := 0
		if cells != nil {
			cell = cells[i]
		}
		p.Cold += o.cold - cell
		p.Cell += cell
		p.Prewarms += o.prewarms
		p.Refused += o.refused
		idle := o.idle.Seconds() * all[i].Memory
		waste += idle
		t := kind[all[i].Traffic]
		t.Functions++
		t.Calls += o.calls
		t.Cold[len(t.Cold)-1] += o.cold - cell
		t.GBh[len(t.GBh)-1] += idle / mibSeconds
		if o.calls > 0 {
			shares = append(shares, percent(o.cold-cell, o.calls))
		}
	}
	p.Share, p.Cells = percent(p.Cold, s.Calls), percent(p.Cell, s.Calls)
	p.GBh, p.Waste = waste/mibSeconds, 100
	if len(s.Policies) > 0 {
		p.Waste = 100 * p.GBh / s.Policies[0].GBh
	}
	if slices.Sort(shares); len(shares) > 0 {
		p.P50, p.P75 = shares[len(shares)/2], shares[len(shares)*3/4]
	}
	s.Policies = append(s.Policies, p)
}

func percent(part, whole int) float64 {
	if whole == 0 {
		return 0
	}
	return 100 * float64(part) / float64(whole)
}

// simRatios are the figures with targets.
func simRatios(s Sim) []Ratio {
	var all []Ratio
	fixed := s.Policies[0]
	for _, p := range s.Policies[1:] {
		all = append(all,
			Ratio{Name: "simulated cold starts, " + p.Name + " / fixed", Value: float64(p.Cold) / float64(fixed.Cold), Target: 1, AtMost: true},
			Ratio{Name: "simulated memory-time wasted, " + p.Name + " / fixed", Value: p.GBh / fixed.GBh, Target: 1, AtMost: true})
	}
	return all
}

// simBars are the plots sim-cold and sim-waste.
func simBars(s Sim, what string) (bars []bar, unit string) {
	for i, p := range s.Policies {
		kind := "kiln"
		if i == 0 {
			kind = "direct"
		}
		if what == "sim-waste" {
			bars = append(bars, bar{p.Name, p.GBh, kind})
			continue
		}
		bars = append(bars, bar{p.Name + ", for a container", float64(p.Cold) / 1000, kind})
		if p.Cell > 0 {
			bars = append(bars, bar{p.Name + ", for a cell", float64(p.Cell) / 1000, "plain"})
		}
	}
	if what == "sim-waste" {
		return bars, " GB h"
	}
	return bars, " thousand"
}

// print shows the policies, then the kinds of arrivals.
func (s Sim) print(w io.Writer) {
	fmt.Fprintf(w, "%d functions, %.0f hours, %d calls\n", s.Functions, s.Hours, s.Calls)
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "policy\tcold\tby cell\tcold %\tby cell %\tfunctions p50 %\tp75 %\twasted GB h\twasted %\tprewarms\t")
	for _, p := range s.Policies {
		fmt.Fprintf(table, "%s\t%d\t%d\t%.3f\t%.3f\t%.1f\t%.1f\t%.0f\t%.1f\t%d\t\n", p.Name, p.Cold, p.Cell, p.Share, p.Cells, p.P50, p.P75, p.GBh, p.Waste, p.Prewarms)
	}
	table.Flush()
	table = tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(table, "arrivals\tfunctions\tcalls\t")
	for _, p := range s.Policies {
		fmt.Fprintf(table, "cold, %s\t", p.Name)
	}
	fmt.Fprintln(table, "GB h, "+policyFixed+"\tGB h, "+policyHistogram+"\t")
	for _, t := range s.Traffic {
		fmt.Fprintf(table, "%s\t%d\t%d\t", t.Name, t.Functions, t.Calls)
		for _, n := range t.Cold {
			fmt.Fprintf(table, "%d\t", n)
		}
		fmt.Fprintf(table, "%.0f\t%.0f\t\n", t.GBh[0], t.GBh[1])
	}
	table.Flush()
}
