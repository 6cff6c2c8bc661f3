package pool

import "context"

// End is how an instance's container ended.
type End struct {
	ExitCode int
	OOM      bool // it was killed for using more memory than it may
}

// Fate tells how an instance ends on which a call broke. It outlives the lease.
type Fate struct {
	instance *instance
	pool     *Pool
	known    <-chan struct{}
}

// Fate returns what tells how the lease's instance ends. It is asked for before
// the lease is released.
func (l *Lease) Fate() Fate {
	p := l.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	in := l.instance
	if in.end != nil || in.state == Dead {
		return Fate{instance: in, pool: p, known: told}
	}
	if in.fate == nil {
		in.fate = make(chan struct{})
	}
	return Fate{instance: in, pool: p, known: in.fate}
}

// told is the channel of fates that are known already.
var told = func() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

// Await returns how the instance ended: the engine tells it some milliseconds
// after its connections have ended. ok is false when the instance turns out to
// live, or nothing is known of it when ctx ends.
func (f Fate) Await(ctx context.Context) (end End, ok bool) {
	select {
	case <-f.known:
	case <-ctx.Done():
	}
	f.pool.mu.Lock()
	defer f.pool.mu.Unlock()
	if f.instance.end == nil {
		return End{}, false
	}
	return *f.instance.end, true
}

// settleFate tells those who wait for an instance's fate; end is nil when it
// lives, or nothing will be known. The pool's mu is held.
func (in *instance) settleFate(end *End) {
	if in.end == nil {
		in.end = end
	}
	if in.fate != nil {
		close(in.fate)
		in.fate = nil // a later doubt is another one
	}
}
