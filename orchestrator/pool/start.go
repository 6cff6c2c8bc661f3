package pool

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/capacity"
	"github.com/kilnfaas/kiln/orchestrator/scale"
)

// start is a launch under way.
type start struct {
	cancel   context.CancelFunc
	priority capacity.Priority
	pinned   bool // goes on even when nobody waits any more
	proof    bool // of the image itself
	admitted bool // has its memory
	done     chan struct{}
	err      error // set before done is closed
}

// provision brings up what the waiting requests need; mu is held. It is called
// after everything that may change the answer: a request was queued, an
// instance left, a start failed.
func (p *Pool) provision(now instant) {
	if p.queue.len == 0 || p.phase != serving {
		return
	}
	p.unpark()
	p.dispatch()
	if p.queue.len == 0 {
		return
	}
	if p.count[Ready] > 0 && p.cfg.Capacity.Saturated() {
		return // more instances would only thrash
	}
	p.thawFor(now)
	d := p.demand()
	room := p.release.Spec.Scale.Max - p.live() - p.count[Starting]
	if n := min(scale.Burst(d), room); n > 0 && !p.crash.pausing(now) {
		for range n {
			p.launch(now, capacity.Caller, false)
		}
	}
	if d := p.demand(); d.Ready+d.Starting == 0 && p.count[Starting] == 0 {
		// Nothing serves, nothing comes: waiting would be in vain.
		if err := p.crashing(now); err != nil {
			p.flush(err)
		}
	}
}

// unpark brings parked instances back when all others are busy; mu is held.
func (p *Pool) unpark() {
	room := p.queue.len
	for _, in := range p.instances {
		if room <= 0 {
			return
		}
		if in.state == Ready && in.parked {
			in.parked = false
			p.offer(in)
			room -= p.concurrency - in.inflight
		}
	}
}

// launch begins a start; mu is held.
func (p *Pool) launch(now instant, priority capacity.Priority, pinned bool) *instance {
	p.activate()
	ctx, cancel := context.WithCancel(p.ctx)
	s := &start{cancel: cancel, priority: priority, pinned: pinned, done: make(chan struct{})}
	in := &instance{start: s, launchedAt: now, startedAt: time.Now()}
	p.add(in, Starting)
	release := *p.release
	p.spawn(func() {
		defer cancel()
		launched, reservation, err := p.bringUp(ctx, release, s)
		p.started(in, launched, reservation, err)
	})
	return in
}

// bringUp gets memory and has an instance launched.
func (p *Pool) bringUp(ctx context.Context, release orchestrator.Release, s *start) (Launched, *capacity.Reservation, error) {
	reservation, err := p.cfg.Capacity.Reserve(ctx, p.name, release.Spec.Resources.Memory, s.priority)
	if err != nil {
		return Launched{}, nil, err
	}
	p.mu.Lock()
	s.admitted = true
	order := Order{Release: release, Priority: s.priority, Proof: s.proof}
	p.mu.Unlock()
	launched, err := p.cfg.Launcher.Launch(ctx, order)
	if err != nil {
		reservation.Release()
		return Launched{}, nil, err
	}
	return launched, reservation, nil
}

// started takes in what came of a start.
func (p *Pool) started(in *instance, launched Launched, reservation *capacity.Reservation, err error) {
	s := in.start
	if err != nil {
		p.mu.Lock()
		p.startFailed(in, err, p.now())
		p.mu.Unlock()
	} else if !p.enlist(in, launched, reservation) {
		p.end(in, 0)
	}
	s.err = err
	close(s.done)
	if !errors.Is(err, context.Canceled) {
		p.cfg.Observer.Started(p.name, launched.Origin, p.now()-in.launchedAt, err)
	}
}

// enlist makes a launched instance ready. It reports false when the start was
// called off meanwhile.
func (p *Pool) enlist(in *instance, launched Launched, reservation *capacity.Reservation) bool {
	var conns Conns
	if p.cfg.NewConns != nil {
		conns = p.cfg.NewConns(launched)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	if p.find(launched.ID) != nil && in.state == Starting {
		// Adopted in the moment between the start's end and now.
		reservation.Release()
		p.to(in, Dead)
		p.drop(in)
		p.forgetEarly()
		return true
	}
	in.id, in.addr, in.origin = launched.ID, launched.Addr, launched.Origin
	in.conns, in.reservation = conns, reservation
	in.readyAt, in.idleSince, in.credit = now, now, p.cfg.Capacity.Clock()
	if in.state == Dead {
		in.stopping = true
		return false
	}
	p.startup.Add(now - in.launchedAt)
	p.stats.started(launched.Origin)
	if slices.Contains(p.early, launched.ID) {
		p.died(in, now, "ended as soon as it was ready")
	} else {
		p.to(in, Ready)
		p.dispatch()
	}
	p.forgetEarly()
	return true
}

// startFailed draws the conclusions from a failed start; mu is held.
func (p *Pool) startFailed(in *instance, err error, now instant) {
	calledOff := in.state == Dead
	if !calledOff {
		p.to(in, Dead)
	}
	p.drop(in)
	p.forgetEarly()
	p.finishDrain()
	if calledOff {
		return
	}
	if errors.Is(err, context.Canceled) { // by whoever wanted proof
		p.provision(now)
		return
	}
	p.stats.StartsFailed++
	p.crash.failed(now, err)
	if p.live()+p.count[Starting] == 0 {
		p.flush(startError(err, p.name))
		return
	}
	p.provision(now)
}

// startError is what requests get that waited for a start that failed. Classes
// that would blame the request (not found, invalid) become ErrUnavailable.
func startError(err error, function string) error {
	var known *orchestrator.Error
	if errors.As(err, &known) {
		switch known.Class {
		case orchestrator.ErrFunction, orchestrator.ErrExhausted, orchestrator.ErrUnavailable:
			return err
		}
	}
	return orchestrator.Errorf(orchestrator.ErrUnavailable, "instance-start-failed",
		"an instance of %s could not be started: %v", function, err).WithHint("retry; a new deploy may help")
}

// callOff cancels the starts that nobody waits for any more and that have not
// got their memory yet; mu is held. Those that have are nearly there and leave a
// warm instance behind.
func (p *Pool) callOff() {
	if p.queue.len > 0 {
		return
	}
	p.callOffIf(func(s *start) bool { return !s.admitted && !s.pinned })
}

func (p *Pool) callOffIf(which func(*start) bool) {
	for _, in := range p.instances {
		if in.state == Starting && which(in.start) {
			in.start.cancel()
			p.to(in, Dead)
		}
	}
}

// shortOfMemory says whether what the queue waits for is memory; mu is held.
func (p *Pool) shortOfMemory() bool {
	if p.count[Ready] > 0 {
		return false
	}
	for _, in := range p.instances {
		if in.state == Starting && !in.start.admitted {
			return true
		}
	}
	return false
}

// Prove starts one instance and returns once it is ready, or why it is not.
func (p *Pool) Prove(ctx context.Context) error {
	p.mu.Lock()
	if p.phase != serving {
		p.mu.Unlock()
		return ErrDraining
	}
	in := p.launch(p.now(), capacity.Caller, true)
	s := in.start
	s.proof = true // the start's goroutine looks only once it has got mu
	p.mu.Unlock()
	stop := context.AfterFunc(ctx, s.cancel)
	defer stop()
	<-s.done
	switch {
	case s.err != nil && ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(s.err, context.Canceled): // by Close or Drain
		return shuttingDown()
	}
	return s.err
}
