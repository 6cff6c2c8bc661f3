package pool

import (
	"time"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/scale"
)

// Stats counts what happened since the pool began.
type Stats struct {
	Acquired     uint64 // leases given
	Failed       uint64 // released as Failed
	Unreachable  uint64 // released as Unreachable
	Shed         uint64 // refused for a full queue or too long a wait
	Abandoned    uint64 // gave up waiting
	FromImage    uint64 // instances started, by origin
	FromCell     uint64
	StartsFailed uint64
	Freezes      uint64
	Thaws        uint64
	Died         uint64 // instances that ended by themselves
}

func (s *Stats) started(origin string) {
	switch origin {
	case OriginImage:
		s.FromImage++
	case OriginCell:
		s.FromCell++
	}
}

// Stats returns the counters.
func (p *Pool) Stats() Stats {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stats
}

// Status describes the pool's instances.
func (p *Pool) Status() orchestrator.FunctionStatus {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := orchestrator.FunctionStatus{
		Ready: p.count[Ready], Frozen: p.count[Freezing] + p.count[Frozen],
		Starting: p.count[Starting] + p.count[Thawing] + p.count[Doubted], Draining: p.count[Draining],
		Waiting: p.queue.len, InFlight: p.inflight,
	}
	for _, in := range p.instances {
		if in.state == Dead {
			continue
		}
		s.Instances = append(s.Instances, p.describe(in))
	}
	if p.crash.failures > 1 {
		s.CrashLoop = &orchestrator.CrashLoop{
			Failures: p.crash.failures, NextStart: p.epoch.Add(p.crash.until), LastError: p.crash.last.Error(),
		}
	}
	return s
}

func (p *Pool) describe(in *instance) orchestrator.InstanceStatus {
	s := orchestrator.InstanceStatus{
		ID: in.id, Revision: p.release.Revision.ID, State: in.state.String(),
		InFlight: in.inflight, StartedAt: in.startedAt, Origin: in.origin,
	}
	if in.used {
		s.LastUsed = time.Now()
		if in.inflight == 0 {
			s.LastUsed = p.epoch.Add(in.idleSince)
		}
	}
	return s
}

// Owns says whether a container is an instance of the pool, in whatever state.
func (p *Pool) Owns(id string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.find(id) != nil
}

// adoptPatience is how long an instance that another gateway started may take
// from its container's start until it takes requests, as long as any start.
const adoptPatience = 60 * time.Second

// Adopt takes in an instance that runs already, frozen or not, and says whether
// it did: a pool that is draining or closed does not. One that the pool has is
// no second instance. A running one takes requests once it was seen to, as the
// gateway may have died while it was starting.
func (p *Pool) Adopt(launched Launched, frozen bool, startedAt time.Time) bool {
	var conns Conns
	if p.cfg.NewConns != nil {
		conns = p.cfg.NewConns(launched)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.find(launched.ID) != nil {
		return true
	}
	if p.phase != serving {
		return false
	}
	p.activate()
	now := p.now()
	in := &instance{
		id: launched.ID, addr: launched.Addr, origin: launched.Origin, conns: conns,
		reservation: p.cfg.Capacity.Force(p.release.Spec.Resources.Memory),
		startedAt:   startedAt, launchedAt: now, readyAt: now - scale.StableAfter, idleSince: now,
	}
	if frozen { // it was ready once
		p.add(in, Frozen)
		p.provision(now)
		return true
	}
	p.add(in, Doubted)
	p.verify(in, now+adoptPatience-time.Since(startedAt))
	return true
}

// Inherit takes over what another pool of the same function has learnt: its idle
// times, its usual service and start times.
func (p *Pool) Inherit(from *Pool) {
	from.mu.Lock()
	idle, since := from.idle.Clone(), from.load.idleSince
	service, startup := from.service, from.startup
	epoch := from.epoch
	from.mu.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.idle, p.service, p.startup = idle, service, startup
	if p.load.idleSince == never && since != never {
		p.load.idleSince = since + epoch.Sub(p.epoch)
	}
}

// Slots returns how many requests the ready instances can have at one time; at
// least those of one instance, which is started when one comes.
func (p *Pool) Slots() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.concurrency * max(1, len(p.ready))
}

// Backlog tells how many asynchronous calls are due and wait outside of the
// pool: instances are started for them as for requests, once a second, and not
// beyond what empties the backlog soon enough.
func (p *Pool) Backlog(calls int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.backlog = calls
}
