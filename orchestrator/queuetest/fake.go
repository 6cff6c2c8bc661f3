package queuetest

import (
	"bytes"
	"context"
	"sync"

	"github.com/kilnfaas/kiln/orchestrator"
)

// Fake is a Journal in memory. Its contents outlive whoever uses it, so that a
// test can open a queue on it again.
type Fake struct {
	mu      sync.Mutex
	commits map[uint64][][]byte // guarded by mu
	next    uint64              // guarded by mu
	first   uint64              // guarded by mu: the oldest that was not trimmed
	fail    error               // guarded by mu: what Append and Read return
}

var _ orchestrator.Journal = (*Fake)(nil)

// NewFake returns an empty Journal.
func NewFake() *Fake {
	return &Fake{commits: map[uint64][][]byte{}, next: 1, first: 1}
}

// Fail makes Append and Read return an error; nil ends that.
func (f *Fake) Fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fail = err
}

// Commits returns how many commits are kept.
func (f *Fake) Commits() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.commits)
}

func ended(ctx context.Context) error {
	if ctx.Err() != nil {
		return orchestrator.Errorf(orchestrator.ErrDeadline, "store-deadline", "%w", context.Cause(ctx))
	}
	return nil
}

// Append implements orchestrator.Journal.
func (f *Fake) Append(ctx context.Context, entries ...[]byte) ([]orchestrator.Position, error) {
	if err := ended(ctx); err != nil {
		return nil, err
	}
	size := 0
	var kept [][]byte
	for _, e := range entries {
		size += len(e) + 5 // as the real one counts
		kept = append(kept, bytes.Clone(e))
	}
	if size > orchestrator.MaxAppend {
		return nil, orchestrator.Errorf(orchestrator.ErrTooLarge, "entries-too-large", "%d bytes are too many", size)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fail != nil {
		return nil, f.fail
	}
	if len(entries) == 0 {
		return nil, nil
	}
	commit := f.next
	f.next++
	f.commits[commit] = kept
	positions := make([]orchestrator.Position, len(entries))
	for i := range positions {
		positions[i] = orchestrator.Position{Commit: commit, Index: i}
	}
	return positions, nil
}

// Replay implements orchestrator.Journal.
func (f *Fake) Replay(ctx context.Context, call func(orchestrator.Position, []byte) error) error {
	if err := ended(ctx); err != nil {
		return err
	}
	f.mu.Lock()
	first, next := f.first, f.next
	f.mu.Unlock()
	for commit := first; commit < next; commit++ {
		f.mu.Lock()
		entries := f.commits[commit]
		f.mu.Unlock()
		for i, e := range entries {
			if err := call(orchestrator.Position{Commit: commit, Index: i}, bytes.Clone(e)); err != nil {
				return err
			}
		}
	}
	return nil
}

// Read implements orchestrator.Journal.
func (f *Fake) Read(ctx context.Context, at orchestrator.Position) ([]byte, error) {
	if err := ended(ctx); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fail != nil {
		return nil, f.fail
	}
	entries, ok := f.commits[at.Commit]
	if !ok {
		return nil, orchestrator.Errorf(orchestrator.ErrNotFound, "entry-not-found", "there is no commit %d", at.Commit)
	}
	if at.Index < 0 || at.Index >= len(entries) {
		return nil, orchestrator.Errorf(orchestrator.ErrUnavailable, "journal-damaged", "commit %d has no entry %d", at.Commit, at.Index)
	}
	return entries[at.Index], nil
}

// Trim implements orchestrator.Journal.
func (f *Fake) Trim(ctx context.Context, before uint64) error {
	if err := ended(ctx); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for ; f.first < before && f.first < f.next; f.first++ {
		delete(f.commits, f.first)
	}
	return nil
}
