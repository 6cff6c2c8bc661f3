package pool

import (
	"context"
	"errors"
	"time"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/scale"
)

// minRetryAfter is the least that a refused client is asked to wait: the unit of
// the Retry-After header is the second.
const minRetryAfter = time.Second

// wait queues a request; mu is held on entry and released.
func (p *Pool) wait(ctx context.Context, now instant) (Lease, error) {
	if err := p.refusal(ctx, now); err != nil {
		p.mu.Unlock()
		return Lease{}, err
	}
	p.activate()
	w := waiters.Get().(*waiter)
	w.since = now
	p.arrive(now)
	p.queue.push(w)
	p.provision(now)
	p.mu.Unlock()

	var g grant
	select {
	case g = <-w.granted:
	case <-ctx.Done():
		var left bool
		if g, left = p.abandon(w); left {
			err := p.abandoned(ctx)
			p.cfg.Observer.Queued(p.name, p.now()-w.since)
			waiters.Put(w)
			return Lease{}, err
		}
	}
	since := w.since
	waiters.Put(w)
	if g.err != nil {
		return Lease{}, g.err
	}
	return p.leaseAfter(g.in, since), nil
}

// leaseAfter makes the lease of a request that waited.
func (p *Pool) leaseAfter(in *instance, since instant) Lease {
	now := p.now()
	p.mu.Lock()
	begun, ended := max(in.launchedAt, since), min(in.readyAt, now)
	p.mu.Unlock()
	p.cfg.Observer.Queued(p.name, now-since)
	return Lease{pool: p, instance: in, since: now, queued: now - since, started: max(0, ended-begun)}
}

// abandon takes a waiter whose time is over out of the queue. When it has been
// served in the same instant, it returns what it was given instead.
func (p *Pool) abandon(w *waiter) (g grant, left bool) {
	p.mu.Lock()
	if !w.queued {
		p.mu.Unlock()
		return <-w.granted, false
	}
	p.queue.remove(w)
	p.load.leave(p.now())
	p.stats.Abandoned++
	p.callOff()
	p.mu.Unlock()
	return grant{}, true
}

// abandoned tells why a request waited in vain.
func (p *Pool) abandoned(ctx context.Context) error {
	if !errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return ctx.Err()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.shortOfMemory() {
		err := orchestrator.Errorf(orchestrator.ErrExhausted, "no-capacity",
			"no instance of %s could be started in time: all memory for instances is in use", p.name).
			WithHint("retry later, lower the memory of functions, or raise the gateway's memory budget")
		err.RetryAfter = minRetryAfter
		return err
	}
	return orchestrator.Errorf(orchestrator.ErrDeadline, "deadline-in-queue",
		"no instance of %s became free within the time limit", p.name).
		WithHint("raise scale.max or concurrency, or the timeout")
}

// refusal says why a request cannot even wait; nil if it can. mu is held.
func (p *Pool) refusal(ctx context.Context, now instant) error {
	switch p.phase {
	case draining:
		return ErrDraining
	case closed:
		return shuttingDown()
	}
	if err := p.crashing(now); err != nil {
		return err
	}
	d := p.demand()
	if d.Waiting >= scale.QueueLimit(d) {
		p.stats.Shed++
		return p.shed("queue-full", scale.Wait(d), "%d requests to %s are waiting, which is the limit", d.Waiting, p.name)
	}
	if deadline, ok := ctx.Deadline(); ok {
		if wait := scale.Wait(d); wait > 0 && wait > time.Until(deadline) {
			p.stats.Shed++
			return p.shed("overloaded", wait, "a request to %s would wait about %s, longer than its time limit",
				p.name, wait.Round(time.Millisecond))
		}
	}
	return nil
}

func (p *Pool) shed(code string, wait time.Duration, format string, args ...any) error {
	err := orchestrator.Errorf(orchestrator.ErrExhausted, code, format, args...).
		WithHint("retry after a while; raise scale.max or concurrency if this is the usual load")
	err.RetryAfter = max(minRetryAfter, wait)
	return err
}

func shuttingDown() error {
	return orchestrator.Errorf(orchestrator.ErrUnavailable, "shutting-down", "the gateway is shutting down").
		WithHint("retry in a few seconds")
}

// flush answers everybody who waits with an error; mu is held.
func (p *Pool) flush(err error) {
	now := p.now()
	for w := p.queue.pop(); w != nil; w = p.queue.pop() {
		p.load.leave(now)
		w.granted <- grant{err: err}
	}
}

// demand describes the pool for package scale; mu is held.
func (p *Pool) demand() scale.Demand {
	d := scale.Demand{
		Concurrency: p.concurrency, Waiting: p.queue.len,
		Ready: p.count[Ready], Starting: p.count[Starting] + p.count[Thawing],
		Service: p.service.Value(), Start: p.startup.Value(),
	}
	for _, in := range p.instances {
		switch {
		case in.state == Ready:
			d.Free += p.concurrency - in.inflight
		case in.state == Freezing && in.wanted:
			d.Starting++
		}
	}
	return d
}
