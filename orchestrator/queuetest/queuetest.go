// Package queuetest is the conformance suite of orchestrator.Journal, and a
// Journal in memory for the tests of what uses one.
package queuetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kilnfaas/kiln/orchestrator"
)

// Run checks a Journal against its contract. open returns an empty Journal for
// each call, and what opens the same one again after it was closed; nil when
// that makes no sense. What needs to be cleaned up it registers with t.Cleanup.
func Run(t *testing.T, open func(t *testing.T) (journal orchestrator.Journal, reopen func() orchestrator.Journal)) {
	for _, test := range []struct {
		name string
		run  func(t *testing.T, j orchestrator.Journal, reopen func() orchestrator.Journal)
	}{
		{"empty", testEmpty},
		{"append and read", testAppend},
		{"order", testOrder},
		{"concurrent", testConcurrent},
		{"limits", testLimits},
		{"trim", testTrim},
		{"replay stops", testReplayStops},
		{"ended context", testEnded},
		{"reopen", testReopen},
	} {
		t.Run(test.name, func(t *testing.T) {
			j, reopen := open(t)
			test.run(t, j, reopen)
		})
	}
}

// entry is what a Journal was asked to keep.
type entry struct {
	At   orchestrator.Position
	Data string
}

func replay(t *testing.T, j orchestrator.Journal) []entry {
	t.Helper()
	var all []entry
	err := j.Replay(t.Context(), func(at orchestrator.Position, data []byte) error {
		all = append(all, entry{at, string(data)})
		return nil
	})
	if err != nil {
		t.Fatalf("Replay: %v", err)
	}
	return all
}

func mustAppend(t *testing.T, j orchestrator.Journal, data ...string) []entry {
	t.Helper()
	var raw [][]byte
	for _, d := range data {
		raw = append(raw, []byte(d))
	}
	positions, err := j.Append(t.Context(), raw...)
	if err != nil || len(positions) != len(data) {
		t.Fatalf("Append of %d entries = %v, %v", len(data), positions, err)
	}
	all := make([]entry, len(data))
	for i, at := range positions {
		all[i] = entry{at, data[i]}
	}
	return all
}

func wantClass(t *testing.T, what string, err, class error) {
	t.Helper()
	if !errors.Is(err, class) {
		t.Errorf("%s: error %v, want the class %q", what, err, class)
	}
}

func testEmpty(t *testing.T, j orchestrator.Journal, _ func() orchestrator.Journal) {
	if got := replay(t, j); len(got) != 0 {
		t.Errorf("replay of an empty journal = %v", got)
	}
	if got, err := j.Append(t.Context()); err != nil || len(got) != 0 {
		t.Errorf("Append of nothing = %v, %v", got, err)
	}
	for _, at := range []orchestrator.Position{{}, {Commit: 1}, {Commit: 99, Index: 1}} {
		_, err := j.Read(t.Context(), at)
		wantClass(t, fmt.Sprint("Read of ", at), err, orchestrator.ErrNotFound)
	}
	if err := j.Trim(t.Context(), 0); err != nil {
		t.Errorf("Trim of nothing: %v", err)
	}
}

func testAppend(t *testing.T, j orchestrator.Journal, _ func() orchestrator.Journal) {
	want := slices.Concat(mustAppend(t, j, "a"), mustAppend(t, j, "", "b\x00\xff", "c"), mustAppend(t, j, string(bytes.Repeat([]byte("x"), 300<<10))))
	if diff := cmp.Diff(want, replay(t, j)); diff != "" {
		t.Errorf("replay (-want +got):\n%.400s", diff)
	}
	for _, e := range want {
		got, err := j.Read(t.Context(), e.At)
		if err != nil || string(got) != e.Data {
			t.Errorf("Read(%v) = %d bytes, %v; want the %d that were appended", e.At, len(got), err, len(e.Data))
		}
	}
	_, err := j.Read(t.Context(), orchestrator.Position{Commit: want[0].At.Commit, Index: 7})
	if err == nil {
		t.Error("Read of an entry that its commit does not have: no error")
	}
}

// testOrder: Appends that follow each other have growing positions, and the
// entries of one are neighbours.
func testOrder(t *testing.T, j orchestrator.Journal, _ func() orchestrator.Journal) {
	var last orchestrator.Position
	for range 10 {
		for i, e := range mustAppend(t, j, "a", "b") {
			if e.At.Commit < last.Commit || e.At.Commit == last.Commit && e.At.Index <= last.Index {
				t.Fatalf("position %v does not come after %v", e.At, last)
			}
			if i == 1 && (e.At.Commit != last.Commit || e.At.Index != last.Index+1) {
				t.Fatalf("the second entry of an Append is at %v, the first at %v", e.At, last)
			}
			last = e.At
		}
	}
}

