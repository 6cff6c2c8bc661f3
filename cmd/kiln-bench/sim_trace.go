package main

import (
	"iter"
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/kilnfaas/kiln/orchestrator"
)

// The synthetic traces have the shape published for Azure Functions in
// "Serverless in the Wild" (Shahrad et al., USENIX ATC 2020): the two points of
// the rates' distribution that its text gives, the shares of the kinds of
// arrivals, and its fits of execution time and memory. Between and beyond those
// points the shape is assumed, and said to be so below.

// traffic is a kind of arrivals.
type traffic string

const (
	timers  traffic = "timer"   // cron: round periods, to the second
	sensors traffic = "sensor"  // periodic, but not driven by a timer
	mixed   traffic = "mixed"   // a timer and other callers
	poisson traffic = "poisson" // independent callers, the same all day
	bursty  traffic = "bursty"  // a few calls in a row, then nothing for long
	diurnal traffic = "diurnal" // independent callers, mostly by day
)

// kinds are the shares. Published: 29 % of applications have a timer, 13 % have
// nothing else; some 20 % are periodic (coefficient of variation near 0); some
// 40 % and more vary more than Poisson arrivals. The split of the rest is assumed.
var kinds = []struct {
	traffic traffic
	share   float64
}{{timers, 0.13}, {sensors, 0.07}, {mixed, 0.16}, {poisson, 0.12}, {bursty, 0.37}, {diurnal, 0.15}}

// rates is the distribution of calls per second, log-linear between its points:
// published are 45 % at once an hour or less and 81 % at once a minute or less. The
// ends are assumed; the hottest are cut off at two a second. Hotter ones are
// never cold and never idle, so they add to every policy's calls the same.
var rates = []struct{ share, perSecond float64 }{
	{0, 0.5 / 86400}, {0.45, 1.0 / 3600}, {0.81, 1.0 / 60}, {0.99, 0.2}, {1, 2},
}

// Fits of the paper: the mean execution time of a function is log-normal (of
// seconds), the memory of an application Burr XII (of MiB).
const (
	serviceMu, serviceSigma      = -0.38, 2.36
	memoryC, memoryK, memoryUnit = 11.652, 0.221, 107.083
)

const (
	// maxMemory cuts the fit's tail off, which is heavier than its data's: 90 %
	// of applications stay below 400 MB.
	maxMemory = 1536
	// maxBusy bounds calls per second times service time: more than a few cores'
	// worth is nothing that a single machine serves.
	maxBusy = 4
	// maxDuty bounds a periodic function's service time as a share of its period.
	maxDuty = 0.5
)

// simTemplates are what functions are written in, and whether cells can take
// them. The shares are assumed: the paper says nothing about it.
var simTemplates = []struct {
	name  string
	share float64
	cells bool
}{{"python", 0.40, true}, {"node", 0.35, true}, {"go", 0.15, true}, {"dockerfile", 0.10, false}}

// workload is one function of a trace.
type workload struct {
	ID       int
	Traffic  traffic
	Template string
	Cells    bool    // can be loaded into a cell
	Rate     float64 // calls per second, on average
	Memory   float64 // MiB
	Service  time.Duration
	seed     uint64
}

// call is one arrival.
type call struct {
	at      time.Duration // since the trace began
	service time.Duration
}

