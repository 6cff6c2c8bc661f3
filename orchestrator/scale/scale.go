// Package scale decides how many instances a function needs, what to freeze and
// what to remove. It is pure: values in, values out; time is an argument. The
// pool package acts on what it says.
//
// The vocabulary is the pool's: C slots per instance, q requests waiting, F
// free slots, R instances ready, S starting, d the usual service time and t_c
// the usual start time.
package scale

import (
	"math"
	"time"
)

const (
	// minHorizon is the least time ahead that Burst plans for: a queue that the
	// ready instances empty within it is not worth a new container.
	minHorizon = 100 * time.Millisecond
	// queuePerSlot is how many requests may wait for each slot there is or will
	// soon be. At ten the last in line waits ten service times, more than that
	// is better told at once.
	queuePerSlot = 10
)

// Demand is a pool at one moment.
type Demand struct {
	Concurrency int           // C, at least 1
	Waiting     int           // q
	Free        int           // F
	Ready       int           // R
	Starting    int           // S, thawing included
	Service     time.Duration // d; 0 = unknown
	Start       time.Duration // t_c; 0 = unknown
}

// Burst returns how many instances to start now, when a request has just been
// queued, beside those that are starting already:
//
//	H = max(100 ms, t_c)
//	B = max(0, q - F - R*C*H/d)
//	max(0, ceil(B / (C*max(1, H/d))) - S)
//
// With d unknown it is ceil(q/C) - S, and from nothing it is one.
func Burst(d Demand) int {
	if d.Waiting <= 0 {
		return 0
	}
	if d.Ready <= 0 && d.Starting <= 0 {
		return 1
	}
	slots := float64(max(1, d.Concurrency))
	waiting, rounds := float64(d.Waiting), 1.0
	if d.Service > 0 {
		horizon := max(minHorizon, d.Start)
		turns := float64(horizon) / float64(d.Service) // how often a slot is used within the horizon
		waiting -= float64(max(0, d.Free)) + float64(max(0, d.Ready))*slots*turns
		rounds = max(1, turns)
	}
	if waiting <= 0 {
		return 0
	}
	return max(0, int(math.Ceil(waiting/(slots*rounds)))-max(0, d.Starting))
}

// drainWithin is how soon a backlog of asynchronous calls is to be made: long
// enough for instances to be worth starting, and nobody waits for the answers.
const drainWithin = 10 * time.Second

// Backlog returns the concurrency that makes calls of the usual service time
// within drainWithin; with that unknown it asks for nothing.
func Backlog(calls int, service time.Duration) float64 {
	if calls <= 0 || service <= 0 {
		return 0
	}
	return float64(calls) * float64(service) / float64(drainWithin)
}

// QueueLimit returns how many requests may wait: 10*C*max(1, R+S).
func QueueLimit(d Demand) int {
	return queuePerSlot * max(1, d.Concurrency) * max(1, d.Ready+d.Starting)
}

// Wait estimates how long a request that is queued now will wait. It errs on
// the short side: what it does not know counts as zero, so that nothing is
// refused for lack of knowledge.
func Wait(d Demand) time.Duration {
	slots := float64(max(1, d.Concurrency))
	ahead := float64(max(0, d.Waiting) + 1 - max(0, d.Free))
	if ahead <= 0 {
		return 0
	}
	var wait float64
	instances := d.Ready
	if instances <= 0 {
		// Nobody is served before the first start is through, and then at once.
		wait = float64(max(0, d.Start))
		instances = max(1, d.Starting)
		ahead -= float64(instances) * slots
	}
	wait += max(0, ahead) / (float64(instances) * slots) * float64(max(0, d.Service))
	if wait >= math.MaxInt64 {
		return math.MaxInt64
	}
	return time.Duration(wait)
}

// ewmaWeight is the share of the newest sample in a moving average: it follows
// a change within some ten calls and forgets a single outlier as fast.
const ewmaWeight = 0.1

// Average is an exponentially weighted moving average of durations. Its zero
// value knows nothing.
type Average struct{ mean float64 }

// Add takes a sample in.
func (a *Average) Add(sample time.Duration) {
	v := float64(max(1, sample))
	if a.mean == 0 {
		a.mean = v
		return
	}
	a.mean += ewmaWeight * (v - a.mean)
}

// Value returns the average; 0 = no sample yet.
func (a *Average) Value() time.Duration { return time.Duration(a.mean) }
