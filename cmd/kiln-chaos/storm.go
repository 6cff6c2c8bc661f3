package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"time"
)

const (
	// calm is how long the load goes on after a fault is mended: what fails then
	// has no excuse.
	calm = time.Second
	// growth is how many goroutines and descriptors a gateway may have more after
	// a fault than before: connections kept for the next call.
	growth = 40
	// returns is how long they may take to go.
	returns = 40 * time.Second
	// shown bounds what is printed of each kind of finding.
	shown = 5
)

// callers are the clients of a world.
func (w *world) callers() []caller {
	const pace = 40 * time.Millisecond
	callers := []caller{{sleepyName, http.MethodGet, 900 * time.Millisecond}}
	for _, name := range w.steady {
		for range 2 {
			callers = append(callers, caller{name, http.MethodGet, pace}, caller{name, http.MethodPost, pace}, caller{name, http.MethodPost, pace})
		}
	}
	return callers
}

// storm injects the faults one after the other and prints the table.
func storm(ctx context.Context, w *world) error {
	if err := w.populate(ctx); err != nil {
		return err
	}
	var rows []row
	for _, f := range faults() {
		rounds := f.full
		if w.o.short {
			rounds = f.short
		}
		if len(w.o.only) > 0 {
			if !slices.Contains(w.o.only, f.name) {
				continue
			}
			rounds = max(1, rounds)
		}
		if rounds == 0 || f.own && !w.o.own {
			continue
		}
		r := row{fault: f.name}
		var err error
		if f.prepare != nil {
			err = f.prepare(ctx, w)
		}
		if err == nil {
			r, err = w.endure(ctx, f, rounds)
		}
		rows = append(rows, r)
		if err != nil {
			printTable(os.Stdout, rows, w)
			return fmt.Errorf("%s: %w", f.name, err)
		}
	}
	var flooded flood
	if len(w.o.only) == 0 {
		length := floodTime
		if w.o.short {
			length = shortFloodTime
		}
		w.violations = nil
		if err := flooded.overload(ctx, w, length); err != nil {
			return err
		}
		rows = append(rows, row{fault: "overload", times: 1, sent: int64(flooded.sent), allowed: flooded.shed, notAllowed: flooded.other,
			back: flooded.back, violations: w.violations})
	}
	w.o.say("removing everything")
	w.violations = nil
	left, err := w.clear(ctx)
	if err != nil {
		return err
	}
	rows = append(rows, row{fault: "all removed", left: left, violations: w.violations})
	printTable(os.Stdout, rows, w)
	flooded.print(os.Stdout)
	if slices.ContainsFunc(rows, func(r row) bool { return !r.kept() }) {
		return errors.New("a promise was broken")
	}
	return nil
}

// endure injects one fault some times under load and draws up its row.
func (w *world) endure(ctx context.Context, f fault, rounds int) (row, error) {
	w.o.say("%s, %d times", f.name, rounds)
	w.excuses, w.violations, w.slowestBack = nil, nil, 0
	r := row{fault: f.name}
	before := w.figures(ctx)
	l, c := w.gateway.startLoad(w.callers()), w.startChurn()
	deployed := w.deployed.Load()
	var err error
	for r.times < rounds && err == nil {
		err = f.inject(ctx, w)
		r.times++
	}
	if err == nil {
		err = w.settle(ctx)
	}
	if err == nil {
		err = w.pause(ctx, calm)
	}
	c.stop()
	l.stop()
	r.changes = w.deployed.Load() - deployed
	r.back = w.slowestBack
	r.take(w, l)
	if err != nil {
		r.violations = append(w.violations, err.Error())
		return r, err
	}
	r.lost, r.left, err = w.audit(ctx)
	w.returned(ctx, before)
	r.violations = w.violations
	return r, err
}

// take counts the calls of a load.
func (r *row) take(w *world, l *load) {
	r.sent = l.sent.Load()
	for _, f := range l.failures {
		if w.excused(f) {
			r.allowed++
		} else {
			r.notAllowed = append(r.notAllowed, f.String())
		}
	}
	received, err := w.journal.received()
	if err != nil {
		w.broken("the functions' own ledger cannot be read: %v", err)
	}
	for _, id := range l.ids {
		if n := received[id]; n > 1 {
			r.twice = append(r.twice, fmt.Sprintf("%s was received %d times", id, n))
		}
	}
}

// figures are of one gateway process.
type figures struct {
	process     *process
	goroutines  float64
	descriptors float64
}

// figures measures the gateway, while it has nothing to do.
func (w *world) figures(ctx context.Context) figures {
	now := figures{process: w.gateway.process}
	var errs [2]error
	now.goroutines, errs[0] = w.gateway.measure(ctx, "go_goroutines")
	now.descriptors, errs[1] = w.gateway.measure(ctx, "process_open_fds")
	if err := errors.Join(errs[:]...); err != nil {
		w.broken("the gateway cannot be measured: %v", err)
	}
	return now
}

// returned checks that a gateway which lived through a fault has no more
// goroutines and descriptors than before.
func (w *world) returned(ctx context.Context, before figures) {
	if before.process != w.gateway.process {
		return
	}
	err := waitFor(ctx, "the gateway to calm down", returns, func() error {
		now := w.figures(ctx)
		if now.goroutines > before.goroutines+growth || now.descriptors > before.descriptors+growth {
			return fmt.Errorf("%.0f goroutines and %.0f descriptors before, %.0f and %.0f now",
				before.goroutines, before.descriptors, now.goroutines, now.descriptors)
		}
		return nil
	})
	if err != nil {
		w.broken("%v", err)
	}
}
