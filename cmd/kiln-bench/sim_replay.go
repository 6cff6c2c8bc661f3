package main

import (
	"time"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/scale"
)

const (
	// imageStart is how long a start of a container takes (measured, issue 3).
	imageStart = 190 * time.Millisecond
	// tick is how often the pool looks at what is idle.
	tick = time.Second
)

// launchOf is one start that a caller waited for.
type launchOf struct {
	at       time.Duration
	function int
	calls    int // that waited for it
}

// outcome is what one policy did to one function.
type outcome struct {
	calls, cold int
	refused     int
	prewarms    int
	idle        time.Duration // instances' time without a call
	launches    []launchOf
}

// unit is an instance.
type unit struct {
	starting  bool
	readyAt   time.Duration
	idleSince time.Duration
	inflight  int
	prewarmed bool
	launch    int // index in launches; -1 = no caller began it
}

// ending is a call in flight.
type ending struct {
	at      time.Duration
	in      *unit
	service time.Duration
}

// replay runs a function through the decisions of package scale, in the way
// package pool does: starts by Burst, idle times into a Histogram, removal and
// prewarming by PlanIdle once a second. Two things are simpler. Calls go to the
// oldest instance with a free slot, which makes surplus ones idle as parking
// after scale.Decide does in the pool; and Decide starts nothing ahead.
type replay struct {
	id        int
	settings  scale.Settings
	histogram scale.Histogram
	plan      scale.Plan
	service   scale.Average
	startup   scale.Average
	units     []*unit
	endings   []ending // heap, soonest first
	queue     []call
	clock     time.Duration
	idleSince time.Duration // end of the last call; -1 = there was none
	planned   time.Duration // the idleSince for which an instance was prewarmed
	out       outcome
}

func newReplay(id int, settings scale.Settings) *replay {
	r := &replay{id: id, settings: settings, idleSince: -1, planned: -1}
	r.plan = scale.PlanIdle(settings, &r.histogram)
	return r
}

// arrive takes a call in. Calls come in order.
func (r *replay) arrive(c call) {
	r.advance(c.at)
	r.out.calls++
	if r.calm() && r.idleSince >= 0 {
		before := r.histogram.Samples()
		r.histogram.Record(c.at - r.idleSince)
		if r.settings.Adaptive && r.histogram.Samples() != before {
			r.plan = scale.PlanIdle(r.settings, &r.histogram)
		}
	}
	for _, in := range r.units {
		if !in.starting && in.inflight < orchestrator.DefaultConcurrency {
			r.serve(in, c)
			return
		}
	}
	d := r.demand()
	if d.Waiting >= scale.QueueLimit(d) {
		r.out.refused++
		return
	}
	r.queue = append(r.queue, c)
	d.Waiting++
	for range min(scale.Burst(d), orchestrator.DefaultMax-len(r.units)) {
		r.out.launches = append(r.out.launches, launchOf{at: c.at, function: r.id})
		r.launch(len(r.out.launches) - 1)
	}
}

// calm says whether there is no call.
func (r *replay) calm() bool { return len(r.endings) == 0 && len(r.queue) == 0 }

func (r *replay) launch(index int) *unit {
	in := &unit{starting: true, readyAt: r.clock + imageStart, launch: index}
	r.units = append(r.units, in)
	return in
}

func (r *replay) demand() scale.Demand {
	d := scale.Demand{
		Concurrency: orchestrator.DefaultConcurrency, Waiting: len(r.queue),
		Service: r.service.Value(), Start: r.startup.Value(),
	}
	for _, in := range r.units {
		if in.starting {
			d.Starting++
			continue
		}
		d.Ready++
		d.Free += d.Concurrency - in.inflight
	}
	return d
}

// serve begins a call on an instance.
func (r *replay) serve(in *unit, c call) {
	if in.inflight == 0 {
		r.out.idle += r.clock - in.idleSince
	}
	in.inflight++
	in.prewarmed = false
	if in.readyAt > c.at { // the call waited for the start
		r.out.cold++
		if in.launch >= 0 {
			r.out.launches[in.launch].calls++
		}
	}
	r.endings = append(r.endings, ending{r.clock + c.service, in, c.service})
	for i := len(r.endings) - 1; i > 0; {
		up := (i - 1) / 2
		if r.endings[up].at <= r.endings[i].at {
			break
		}
		r.endings[up], r.endings[i] = r.endings[i], r.endings[up]
		i = up
	}
}

