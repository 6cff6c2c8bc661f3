package main

import (
	"math"
	"slices"
	"testing"
	"time"
)

// seen is what a trace shows of a function.
type seen struct {
	workload
	perDay float64
	cv     float64 // of the gaps; NaN with too few of them
}

// leastGaps is how many gaps a coefficient of variation is taken from.
const leastGaps = 20

func observe(w workload, span time.Duration) seen {
	var n, sum, squares, last float64
	calls := 0
	for c := range w.calls(span) {
		if calls > 0 {
			gap := c.at.Seconds() - last
			n, sum, squares = n+1, sum+gap, squares+gap*gap
		}
		last = c.at.Seconds()
		calls++
	}
	s := seen{workload: w, perDay: float64(calls) / span.Hours() * 24, cv: math.NaN()}
	if n >= leastGaps {
		mean := sum / n
		s.cv = math.Sqrt(max(0, squares/n-mean*mean)) / mean
	}
	return s
}

func within(t *testing.T, what string, got, want, tolerance float64) {
	t.Helper()
	if math.Abs(got-want) > tolerance {
		t.Errorf("%s: %.4g, want %.4g within %.2g", what, got, want, tolerance)
	}
}

// share returns the part of all for which is holds.
func share[T any](all []T, is func(T) bool) float64 {
	n := 0
	for _, one := range all {
		if is(one) {
			n++
		}
	}
	return float64(n) / float64(len(all))
}

func quantile(all []seen, q float64, of func(seen) float64) float64 {
	var values []float64
	for _, s := range all {
		values = append(values, of(s))
	}
	slices.Sort(values)
	return values[int(q*float64(len(values)))]
}

// TestTracesHaveThePublishedShape checks what comes out, not what was put in.
func TestTracesHaveThePublishedShape(t *testing.T) {
	var all, regular []seen
	var calls, popular float64
	functions := population(800, 11)
	for i, w := range functions {
		s := observe(w, simSpan)
		all = append(all, s)
		calls += s.perDay
		if float64(i) >= (1-0.186)*float64(len(functions)) {
			popular += s.perDay
		}
		if !math.IsNaN(s.cv) {
			regular = append(regular, s)
		}
	}
	// Timers fire exactly once an hour or a minute, give or take where the trace
	// begins; hence the half call.
	within(t, "once an hour or less", share(all, func(s seen) bool { return s.perDay <= 24.5 }), 0.45, 0.05)
	within(t, "once a minute or less", share(all, func(s seen) bool { return s.perDay <= 1440.5 }), 0.81, 0.03)
	within(t, "more than every five seconds", share(all, func(s seen) bool { return s.perDay > 86400/5+0.5 }), 0.01, 0.005)
	if part := popular / calls; part < 0.9 {
		t.Errorf("the 18.6 %% most popular get %.2f of the calls; published: 0.996", part)
	}

	within(t, "with a timer", share(all, func(s seen) bool { return s.Traffic == timers || s.Traffic == mixed }), 0.29, 0.01)
	within(t, "periodic", share(regular, func(s seen) bool { return s.cv < 0.1 }), 0.20, 0.04)
	within(t, "more varied than Poisson", share(regular, func(s seen) bool { return s.cv > 1.1 }), 0.45, 0.08)
	for _, s := range regular {
		if s.Traffic == poisson && s.perDay > 500 {
			within(t, "a Poisson function's coefficient of variation", s.cv, 1, 0.15)
		}
	}

	within(t, "median service time, s", quantile(all, 0.5, func(s seen) float64 { return s.Service.Seconds() }), 0.68, 0.2)
	within(t, "median memory, MiB", quantile(all, 0.5, func(s seen) float64 { return s.Memory }), 140, 12)
	if p90 := quantile(all, 0.9, func(s seen) float64 { return s.Memory }); p90 > 400 {
		t.Errorf("90th percentile of memory: %.0f MiB, published: below 400", p90)
	}
}

func TestFunctionsCallAsOftenAsTheirRateSays(t *testing.T) {
	const span = 400 * time.Hour
	for _, k := range kinds {
		var got float64
		const functions, rate = 40, 1.0 / 600
		for i := range functions {
			for range (workload{Traffic: k.traffic, Rate: rate, Service: time.Second, seed: uint64(i)}).calls(span) {
				got++
			}
		}
		want := functions * rate * span.Seconds()
		within(t, string(k.traffic)+": calls", got/want, 1, 0.1)
	}
}

func TestCallsComeInOrder(t *testing.T) {
	for _, w := range population(60, 3) {
		var last time.Duration
		for c := range w.calls(6 * time.Hour) {
			if c.at < last || c.at >= 6*time.Hour || c.service < 0 {
				t.Fatalf("%s function %d: a call at %v after %v, of %v", w.Traffic, w.ID, c.at, last, c.service)
			}
			last = c.at
		}
	}
}
