package pool

import (
	"context"
	"errors"
	"time"

	"github.com/kilnfaas/kiln/orchestrator"
)

// freezeTimeout bounds a freeze or a thaw: the engine's takes 8 ms, under load
// some hundred.
const freezeTimeout = 10 * time.Second

// freeze suspends an idle instance; mu is held. From here on the instance is not
// picked; a request that comes meanwhile waits until it is frozen and has it
// thawed, so that nothing is ever sent to a frozen one.
func (p *Pool) freeze(in *instance, now instant) {
	p.to(in, Freezing)
	p.spawn(func() {
		if in.conns != nil {
			in.conns.CloseIdle()
		}
		ctx, cancel := context.WithTimeout(p.ctx, freezeTimeout)
		defer cancel()
		err := p.cfg.Launcher.Freeze(ctx, in.id)
		p.mu.Lock()
		defer p.mu.Unlock()
		p.frozen(in, err)
	})
}

// frozen takes in what came of a freeze; mu is held.
func (p *Pool) frozen(in *instance, err error) {
	if in.state != Freezing { // died, or is being stopped
		return
	}
	now := p.now()
	switch {
	case errors.Is(err, orchestrator.ErrNotFound):
		p.died(in, now, "was not there when it was to be frozen")
	case err != nil:
		// Running is the safe state. It is tried again after another idle time.
		p.cfg.Logger.Warn("freeze an instance", "function", p.name, "container_id", in.id, "error", err)
		in.idleSince = now
		p.thaw(in, now, true)
	default:
		wanted := in.wanted
		p.to(in, Frozen)
		p.stats.Freezes++
		if wanted {
			p.thaw(in, now, false)
		}
		p.provision(now)
	}
}

// thaw resumes a frozen instance; mu is held. After a failed freeze (undo) it is
// not known what state the container is in, and thawing is idempotent.
func (p *Pool) thaw(in *instance, now instant, undo bool) {
	if undo {
		p.to(in, Frozen)
	}
	p.to(in, Thawing)
	in.launchedAt = now
	p.spawn(func() {
		ctx, cancel := context.WithTimeout(p.ctx, freezeTimeout)
		defer cancel()
		err := p.cfg.Launcher.Thaw(ctx, in.id)
		p.mu.Lock()
		took := p.now() - now
		thawed := p.thawed(in, err)
		p.mu.Unlock()
		if thawed {
			p.cfg.Observer.Thawed(p.name, took)
		}
	})
}

// thawed takes in what came of a thaw; mu is held.
func (p *Pool) thawed(in *instance, err error) bool {
	if in.state != Thawing {
		return false
	}
	now := p.now()
	if err != nil {
		if p.ctx.Err() == nil {
			p.cfg.Logger.Warn("thaw an instance", "function", p.name, "container_id", in.id, "error", err)
		}
		p.leave(in, ReasonStuck)
		p.provision(now)
		return false
	}
	p.stats.Thaws++
	in.readyAt = now
	in.idleSince = now
	p.to(in, Ready)
	p.dispatch()
	return true
}

// thawFor resumes as many frozen instances as the queue fills, the most recently
// used first; mu is held. Unlike a start this costs next to nothing, so there is
// no weighing against what the ready ones will have done meanwhile.
func (p *Pool) thawFor(now instant) {
	need := (p.queue.len+p.concurrency-1)/p.concurrency - p.count[Thawing]
	for _, in := range p.instances {
		if in.state == Freezing && in.wanted {
			need--
		}
	}
	for ; need > 0; need-- {
		var latest *instance
		for _, in := range p.instances {
			if in.state != Frozen && (in.state != Freezing || in.wanted) {
				continue
			}
			if latest == nil || in.idleSince > latest.idleSince {
				latest = in
			}
		}
		switch {
		case latest == nil:
			return
		case latest.state == Freezing:
			latest.wanted = true
		default:
			p.thaw(latest, now, false)
		}
	}
}
