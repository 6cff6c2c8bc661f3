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

// stages are the faults of this run and how often each is injected, in groups
// that share a time of load. The short form has one: to stop the load, let the
// deploys under way end and look at everything takes longer than most faults.
func (w *world) stages() [][]injection {
	var all [][]injection
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
		if w.o.short && len(all) > 0 {
			all[0] = append(all[0], injection{f, rounds})
		} else {
			all = append(all, []injection{{f, rounds}})
		}
	}
	return all
}

// injection is a fault and how often it is injected.
type injection struct {
	fault
	rounds int
}

// storm injects the faults one after the other and prints the table.
func storm(ctx context.Context, w *world) error {
	if err := w.populate(ctx); err != nil {
		return err
	}
	var rows []row
	for _, stage := range w.stages() {
		of, err := w.endure(ctx, stage)
		rows = append(rows, of...)
		if err != nil {
			printTable(os.Stdout, rows, w)
			return fmt.Errorf("%s: %w", rows[len(rows)-1].fault, err)
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
			printTable(os.Stdout, rows, w)
			return err
		}
		rows = append(rows, row{fault: "overload", times: 1, sent: int64(flooded.sent), allowed: flooded.shed, notAllowed: flooded.other,
			back: flooded.back, violations: w.violations})
	}
	w.o.say("removing everything")
	w.violations = nil
	left, err := w.clear(ctx)
	if err != nil {
		printTable(os.Stdout, rows, w)
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

// endure injects the faults of a stage under load, looks at what is there
// afterwards, and draws up their rows. The last one tells what was lost or left
// over; when there are several faults it is a row of its own.
func (w *world) endure(ctx context.Context, stage []injection) (rows []row, err error) {
	for _, i := range stage {
		if i.prepare != nil {
			if err := i.prepare(ctx, w); err != nil {
				return []row{{fault: i.name}}, err
			}
		}
	}
	w.excuses = nil
	l, c := w.gateway.startLoad(w.callers()), w.startChurn()
	for _, i := range stage {
		var r row
		r, err = w.inject(ctx, i, l)
		rows = append(rows, r)
		if err != nil {
			break
		}
	}
	c.stop()
	l.stop()
	for i := range rows {
		if i == len(rows)-1 {
			rows[i].until = l.mark() // with the calls that were under way
		}
		rows[i].take(w, l)
	}
	if err != nil {
		return rows, err
	}
	if len(rows) > 1 {
		rows = append(rows, row{fault: "after these"})
	}
	last := &rows[len(rows)-1]
	last.lost, last.left, err = w.audit(ctx)
	return rows, err
}

// inject injects one fault under a load, waits until all is well, and draws up
// its row but for what is known only when the load has ended.
func (w *world) inject(ctx context.Context, i injection, l *load) (r row, err error) {
	w.o.say("%s, %d times", i.name, i.rounds)
	w.violations, w.slowestBack = nil, 0
	r.fault, r.from = i.name, l.mark()
	before, deployed := w.figures(ctx), w.deployed.Load()
	for r.times < i.rounds && err == nil {
		err = i.fault.inject(ctx, w)
		r.times++
	}
	if err == nil {
		err = w.settle(ctx)
	}
	if err == nil {
		err = w.pause(ctx, calm)
	}
	if err == nil {
		w.returned(ctx, before)
	} else {
		w.broken("%v", err)
	}
	r.changes = w.deployed.Load() - deployed
	r.back, r.violations, r.until = w.slowestBack, w.violations, l.mark()
	return r, err
}

// take counts the calls of a load that belong to a row.
func (r *row) take(w *world, l *load) {
	r.sent = r.until.sent - r.from.sent
	for _, f := range l.failures[r.from.failures:r.until.failures] {
		if w.excused(f) {
			r.allowed++
		} else {
			r.notAllowed = append(r.notAllowed, f.String())
		}
	}
	received, err := w.journal.received()
	if err != nil {
		r.violations = append(r.violations, fmt.Sprintf("the functions' own ledger cannot be read: %v", err))
	}
	for _, id := range l.ids[r.from.ids:r.until.ids] {
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

// figures measures the gateway.
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
