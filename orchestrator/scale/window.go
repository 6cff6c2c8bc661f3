package scale

import (
	"math"
	"time"
)

const (
	stableSeconds = 60
	panicSeconds  = 6
	// Utilization is the share of an instance's slots that is meant to be in
	// use, so that there is room for the calls that come while another starts.
	Utilization = 0.7
	// roundingSlack keeps an average of exactly one instance's worth from being
	// rounded up to two by the last digit of a float32.
	roundingSlack = 1e-3
	// panicRatio is how far the short window's wish must exceed what there is.
	panicRatio = 2
	// panicCalm is how long the short window must stay below that before panic ends.
	panicCalm = 60 * time.Second
	// maxGrowth bounds one step up: what there is, times this.
	maxGrowth = 10
	// maxShrink bounds one step down: what there is, divided by this.
	maxShrink = 2
)

// Window holds the concurrency of the last minute, one average a second. Its
// zero value is empty.
type Window struct {
	seconds [stableSeconds]float32
	next    int
	filled  int
}

// Add takes in the average concurrency (waiting and in flight) of the second
// that has just passed.
func (w *Window) Add(average float64) {
	w.seconds[w.next] = float32(max(0, average))
	w.next = (w.next + 1) % stableSeconds
	w.filled = min(w.filled+1, stableSeconds)
}

// Stable returns the average over 60 s, or over what is known of them.
func (w *Window) Stable() float64 { return w.average(stableSeconds) }

// Panic returns the average over 6 s, or over what is known of them.
func (w *Window) Panic() float64 { return w.average(panicSeconds) }

func (w *Window) average(n int) float64 {
	n = min(n, w.filled)
	if n == 0 {
		return 0
	}
	var sum float64
	for i := 1; i <= n; i++ {
		sum += float64(w.seconds[(w.next-i+stableSeconds)%stableSeconds])
	}
	return sum / float64(n)
}

// Mode is what the windowed decision remembers from second to second. Its zero
// value is calm.
type Mode struct {
	panicking bool
	until     time.Duration // end of panic unless it is renewed
}

// Panicking says whether scale-down is suspended.
func (m Mode) Panicking() bool { return m.panicking }

// Fleet is what the windowed decision looks at.
type Fleet struct {
	Stable, Panic float64 // Window's averages
	Concurrency   int     // C
	Ready         int     // R
	Starting      int     // S
	Min, Max      int
}

// Decide returns how many instances a pool should have, once a second. With
// T = max(1, 0.7*C), stable = ceil(avg60/T), panic = ceil(avg6/T): panic mode when
// panic >= 2*(R+S), left after 60 s of calm, in which nothing is taken away.
// One step is at most tenfold up and to half down, and the result is within
// [Min, Max]. now is any monotonic time.
//
// T is at least 1, so that one caller after another at C = 1 does not keep a
// second instance that nobody uses.
func Decide(now time.Duration, mode Mode, f Fleet) (int, Mode) {
	target := max(1, Utilization*float64(f.Concurrency))
	stable, short := instancesFor(f.Stable, target), instancesFor(f.Panic, target)
	have := max(0, f.Ready) + max(0, f.Starting)

	if short > 0 && short >= panicRatio*max(1, have) {
		mode = Mode{panicking: true, until: now + panicCalm}
	} else if mode.panicking && now >= mode.until {
		mode = Mode{}
	}
	want := stable
	if mode.panicking {
		want = max(stable, short, have)
	}
	want = min(want, maxGrowth*max(1, have))
	want = max(want, have/maxShrink)
	return max(min(want, f.Max), f.Min, 0), mode
}

// instancesFor is bounded so that no input makes the conversion overflow.
func instancesFor(concurrency, target float64) int {
	return int(min(math.Ceil(max(0, concurrency/target-roundingSlack)), math.MaxInt32))
}