// dispatch gives waiting calls to an instance.
func (r *replay) dispatch(in *unit) {
	for len(r.queue) > 0 && in.inflight < orchestrator.DefaultConcurrency {
		c := r.queue[0]
		r.queue = r.queue[1:]
		r.serve(in, c)
	}
}

// step is a kind of event.
type step int

const (
	nothing step = iota
	callEnds
	unitReady
	unitIdle // for long enough to go
	prewarmDue
)

// advance lets everything happen that is due up to and including now.
func (r *replay) advance(now time.Duration) {
	for {
		what, at, in := r.next()
		if what == nothing || at > now {
			break
		}
		r.clock = at
		switch what {
		case callEnds:
			r.end()
		case unitReady:
			in.starting, in.idleSince = false, at
			r.startup.Add(imageStart)
			r.dispatch(in)
		case unitIdle:
			r.remove(in)
		case prewarmDue:
			r.planned = r.idleSince
			r.out.prewarms++
			r.launch(-1).prewarmed = true
		}
	}
	r.clock = now
}

// next returns what happens next. Without a call in sight, that is nothing once
// the last instance has gone.
func (r *replay) next() (what step, at time.Duration, in *unit) {
	if len(r.endings) > 0 {
		what, at = callEnds, r.endings[0].at
	}
	for _, u := range r.units {
		switch {
		case u.starting:
			if what == nothing || u.readyAt < at {
				what, at, in = unitReady, u.readyAt, u
			}
		case u.inflight == 0:
			if t := r.removal(u); what == nothing || t < at {
				what, at, in = unitIdle, t, u
			}
		}
	}
	if len(r.units) == 0 && r.plan.Prewarm > 0 && r.idleSince >= 0 && r.planned != r.idleSince {
		t := max(r.clock, onTick(r.idleSince+r.plan.Prewarm))
		if t < r.idleSince+r.plan.Expire {
			return prewarmDue, t, nil // nothing else can be due without instances
		}
	}
	return what, at, in
}

// removal is when an idle instance goes, as in pool.retire.
func (r *replay) removal(in *unit) time.Duration {
	keep := r.plan.Remove
	if in.prewarmed && r.plan.Prewarm > 0 {
		keep = r.plan.Expire - r.plan.Prewarm
	}
	return onTick(in.idleSince + keep)
}

// onTick rounds up to the pool's next look.
func onTick(t time.Duration) time.Duration { return (t + tick - 1) / tick * tick }

// end ends the call that is over first.
func (r *replay) end() {
	done := r.endings[0]
	last := len(r.endings) - 1
	r.endings[0] = r.endings[last]
	r.endings = r.endings[:last]
	for i := 0; ; {
		child := 2*i + 1
		if child >= last {
			break
		}
		if child+1 < last && r.endings[child+1].at < r.endings[child].at {
			child++
		}
		if r.endings[i].at <= r.endings[child].at {
			break
		}
		r.endings[i], r.endings[child] = r.endings[child], r.endings[i]
		i = child
	}
	r.service.Add(done.service)
	if done.in.inflight--; done.in.inflight == 0 {
		done.in.idleSince = r.clock
	}
	r.dispatch(done.in)
	if r.calm() {
		r.idleSince = r.clock
	}
}

func (r *replay) remove(in *unit) {
	r.out.idle += r.clock - in.idleSince
	for i, u := range r.units {
		if u == in {
			r.units = append(r.units[:i], r.units[i+1:]...)
			return
		}
	}
}

// finish ends the trace: what is idle then was idle until then.
func (r *replay) finish(end time.Duration) outcome {
	r.advance(end)
	for _, in := range r.units {
		if !in.starting && in.inflight == 0 {
			r.out.idle += end - in.idleSince
		}
	}
	return r.out
}
