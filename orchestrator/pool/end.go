package pool

import (
	"context"
	"time"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/capacity"
	"github.com/kilnfaas/kiln/orchestrator/scale"
)

const (
	// DrainTimeout is how long an instance that leaves may finish what is in flight.
	DrainTimeout = 30 * time.Second
	// stopGrace is what an idle instance gets between SIGTERM and SIGKILL.
	stopGrace = 5 * time.Second
	// evictGrace is the same when its memory is wanted by somebody who waits.
	evictGrace = time.Second
	// stopTimeout bounds a stop beside its grace.
	stopTimeout = 30 * time.Second
)

// suspect takes out an instance that does not accept connections; mu is held.
func (p *Pool) suspect(in *instance, now instant) {
	if in.state != Ready && in.state != Doubted {
		return
	}
	if now-in.readyAt < scale.StableAfter {
		in.blamed = true
		p.crash.failed(now, orchestrator.Errorf(orchestrator.ErrFunction, "instance-unreachable", "an instance of %s does not accept connections", p.name))
	}
	p.leave(in, ReasonUnreachable)
	p.provision(now)
}

// verifyTimeout bounds how long a doubted instance is held back. One that
// accepts a connection and says nothing for as long is busy, not dead.
const verifyTimeout = 500 * time.Millisecond

// doubt holds an instance back until it is known whether it lives; mu is held.
func (p *Pool) doubt(in *instance) {
	if in.state != Ready || p.phase != serving {
		return
	}
	p.to(in, Doubted)
	p.verify(in, p.now())
}

// verifyPause is between two looks at an adopted instance that may still start.
const verifyPause = 20 * time.Millisecond

// verify has a doubted instance looked at, again until it is well or the time
// given has passed; mu is held.
func (p *Pool) verify(in *instance, until instant) {
	release, launched := *p.release, Launched{ID: in.id, Addr: in.addr, Origin: in.origin}
	look := func() error {
		ctx, cancel := context.WithTimeout(p.ctx, verifyTimeout)
		defer cancel()
		return p.cfg.Launcher.Verify(ctx, release, launched)
	}
	p.spawn(func() {
		err := look()
		for err != nil && p.now() < until && p.inDoubt(in) {
			select {
			case <-time.After(verifyPause):
			case <-p.ctx.Done():
			}
			err = look()
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		p.verified(in, err)
	})
}

func (p *Pool) inDoubt(in *instance) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return in.state == Doubted && p.phase == serving
}

// verified ends a doubt; mu is held.
func (p *Pool) verified(in *instance, err error) {
	if in.state != Doubted || p.phase == closed { // the engine has spoken meanwhile, or the pool is draining
		return
	}
	if err != nil {
		p.cfg.Logger.Info("an instance stopped to take connections", "function", p.name, "container_id", in.id, "error", err)
		p.suspect(in, p.now())
		return
	}
	in.settleFate(nil)
	p.to(in, Ready)
	p.dispatch()
}

// leave has an instance finish what is in flight and end; mu is held.
func (p *Pool) leave(in *instance, reason string) {
	p.to(in, Draining)
	in.reason, in.drainBy = reason, p.now()+DrainTimeout
	if in.inflight == 0 {
		p.stop(in, stopGrace)
	}
}

// stop ends and removes an instance that takes no more requests; mu is held.
func (p *Pool) stop(in *instance, grace time.Duration) {
	if in.stopping {
		return
	}
	in.stopping = true
	p.spawn(func() { p.end(in, grace) })
}

// end is what stop does in its goroutine.
func (p *Pool) end(in *instance, grace time.Duration) {
	if in.conns != nil {
		in.conns.CloseIdle()
	}
	ctx, cancel := context.WithTimeout(p.ctx, grace+stopTimeout)
	defer cancel()
	if err := p.cfg.Launcher.Stop(ctx, in.id, grace); err != nil && p.ctx.Err() == nil {
		// It is nobody's now, so the next reconciliation removes it.
		p.cfg.Logger.Warn("stop an instance", "function", p.name, "container_id", in.id, "error", err)
	}
	in.reservation.Release()
	p.mu.Lock()
	if in.state != Dead {
		p.to(in, Dead)
	}
	p.drop(in)
	p.finishDrain()
	reason := in.reason
	p.mu.Unlock()
	if reason != "" {
		p.cfg.Observer.Ended(p.name, reason)
	}
}

// Victim offers the idle instance of least worth; see capacity.Tenant. The
// minimum is not on offer.
func (p *Pool) Victim() (capacity.Victim, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.phase != serving || p.live() <= p.release.Spec.Scale.Min {
		return capacity.Victim{}, false
	}
	var victim capacity.Victim
	found := false
	for _, in := range p.instances {
		if !evictable(in) {
			continue
		}
		worth := scale.Worth(in.credit, p.calls, p.startup.Value(), int64(p.release.Spec.Resources.Memory))
		if !found || worth < victim.Worth {
			victim, found = capacity.Victim{ID: in.id, Worth: worth}, true
		}
	}
	return victim, found
}

func evictable(in *instance) bool {
	return in.inflight == 0 && (in.state == Ready || in.state == Frozen)
}

// Evict ends an instance that Victim offered, if it is still idle.
func (p *Pool) Evict(id string) *capacity.Reservation {
	p.mu.Lock()
	defer p.mu.Unlock()
	in := p.find(id)
	if in == nil || !evictable(in) {
		return nil
	}
	p.to(in, Draining)
	in.reason = ReasonEvicted
	p.stop(in, evictGrace)
	return in.reservation
}

// Drain makes the pool take no more requests: those that wait get ErrDraining,
// those in flight have DrainTimeout, and the instances end. It returns at once;
// Gone tells when nothing is left.
func (p *Pool) Drain() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.phase != serving {
		return
	}
	p.phase = draining
	p.flush(ErrDraining)
	p.callOffIf(func(*start) bool { return true })
	for _, in := range p.instances {
		if in.state != Dead && in.state != Draining {
			p.leave(in, ReasonDrained)
		}
	}
	p.finishDrain()
}

// Gone is closed when a draining pool has no instance left.
func (p *Pool) Gone() <-chan struct{} { return p.gone }

// finishDrain tells that nothing is left; mu is held.
func (p *Pool) finishDrain() {
	if p.phase != draining || len(p.instances) > 0 {
		return
	}
	select {
	case <-p.gone:
	default:
		close(p.gone)
		p.deactivate()
	}
}

// Close ends the pool but not its instances, which the next gateway adopts. It
// takes no more requests, waits until none is in flight or ctx ends, and returns
// when every goroutine of the pool has ended. Starts under way are called off.
func (p *Pool) Close(ctx context.Context) error {
	p.mu.Lock()
	p.phase = closed
	p.flush(shuttingDown())
	p.callOffIf(func(*start) bool { return true })
	p.deactivate()
	var calm chan struct{}
	if p.inflight > 0 {
		if p.calm == nil {
			p.calm = make(chan struct{})
		}
		calm = p.calm
	}
	p.mu.Unlock()

	var err error
	if calm != nil {
		select {
		case <-calm:
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	stop := context.AfterFunc(ctx, p.cancel)
	defer stop()
	p.work.Wait()
	p.cancel()
	return err
}