func testConcurrent(t *testing.T, j orchestrator.Journal, _ func() orchestrator.Journal) {
	const callers, each = 32, 10
	var mu sync.Mutex
	want := map[orchestrator.Position]string{}
	var running sync.WaitGroup
	for c := range callers {
		running.Go(func() {
			for i := range each {
				data := []string{fmt.Sprintf("%d/%d first", c, i), fmt.Sprintf("%d/%d second", c, i)}
				positions, err := j.Append(t.Context(), []byte(data[0]), []byte(data[1]))
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				for k, at := range positions {
					if other, ok := want[at]; ok {
						t.Errorf("%q and %q are both at %v", other, data[k], at)
					}
					want[at] = data[k]
				}
				mu.Unlock()
			}
		})
	}
	running.Wait()
	got := map[orchestrator.Position]string{}
	for _, e := range replay(t, j) {
		got[e.At] = e.Data
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("replay (-appended +got):\n%s", diff)
	}
}

func testLimits(t *testing.T, j orchestrator.Journal, _ func() orchestrator.Journal) {
	_, err := j.Append(t.Context(), make([]byte, orchestrator.MaxAppend))
	wantClass(t, "Append of more than fits", err, orchestrator.ErrTooLarge)
	_, err = j.Append(t.Context(), make([]byte, orchestrator.MaxAppend/2), make([]byte, orchestrator.MaxAppend/2))
	wantClass(t, "Append of two that do not fit together", err, orchestrator.ErrTooLarge)
	large := make([]byte, orchestrator.MaxAppend-64)
	for range 3 { // neighbours do not have to fit together
		if _, err := j.Append(t.Context(), large); err != nil {
			t.Fatalf("Append of %d bytes: %v", len(large), err)
		}
	}
	if got := replay(t, j); len(got) != 3 {
		t.Errorf("replay has %d entries, want 3", len(got))
	}
}

func testTrim(t *testing.T, j orchestrator.Journal, _ func() orchestrator.Journal) {
	var all []entry
	for i := range 20 {
		all = append(all, mustAppend(t, j, fmt.Sprint(i))...)
	}
	cut := all[12].At.Commit
	if err := j.Trim(t.Context(), cut); err != nil {
		t.Fatal(err)
	}
	got := replay(t, j)
	if len(got) < 8 || !cmp.Equal(got[len(got)-8:], all[12:]) {
		t.Errorf("replay after Trim(%d) = %v, want it to end with %v", cut, got, all[12:])
	}
	if data, err := j.Read(t.Context(), all[12].At); err != nil || string(data) != "12" {
		t.Errorf("Read of what stays = %q, %v", data, err)
	}
	if err := j.Trim(t.Context(), cut); err != nil { // again is no error
		t.Error(err)
	}
	last := mustAppend(t, j, "after")
	if err := j.Trim(t.Context(), last[0].At.Commit+1); err != nil {
		t.Fatal(err)
	}
	more := mustAppend(t, j, "more")
	if more[0].At.Commit <= last[0].At.Commit {
		t.Errorf("a journal trimmed to nothing counts from %v again, after %v", more[0].At, last[0].At)
	}
}

func testReplayStops(t *testing.T, j orchestrator.Journal, _ func() orchestrator.Journal) {
	mustAppend(t, j, "a", "b", "c")
	stop := orchestrator.Errorf(orchestrator.ErrInvalid, "stop", "enough")
	n := 0
	err := j.Replay(t.Context(), func(orchestrator.Position, []byte) error {
		n++
		return stop
	})
	if n != 1 || !errors.Is(err, stop) {
		t.Errorf("Replay = %v after %d calls, want its own error after one", err, n)
	}
}

func testEnded(t *testing.T, j orchestrator.Journal, _ func() orchestrator.Journal) {
	at := mustAppend(t, j, "a")[0].At
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := j.Append(ctx, []byte("b"))
	wantClass(t, "Append", err, orchestrator.ErrDeadline)
	wantClass(t, "Replay", j.Replay(ctx, func(orchestrator.Position, []byte) error { return nil }), orchestrator.ErrDeadline)
	if got := replay(t, j); len(got) != 1 || got[0].At != at {
		t.Errorf("replay = %v, want what was appended before", got)
	}
}

func testReopen(t *testing.T, j orchestrator.Journal, reopen func() orchestrator.Journal) {
	if reopen == nil {
		t.Skip("nothing to reopen")
	}
	want := slices.Concat(mustAppend(t, j, "a", "b"), mustAppend(t, j, "c"))
	j = reopen()
	if diff := cmp.Diff(want, replay(t, j)); diff != "" {
		t.Errorf("replay after opening again (-want +got):\n%s", diff)
	}
	if more := mustAppend(t, j, "d"); more[0].At.Commit <= want[2].At.Commit {
		t.Errorf("position %v after opening again, want one after %v", more[0].At, want[2].At)
	}
}
