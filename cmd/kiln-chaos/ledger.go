package main

import (
	"fmt"
	"slices"
	"sync"
)

// gone is the version of a function that was removed, or never deployed.
const gone = 0

// outcome is what a client learnt of a change.
type outcome int

const (
	acknowledged outcome = iota // it has happened
	refused                     // it has not, and all is as before
	unknown                     // no answer, or one that leaves it open
)

// ledger holds what may be live for each function, from what its deployer was
// told. Changes of one function follow one another.
type ledger struct {
	mu        sync.Mutex
	functions map[string]*entry // guarded by mu
}

// entry is one function.
type entry struct {
	acked    int   // the version that was acknowledged last
	possible []int // versions that may be live: acked, and what was attempted since
	pending  int
	busy     bool // a change is under way
}

func newLedger() *ledger { return &ledger{functions: map[string]*entry{}} }

// begin notes that a change to a version, or to gone, is asked for.
func (l *ledger) begin(function string, version int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.functions[function]
	if e == nil {
		e = &entry{acked: gone, possible: []int{gone}}
		l.functions[function] = e
	}
	e.busy, e.pending = true, version
	e.possible = append(e.possible, version)
}

// end notes what came of it.
func (l *ledger) end(function string, result outcome) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.functions[function]
	e.busy = false
	switch result {
	case acknowledged:
		e.acked, e.possible = e.pending, []int{e.pending}
	case refused:
		last := len(e.possible) - 1
		e.possible = e.possible[:last]
	}
}

// seen checks a version that a function answered with against what may be live;
// the error says what was lost. What may be live is then only this.
func (l *ledger) seen(function string, version int) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.functions[function]
	if e == nil || e.busy {
		return nil
	}
	if !slices.Contains(e.possible, version) {
		return fmt.Errorf("%s: %s is live; acknowledged was %s, possible %v", function, called(version), called(e.acked), e.possible)
	}
	e.acked, e.possible = version, []int{version}
	return nil
}

// all returns the functions there are or may be.
func (l *ledger) all() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var names []string
	for name := range l.functions {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func called(version int) string {
	if version == gone {
		return "nothing"
	}
	return fmt.Sprint("version ", version)
}
