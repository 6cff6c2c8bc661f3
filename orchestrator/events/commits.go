package events

import (
	"slices"

	"github.com/kilnfaas/kiln/orchestrator"
)

// ref is an entry that somebody needs. The zero ref is none.
type ref struct {
	at   orchestrator.Position
	size int // bytes
}

func (r ref) none() bool { return r.at.Commit == 0 }

// commits knows which parts of the journal are still needed, so that its
// beginning can be trimmed. It is guarded by the queue's mutex.
type commits struct {
	known    map[uint64]*usage
	order    []uint64        // of known, ascending
	last     uint64          // the newest that was heard of
	total    int             // bytes of entries in known commits
	live     int             // bytes of those that are needed
	inflight map[*bool]int64 // Appends under way: none of them lands before this commit
}

type usage struct {
	needed int // entries
	total  int // bytes
}

func newCommits() commits {
	return commits{known: map[uint64]*usage{}, inflight: map[*bool]int64{}}
}

// begin tells of an Append that begins, and returns what ends it.
func (c *commits) begin() (end func()) {
	token := new(bool)
	c.inflight[token] = int64(c.last) + 1
	return func() { delete(c.inflight, token) }
}

// add tells of an entry that was written.
func (c *commits) add(r ref) {
	u := c.known[r.at.Commit]
	if u == nil {
		u = &usage{}
		c.known[r.at.Commit] = u
		c.last = max(c.last, r.at.Commit)
		at, _ := slices.BinarySearch(c.order, r.at.Commit) // nearly always the end
		c.order = slices.Insert(c.order, at, r.at.Commit)
	}
	u.total += r.size
	c.total += r.size
}

// need counts an entry as needed; a zero ref is none.
func (c *commits) need(r ref) {
	if r.none() {
		return
	}
	c.known[r.at.Commit].needed++
	c.live += r.size
}

// release undoes need.
func (c *commits) release(r ref) {
	if r.none() {
		return
	}
	c.known[r.at.Commit].needed--
	c.live -= r.size
}

// cut forgets the commits at the beginning that nobody needs and returns the
// first that is to be kept; ok is false when there is nothing to trim.
func (c *commits) cut() (before uint64, ok bool) {
	limit := c.last + 1
	for _, first := range c.inflight {
		limit = min(limit, uint64(first))
	}
	n := 0
	for n < len(c.order) && c.order[n] < limit && c.known[c.order[n]].needed == 0 {
		c.total -= c.known[c.order[n]].total
		delete(c.known, c.order[n])
		n++
	}
	if n == 0 {
		return 0, false
	}
	before = c.order[n-1] + 1
	c.order = slices.Delete(c.order, 0, n)
	return before, true
}
