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
	w := p.queue.take(now)
	p.arrive(now)
	p.queue.push(w)
	p.provision(now)
	p.mu.Unlock()

	select {
	case g := <-w.granted:
		return p.accept(w, g)
	case <-ctx.Done():
		return p.abandon(ctx, w)
	}
}

// accept makes the lease of a request that waited.
func (p *Pool) accept(w *waiter, g grant) (Lease, error) {
	p.mu.Lock()
	now := p.now()
	since := w.since
	p.queue.recycle(w)
	lease := Lease{pool: p, instance: g.in, since: now, queued: now - since}
	if g.in != nil {
		lease.started = max(0, min(g.in.readyAt, now)-max(g.in.launchedAt, since))
	}
	p.mu.Unlock()
	p.cfg.Observer.Queued(p.name, now-since)
	if g.err != nil {
		return Lease{}, g.err
	}
	return lease, nil
}

// abandon takes a waiter whose time is over out of the queue. When it has been
// served in the same instant, that counts.
func (p *Pool) abandon(ctx context.Context, w *waiter) (Lease, error) {
	p.mu.Lock()
	if !w.queued {
		p.mu.Unlock()
		return p.accept(w, <-w.granted)
	}
	now := p.now()
	since := w.since
	err := p.abandoned(ctx)
	p.queue.remove(w)
	p.queue.recycle(w)
	p.load.leave(now)
	p.stats.Abandoned++
	p.callOff()
	p.mu.Unlock()
	p.cfg.Observer.Queued(p.name, now-since)
	return Lease{}, err
}

// abandoned tells why a request waited in vain; mu is held.
func (p *Pool) abandoned(ctx context.Context) error {
	if !errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return ctx.Err()
	}
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
	// Where nothing runs and nothing is coming, the request has to wait whatever the
	// last starts took: only a new one can tell that they take less by now.
	if deadline, ok := ctx.Deadline(); ok && d.Ready+d.Starting > 0 {
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
		Ready: p.count[Ready], Starting: p.count[Starting] + p.count[Thawing] + p.count[Doubted],
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
