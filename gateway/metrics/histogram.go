package metrics

import (
	"math/bits"
	"sync/atomic"
	"time"
)

// bounds are the upper bounds of the buckets of every duration: a warm call
// takes a fraction of a millisecond, an instance from its image some hundred,
// and nothing is longer than a function's timeout commonly is. They double, so
// that the bucket of a duration is found by the length of a number.
const (
	smallestBound = 256 * time.Microsecond
	boundCount    = 19 // up to 67 s
)

// bounds returns the upper bounds in seconds.
func bounds() [boundCount]float64 {
	var all [boundCount]float64
	for i := range all {
		all[i] = (smallestBound << i).Seconds()
	}
	return all
}

// bucketOf returns the index of the bucket of a duration; boundCount is the one
// above all bounds.
func bucketOf(d time.Duration) int {
	if d <= smallestBound {
		return 0
	}
	return min(bits.Len64(uint64((d-1)/smallestBound)), boundCount)
}

// histogram counts durations in one shard.
type histogram struct {
	buckets [boundCount + 1]atomic.Uint64
	sum     atomic.Int64 // nanoseconds
}

func (h *histogram) observe(d time.Duration) {
	h.buckets[bucketOf(d)].Add(1)
	if d > 0 {
		h.sum.Add(int64(d))
	}
}

// totals is the sum of a histogram over its shards.
type totals struct {
	buckets [boundCount + 1]uint64
	sum     time.Duration
}

func (t *totals) add(h *histogram) {
	for i := range h.buckets {
		t.buckets[i] += h.buckets[i].Load()
	}
	t.sum += time.Duration(h.sum.Load())
}

// count returns the number of observations.
func (t *totals) count() (n uint64) {
	for _, b := range t.buckets {
		n += b
	}
	return n
}

// cumulative returns what Prometheus wants: for each bound the number of
// observations at or under it.
func (t *totals) cumulative() map[float64]uint64 {
	all := make(map[float64]uint64, boundCount)
	var n uint64
	for i, bound := range bounds() {
		n += t.buckets[i]
		all[bound] = n
	}
	return all
}
