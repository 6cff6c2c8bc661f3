package main

import (
	"cmp"
	"slices"
	"time"

	"github.com/kilnfaas/kiln/orchestrator/cell"
)

// Cells as the gateway has them by default, and as package cell runs them.
const (
	simCellsMin = 2
	simCellsMax = 8
	// cellMemory is what a waiting cell counts in the memory budget, in MiB.
	cellMemory = 32
	// cellMake is a container's start and the runtime's, in the background.
	cellMake   = 500 * time.Millisecond
	cellWindow = time.Minute
	cellExtra  = 2 * time.Minute
	cellTend   = 5 * time.Second
)

// larder is one template's waiting cells.
type larder struct {
	waiting []time.Duration // since when, oldest first
	making  []time.Duration // when ready
	colds   []time.Duration // of the last minute
	clock   time.Duration
	held    time.Duration // cells' time waiting
}

// serveByCells runs one template's starts, in order, past its cells. It returns
// which of them a cell served, and the time that cells waited.
func serveByCells(launches []launchOf, span time.Duration) (served []bool, held time.Duration) {
	served = make([]bool, len(launches))
	l := &larder{}
	l.tend()
	for i, launch := range launches {
		l.advance(launch.at)
		l.colds = append(l.colds, l.clock)
		if extra := len(l.colds) - 2*simCellsMax; extra > 0 {
			l.colds = l.colds[extra:]
		}
		if len(l.waiting) > 0 {
			served[i] = true
			l.drop()
		}
		l.tend()
	}
	l.advance(span)
	for _, since := range l.waiting {
		l.held += span - since
	}
	return served, l.held
}

// drop takes the cell that has waited longest.
func (l *larder) drop() {
	l.held += l.clock - l.waiting[0]
	l.waiting = l.waiting[1:]
}

// advance lets cells become ready, and looks after them every few seconds.
func (l *larder) advance(now time.Duration) {
	for {
		at := l.clock/cellTend*cellTend + cellTend
		ready := len(l.making) > 0 && l.making[0] <= at
		if ready {
			at = l.making[0]
		}
		if at > now {
			break
		}
		l.clock = at
		if ready {
			l.making = l.making[1:]
			l.waiting = append(l.waiting, at)
			continue
		}
		l.tend()
	}
	l.clock = now
}

// tend makes and removes cells.
func (l *larder) tend() {
	for len(l.colds) > 0 && l.clock-l.colds[0] >= cellWindow {
		l.colds = l.colds[1:]
	}
	target := cell.Target(simCellsMin, simCellsMax, len(l.colds))
	for len(l.waiting) > target && l.clock-l.waiting[0] >= cellExtra {
		l.drop()
	}
	for len(l.waiting)+len(l.making) < target {
		l.making = append(l.making, l.clock+cellMake)
	}
}

// byCells says how many calls of each function waited for a cell instead of a
// container, and what the cells' waiting cost in MiB times seconds.
func byCells(all []workload, outcomes []outcome, span time.Duration) (calls []int, waste float64) {
	calls = make([]int, len(all))
	for _, template := range simTemplates {
		if !template.cells {
			continue
		}
		var launches []launchOf
		for i, w := range all {
			if w.Template == template.name && w.Cells {
				launches = append(launches, outcomes[i].launches...)
			}
		}
		slices.SortFunc(launches, func(a, b launchOf) int {
			return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.function, b.function))
		})
		served, held := serveByCells(launches, span)
		for i, l := range launches {
			if served[i] {
				calls[l.function] += l.calls
			}
		}
		waste += held.Seconds() * cellMemory
	}
	return calls, waste
}
