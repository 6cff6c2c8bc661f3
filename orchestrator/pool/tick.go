package pool

import (
	"time"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/capacity"
	"github.com/kilnfaas/kiln/orchestrator/scale"
)

// Tick does what time brings: once a second the windowed decision, freezing and
// removing what is idle, prewarming, keeping the minimum, and the end of drains
// that take too long.
func (p *Pool) Tick() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.active {
		return
	}
	now := p.now()
	p.endDrains(now)
	if p.phase != serving {
		return
	}
	p.settle(now)
	p.resize(now)
	p.retire(now)
	p.keepWarm(now)
	p.provision(now)
	if p.restful(now) {
		p.deactivate()
	}
}

// endDrains stops the instances whose time to finish is over.
func (p *Pool) endDrains(now instant) {
	for _, in := range p.instances {
		if in.state == Draining && now >= in.drainBy {
			p.stop(in, stopGrace)
		}
	}
}

// resize follows the windowed decision.
func (p *Pool) resize(now instant) {
	p.window.Add(p.load.average(now) + scale.Backlog(p.backlog, p.service.Value()))
	bounds := p.release.Spec.Scale
	starting := p.demand().Starting
	want, mode := scale.Decide(now, p.mode, scale.Fleet{
		Stable: p.window.Stable(), Panic: p.window.Panic(), Concurrency: p.concurrency,
		Ready: len(p.ready), Starting: starting,
		Min: bounds.Min, Max: bounds.Max,
	})
	p.mode = mode
	// Without a request in sight the past is no reason to wake anything.
	if have := len(p.ready) + starting; want > have && p.load.n > 0 {
		p.grow(want-have, now)
	} else if !mode.Panicking() {
		p.park(len(p.ready) - max(1, want))
	}
	p.trim(bounds.Max)
}

// grow adds instances ahead of demand, the cheapest first.
func (p *Pool) grow(n int, now instant) {
	if p.count[Ready] > 0 && p.cfg.Capacity.Saturated() {
		return
	}
	for _, in := range p.instances {
		if n > 0 && in.state == Ready && in.parked {
			in.parked = false
			p.offer(in)
			n--
		}
	}
	p.dispatch()
	for _, in := range p.instances {
		if n > 0 && in.state == Frozen {
			p.thaw(in, now, false)
			n--
		}
	}
	room := p.release.Spec.Scale.Max - p.live() - p.count[Starting]
	if p.crash.pausingBackground(now) {
		return
	}
	for range min(n, room) {
		p.launch(now, capacity.Background, false)
	}
}

// park takes instances out of use that the windows say are not needed. They stay
// warm, freeze when they are idle and are removed when the keep-alive is over,
// and come back at no cost when a burst does.
func (p *Pool) park(n int) {
	for ; n > 0 && len(p.ready) > 1; n-- {
		least := p.ready[0]
		for _, in := range p.ready {
			if in.inflight < least.inflight || in.inflight == least.inflight && in.idleSince < least.idleSince {
				least = in
			}
		}
		p.withhold(least)
		least.parked = true
	}
}

// trim ends instances above the maximum, idle ones first.
func (p *Pool) trim(limit int) {
	for surplus := p.live() - max(0, limit); surplus > 0; surplus-- {
		var least *instance
		for _, in := range p.instances {
			if in.state != Ready && in.state != Frozen {
				continue
			}
			if least == nil || in.inflight < least.inflight || in.inflight == least.inflight && in.idleSince < least.idleSince {
				least = in
			}
		}
		if least == nil {
			return
		}
		p.leave(least, ReasonSurplus)
	}
}

// retire freezes and removes what has been idle long enough. The most recently
// used are the minimum, which neither freezes nor goes.
func (p *Pool) retire(now instant) {
	plan := p.plan()
	spare := p.live() - p.release.Spec.Scale.Min
	for spare > 0 {
		in := p.longestIdle(now)
		if in == nil {
			return
		}
		spare--
		idle := now - in.idleSince
		remove := plan.Remove
		if in.prewarmed && plan.Prewarm > 0 {
			remove = plan.Expire - plan.Prewarm
		}
		if in.prewarmed { // one that was started fast would be gone before its call
			remove = max(remove, in.due-in.idleSince)
		}
		switch {
		case idle >= remove && (in.state == Ready || in.state == Frozen):
			p.leave(in, ReasonIdle)
		case in.state == Ready && plan.Freeze > 0 && (idle >= plan.Freeze || in.parked):
			p.freeze(in, now)
		}
		in.seen = now
	}
}

// longestIdle returns the idle instance that has not been looked at in this
// tick and was used least recently; nil if there is none.
func (p *Pool) longestIdle(now instant) *instance {
	var oldest *instance
	for _, in := range p.instances {
		if in.inflight > 0 || in.seen == now || in.state != Ready && in.state != Frozen {
			continue
		}
		if oldest == nil || in.idleSince < oldest.idleSince {
			oldest = in
		}
	}
	return oldest
}

// plan returns what happens to idle instances. A keep-alive other than the
// default is a wish of the function's owner and is kept to the letter; the
// default leaves it to what is learnt from the function's calls.
func (p *Pool) plan() scale.Plan {
	s := p.release.Spec.Scale
	settings := scale.Settings{
		FreezeAfter: time.Duration(s.FreezeAfter), KeepAlive: time.Duration(s.KeepAlive),
		Adaptive: s.KeepAlive == orchestrator.Duration(orchestrator.DefaultKeepAlive),
	}
	if p.cfg.NeverFreeze {
		settings.FreezeAfter = 0
	}
	return scale.PlanIdle(settings, &p.idle)
}

// keepWarm starts what the minimum lacks, and one instance when a call is
// expected soon.
func (p *Pool) keepWarm(now instant) {
	if p.crash.pausingBackground(now) {
		return
	}
	have := p.live() + p.count[Starting]
	for range p.release.Spec.Scale.Min - have {
		p.launch(now, capacity.Background, true)
	}
	if have == 0 && p.release.Spec.Scale.Min == 0 && p.prewarmDue(now) {
		p.planned = p.load.idleSince
		p.launch(now, capacity.Background, true).prewarmed = true
	}
}

// prewarmDue says whether the next call is expected soon and nothing has been
// started for it yet.
func (p *Pool) prewarmDue(now instant) bool {
	plan := p.plan()
	idle := p.idleFor(now)
	return plan.Prewarm > 0 && idle >= plan.Prewarm && idle < plan.Expire && p.planned != p.load.idleSince
}

// restful says whether nothing is left that time could change; mu is held.
func (p *Pool) restful(now instant) bool {
	if len(p.instances) > 0 || p.queue.len > 0 || p.release.Spec.Scale.Min > 0 {
		return false
	}
	plan := p.plan()
	awaiting := plan.Prewarm > 0 && p.load.idleSince != never && p.planned != p.load.idleSince && p.idleFor(now) < plan.Expire
	return !awaiting
}