// population returns n functions. The same seed gives the same ones.
func population(n int, seed uint64) []workload {
	r := rand.New(rand.NewPCG(seed, 1))
	kindOf, templateOf := r.Perm(n), r.Perm(n)
	all := make([]workload, n)
	for i := range all {
		w := &all[i]
		w.ID, w.seed = i, r.Uint64()
		w.Rate = rateAt((float64(i) + 0.5) / float64(n))
		place := (float64(kindOf[i]) + 0.5) / float64(n)
		for _, k := range kinds {
			if w.Traffic = k.traffic; place < k.share {
				break
			}
			place -= k.share
		}
		place = (float64(templateOf[i]) + 0.5) / float64(n)
		for _, t := range simTemplates {
			if w.Template, w.Cells = t.name, t.cells; place < t.share {
				break
			}
			place -= t.share
		}
		w.Memory = min(maxMemory, memoryUnit*math.Pow(math.Pow(1-r.Float64(), -1/memoryK)-1, 1/memoryC))
		longest := min(orchestrator.DefaultTimeout.Seconds()/2, maxBusy/w.Rate)
		if w.Traffic == timers || w.Traffic == sensors {
			longest = min(longest, maxDuty/w.Rate)
		}
		w.Service = seconds(min(longest, math.Exp(serviceMu+serviceSigma*r.NormFloat64())))
	}
	return all
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// rateAt is the inverse of rates.
func rateAt(share float64) float64 {
	for i := 1; i < len(rates); i++ {
		if a, b := rates[i-1], rates[i]; share <= b.share {
			part := (share - a.share) / (b.share - a.share)
			return a.perSecond * math.Pow(b.perSecond/a.perSecond, part)
		}
	}
	return rates[len(rates)-1].perSecond
}

// calls yields a function's calls within span, in order; the same every time.
func (w workload) calls(span time.Duration) iter.Seq[call] {
	return func(yield func(call) bool) {
		r := rand.New(rand.NewPCG(w.seed, 2))
		next := w.arrivals(r)
		for at := next(); at < span; at = next() {
			// Half of a service time is fixed, half exponential.
			if !yield(call{at, w.Service/2 + time.Duration(r.ExpFloat64()*float64(w.Service)/2)}) {
				return
			}
		}
	}
}

// arrivals returns the function that gives one arrival after the other.
func (w workload) arrivals(r *rand.Rand) func() time.Duration {
	switch w.Traffic {
	case timers:
		return cron(r, w.Rate)
	case sensors:
		return periodic(r, w.Rate)
	case mixed:
		return merge(cron(r, w.Rate/2), independent(r, w.Rate/2))
	case bursty:
		return bursts(r, w.Rate)
	case diurnal:
		return byDay(r, w.Rate)
	}
	return independent(r, w.Rate)
}

// periods are what people write into crontabs.
var periods = []time.Duration{
	time.Second, 2 * time.Second, 5 * time.Second, 10 * time.Second, 15 * time.Second, 30 * time.Second,
	time.Minute, 2 * time.Minute, 5 * time.Minute, 10 * time.Minute, 15 * time.Minute, 20 * time.Minute, 30 * time.Minute,
	time.Hour, 2 * time.Hour, 3 * time.Hour, 4 * time.Hour, 6 * time.Hour, 8 * time.Hour, 12 * time.Hour, 24 * time.Hour, 48 * time.Hour,
}

// cronDelay is how late a timer fires at most.
const cronDelay = time.Second

func cron(r *rand.Rand, rate float64) func() time.Duration {
	off := func(p time.Duration) float64 { return math.Abs(math.Log(p.Seconds() * rate)) }
	period := slices.MinFunc(periods, func(a, b time.Duration) int {
		if off(a) < off(b) {
			return -1
		}
		return 1
	})
	due := time.Duration(r.Int64N(int64(period)))
	late := min(cronDelay, period/4)
	return func() time.Duration {
		at := due + time.Duration(r.Int64N(int64(late)))
		due += period
		return at
	}
}

// sensorJitter is the standard deviation of a sensor's gaps, of their mean.
const sensorJitter = 0.03

func periodic(r *rand.Rand, rate float64) func() time.Duration {
	at := seconds(r.Float64() / rate)
	return func() time.Duration {
		now := at
		at += seconds(max(0.1, 1+sensorJitter*r.NormFloat64()) / rate)
		return now
	}
}

func independent(r *rand.Rand, rate float64) func() time.Duration {
	var at time.Duration
	return func() time.Duration {
		at += seconds(r.ExpFloat64() / rate)
		return at
	}
}

func merge(a, b func() time.Duration) func() time.Duration {
	x, y := a(), b()
	return func() time.Duration {
		if x <= y {
			now := x
			x = a()
			return now
		}
		now := y
		y = b()
		return now
	}
}

// Bursts have 2 to 16 calls on average, a few seconds apart, and log-normal
// pauses between them. All of it is assumed.
const (
	burstLeast, burstMost = 2.0, 16.0
	burstGap              = 4.0 // seconds, on average
	burstDuty             = 0.2 // of the time at most is within bursts
	pauseSigma            = 1.0
)

func bursts(r *rand.Rand, rate float64) func() time.Duration {
	size := burstLeast + r.Float64()*(burstMost-burstLeast)
	gap := min(burstGap, burstDuty/rate)
	pause := size/rate - (size-1)*gap
	mu := math.Log(pause) - pauseSigma*pauseSigma/2
	// A trace begins anywhere in a pause.
	at := seconds(r.Float64() * math.Exp(mu+pauseSigma*r.NormFloat64()))
	return func() time.Duration {
		now := at
		if r.Float64() < 1/size {
			at += seconds(math.Exp(mu + pauseSigma*r.NormFloat64()))
		} else {
			at += seconds(r.ExpFloat64() * gap)
		}
		return now
	}
}

// By day, from eight to eight, comes nightShare's complement of the calls.
const nightShare = 0.1

func byDay(r *rand.Rand, rate float64) func() time.Duration {
	day := 2 * rate * (1 - nightShare)
	next := independent(r, day)
	zone := time.Duration(r.IntN(24)) * time.Hour
	return func() time.Duration {
		for {
			at := next()
			if hour := (at + zone) % (24 * time.Hour); hour >= 8*time.Hour && hour < 20*time.Hour ||
				r.Float64() < nightShare/(1-nightShare) {
				return at
			}
		}
	}
}
