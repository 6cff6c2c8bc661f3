package pool

import "time"

// Outcome is what became of a request.
type Outcome uint8

// The outcomes.
const (
	// Done: the function answered, or the client went away.
	Done Outcome = iota
	// Failed: the function answered badly, or died while it did.
	Failed
	// Broken: the connection ended before the answer did. The instance may be
	// dying, and takes no more requests until it has been looked at.
	Broken
	// Unreachable: the connection was refused or reset before a byte was sent.
	// The instance is suspect and leaves the pool.
	Unreachable
)

// Lease is the right to send one request to an instance. It is a value; it is
// released exactly once, and not used after that.
type Lease struct {
	pool     *Pool
	instance *instance
	since    instant // when it was given
	queued   time.Duration
	started  time.Duration
}

// Addr returns the instance's "IP:port".
func (l *Lease) Addr() string { return l.instance.addr }

// InstanceID returns the instance's container id.
func (l *Lease) InstanceID() string { return l.instance.id }

// Origin returns where the instance came from.
func (l *Lease) Origin() string { return l.instance.origin }

// Conns returns what Config.NewConns made for the instance; nil without it.
func (l *Lease) Conns() Conns { return l.instance.conns }

// Waited returns how long the request waited for its slot, and the part of that
// time in which the instance was being started or thawed. Both are 0 on the
// warm path.
func (l *Lease) Waited() (queue, start time.Duration) { return l.queued, l.started }

// Gone says whether the instance was taken out since: what answers at its address
// may be another container. It is asked for before the lease is released.
func (l *Lease) Gone() bool {
	l.pool.mu.Lock()
	defer l.pool.mu.Unlock()
	return l.instance.state == Dead
}

// Release gives the slot back. The data plane has put the connection back into
// Conns, or closed it, before. A second call does nothing.
func (l *Lease) Release(outcome Outcome) {
	p := l.pool
	if p == nil {
		return
	}
	l.pool = nil
	p.giveBack(l.instance, l.since, outcome)
}
