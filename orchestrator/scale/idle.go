package scale

import (
	"math"
	"slices"
	"time"
)

// The hybrid histogram policy of "Serverless in the Wild" (Shahrad et al.,
// USENIX ATC 2020), with the constants as published. What differs from it is
// explained in docs/decisions/keep-alive.md.
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
	// coldWorth is how long an instance may be idle to spare one cold start. At 15
	// minutes the simulator (kiln-bench -only sim) has every kind of traffic cost
	// about what it does with a fixed 10 minutes, or less.
	coldWorth = 15 * time.Minute
	// maxOutside is the share of idle times beyond the last bin above which the
	// histogram says nothing.
	maxOutside = 0.5
)

// Histogram counts how long a function was idle between two calls. Its zero
// value is empty and takes no memory beyond itself; the first sample allocates
// the bins (480 bytes). It also remembers the plan last made from it: the pool
// asks once a second, and the answer is the same until the next call.
type Histogram struct {
	bins    []uint16
	count   uint32 // in bins
	outside uint32 // beyond the last bin

	plan        Plan
	planFor     Settings
	planCurrent bool
}

// Record takes in one idle time. Pauses shorter than an instance lingers in any
// case are left out: they never cost a cold start, and the thousands of them
// within a burst would hide the pauses between bursts.
func (h *Histogram) Record(idle time.Duration) {
	if idle < lingerMin {
		return
	}
	h.planCurrent = false
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

// bounds returns the bins with the 5th and the 99th percentile.
func (h *Histogram) bounds() (head, tail int) {
	headRank := uint32(math.Ceil(headShare * float64(h.count)))
	tailRank := uint32(math.Ceil(tailShare * float64(h.count)))
	var seen uint32
	head = -1
	for i, n := range h.bins {
		seen += uint32(n)
		if head < 0 && seen >= headRank {
			head = i
		}
		if seen >= tailRank {
			return head, i
		}
	}
	return head, binCount - 1
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
// representative. Then it is, of these, the one that would have done best in the
// pauses recorded (see ledger.worth): keeping instances to 1.1 times one of the
// idle times, at most p99; when 0.9*p5 is far away, removing them and starting one
// again by then, to be kept as long; and the fixed one. Of equals it is the one
// that is kept longest after what has been learnt.
//
// It writes to h, which remembers the plan.
func PlanIdle(s Settings, h *Histogram) Plan {
	if !h.planCurrent || h.planFor != s {
		h.plan, h.planFor, h.planCurrent = planIdle(s, h), s, true
	}
	return h.plan
}

func planIdle(s Settings, h *Histogram) Plan {
	fixed := Plan{Freeze: max(0, s.FreezeAfter), Remove: max(0, s.KeepAlive)}
	if !s.Adaptive || !h.Representative() {
		return fixed
	}
	var l ledger
	l.enter(h)
	var best Plan
	most := math.Inf(-1)
	consider := func(p Plan) {
		if worth := l.worth(p); worth > most {
			best, most = p, worth
		}
	}
	head, tail := h.bounds()
	prewarm := time.Duration(headMargin * float64(time.Duration(head)*binWidth))
	for bin := tail; bin >= 0; bin-- {
		if h.bins[bin] == 0 {
			continue
		}
		keep := time.Duration(tailMargin * float64(time.Duration(bin+1)*binWidth))
		consider(Plan{Freeze: fixed.Freeze, Remove: keep})
		if prewarm >= prewarmLead && bin >= head {
			consider(Plan{Freeze: fixed.Freeze, Remove: min(max(lingerMin, fixed.Freeze), prewarm), Prewarm: prewarm, Expire: keep})
		}
	}
	consider(fixed)
	return best
}

// ledger holds running sums over a histogram's bins, so that a plan is weighed
// without looking at all of them. Idle times count as the middle of their bin.
type ledger struct {
	pauses  [binCount + 1]float64 // in the bins before this one
	seconds [binCount + 1]float64 // of those pauses
	total   float64               // pauses, those out of bounds included
}

// enter fills an empty ledger. Ledgers are big: this way they stay on the stack.
func (l *ledger) enter(h *Histogram) {
	l.total = float64(h.count) + float64(h.outside)
	for i, n := range h.bins {
		middle := (time.Duration(i)*binWidth + binWidth/2).Seconds()
		l.pauses[i+1] = l.pauses[i] + float64(n)
		l.seconds[i+1] = l.seconds[i] + float64(n)*middle
	}
}

// worth returns what a plan would have been worth in the pauses recorded, in
// seconds: coldWorth for each that ended with an instance there, less the time
// for which instances were idle.
func (l *ledger) worth(p Plan) float64 {
	met, idle := l.kept(0, p.Remove)
	if p.Prewarm > 0 {
		again, more := l.kept(p.Prewarm, p.Expire)
		met, idle = met+again, idle+more
	}
	return met*coldWorth.Seconds() - idle
}

// kept returns, for an instance that is there from one time of each pause to
// another, how many pauses end within and how long it is idle in all.
func (l *ledger) kept(from, to time.Duration) (met, idle float64) {
	first, last := binsBefore(from), binsBefore(to)
	met = l.pauses[last] - l.pauses[first]
	idle = l.seconds[last] - l.seconds[first] - met*from.Seconds()
	return met, idle + (l.total-l.pauses[last])*(to-from).Seconds()
}

// binsBefore returns how many bins have their middle before t.
func binsBefore(t time.Duration) int {
	return int(min(binCount, (t+binWidth/2-1)/binWidth))
}
