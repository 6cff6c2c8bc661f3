package scale

import (
	"math"
	"slices"
	"time"
)

// The hybrid histogram policy of "Serverless in the Wild" (Shahrad et al.,
// USENIX ATC 2020), with the constants as published.
const (
	binWidth  = time.Minute
	binCount  = 240 // four hours
	headShare = 0.05
	tailShare = 0.99
	// The margins make up for the width of the bins.
	headMargin = 0.9
	tailMargin = 1.1
	// minSamples is how many idle times are needed before they mean anything.
	minSamples = 10
	// minSpread is the coefficient of variation of the bin counts from which on
	// idle times are concentrated enough to foretell the next one.
	minSpread = 2
	// maxOutside is the share of idle times beyond the last bin above which the
	// histogram says nothing.
	maxOutside = 0.5
)

// Histogram counts how long a function was idle between two calls. Its zero
// value is empty and takes no memory beyond itself; the first sample allocates
// the bins (480 bytes).
type Histogram struct {
	bins    []uint16
	count   uint32 // in bins
	outside uint32 // beyond the last bin
}

// Record takes in one idle time. Pauses shorter than an instance lingers in any
// case are left out: they never cost a cold start, and the thousands of them
// within a burst would hide the pauses between bursts.
func (h *Histogram) Record(idle time.Duration) {
	if idle < lingerMin {
		return
	}
	if h.outside+h.count >= math.MaxUint32/2 {
		h.age()
	}
	bin := int(idle / binWidth)
	if bin >= binCount {
		h.outside++
		return
	}
	if h.bins == nil {
		h.bins = make([]uint16, binCount)
	}
	if h.bins[bin] == math.MaxUint16 {
		h.age()
	}
	h.bins[bin]++
	h.count++
}

// age halves every count: the proportions stay, and the recent past weighs more.
func (h *Histogram) age() {
	h.count = 0
	for i := range h.bins {
		h.bins[i] /= 2
		h.count += uint32(h.bins[i])
	}
	h.outside /= 2
}

// Clone returns a copy that shares nothing with h.
func (h *Histogram) Clone() Histogram {
	c := *h
	c.bins = slices.Clone(h.bins)
	return c
}

// Samples returns how many idle times the histogram stands for.
func (h *Histogram) Samples() int { return int(h.count) + int(h.outside) }

// Representative says whether the next idle time can be foretold: at least 10
// samples, at most half of them out of bounds, and concentrated (coefficient of
// variation of the bin counts at least 2).
func (h *Histogram) Representative() bool {
	total := h.count + h.outside
	if total < minSamples || h.count == 0 || float64(h.outside) > maxOutside*float64(total) {
		return false
	}
	mean := float64(h.count) / binCount
	var squares float64
	for _, n := range h.bins {
		squares += (float64(n) - mean) * (float64(n) - mean)
	}
	return math.Sqrt(squares/binCount)/mean >= minSpread
}

// bounds returns the lower edge of the bin with the 5th percentile and the
// upper edge of the one with the 99th.
func (h *Histogram) bounds() (head, tail time.Duration) {
	headRank := uint32(math.Ceil(headShare * float64(h.count)))
	tailRank := uint32(math.Ceil(tailShare * float64(h.count)))
	var seen uint32
	found := false
	for i, n := range h.bins {
		seen += uint32(n)
		if !found && seen >= headRank {
			head, found = time.Duration(i)*binWidth, true
		}
		if seen >= tailRank {
			return head, time.Duration(i+1) * binWidth
		}
	}
	return head, binCount * binWidth
}

// Settings are the bounds a function's owner has set for its idle instances.
type Settings struct {
	FreezeAfter time.Duration // 0 = never
	KeepAlive   time.Duration
	// Adaptive lets the histogram replace KeepAlive once it is representative.
	Adaptive bool
}

// Plan says what happens to an instance that stays idle. All times count from
// the end of the last call.
type Plan struct {
	Freeze time.Duration // 0 = never
	Remove time.Duration
	// Prewarm is when an instance is started again in expectation of a call; 0 =
	// not at all.
	Prewarm time.Duration
	// Expire is when what Prewarm started is removed; 0 without Prewarm.
	Expire time.Duration
}

// prewarmLead is the least prewarm time for which removing an instance at once
// pays: below it the container would hardly be gone when it is started again.
const prewarmLead = 2 * time.Minute

// lingerMin is how long an instance stays at least when the next call is not
// expected for long: what calls once often calls twice.
const lingerMin = 10 * time.Second

// PlanIdle returns the plan for a function. It is fixed until the histogram is
// representative; then instances are kept to 1.1*p99 of the idle times or, when
// even 0.9*p5 of them is far away, removed and started again by then.
func PlanIdle(s Settings, h *Histogram) Plan {
	plan := Plan{Freeze: max(0, s.FreezeAfter), Remove: max(0, s.KeepAlive)}
	if !s.Adaptive || !h.Representative() {
		return plan
	}
	head, tail := h.bounds()
	prewarm := time.Duration(headMargin * float64(head))
	keep := time.Duration(tailMargin * float64(tail))
	if prewarm < prewarmLead {
		plan.Remove = keep
		return plan
	}
	plan.Remove = min(max(lingerMin, plan.Freeze), prewarm)
	plan.Prewarm, plan.Expire = prewarm, keep
	return plan
}
