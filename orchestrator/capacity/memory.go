package capacity

import (
	"context"
	"math"
	"time"

	"github.com/kilnfaas/kiln/orchestrator"
)

// Tenant is somebody who has reservations and can give some up. Its methods are
// called without any lock of the Budget held and must not wait.
type Tenant interface {
	// Victim offers the idle instance that it can spare best; false if none.
	Victim() (Victim, bool)
	// Evict begins to end an idle instance, unless it has been used since. It
	// returns the reservation that will be given back, or nil.
	Evict(id string) *Reservation
}

// Victim is an idle instance on offer.
type Victim struct {
	ID    string
	Worth float64 // scale.Worth
}

// Join makes the Budget ask a tenant when memory is short. Leave undoes it.
func (b *Budget) Join(t Tenant) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.tenants[t] = struct{}{}
}

// Leave undoes Join.
func (b *Budget) Leave(t Tenant) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.tenants, t)
}

// Reservation is memory taken from a Budget.
type Reservation struct {
	budget   *Budget
	memory   orchestrator.Bytes
	evicting bool // guarded by budget.mu
	released bool // guarded by budget.mu
}

// Release gives the memory back. A second call does nothing, nor does one on nil.
func (r *Reservation) Release() {
	if r == nil {
		return
	}
	b := r.budget
	b.mu.Lock()
	defer b.mu.Unlock()
	if r.released {
		return
	}
	r.released = true
	b.used -= r.memory
	if r.evicting {
		b.evicting -= r.memory
	}
	b.grant()
}

// Force reserves memory that is in use already, by an adopted instance: it may
// exceed the bound.
func (b *Budget) Force(memory orchestrator.Bytes) *Reservation {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.used += memory
	return &Reservation{budget: b, memory: memory}
}

// Reserve takes memory for an instance of a function. When it is short, a
// Caller's claim has idle instances of any function ended; otherwise, and for
// Background, it waits in line. Errors: ErrExhausted when the bound is smaller
// than the claim, else ctx's.
func (b *Budget) Reserve(ctx context.Context, function string, memory orchestrator.Bytes, priority Priority) (*Reservation, error) {
	if memory > b.memory {
		return nil, orchestrator.Errorf(orchestrator.ErrExhausted, "no-capacity",
			"an instance needs %s of memory and all instances together may use %s", memory, b.memory).
			WithHint("lower the function's memory, or raise the gateway's memory budget")
	}
	t := newTicket(function, priority, memory)
	b.mu.Lock()
	b.forBytes.push(t)
	b.grant()
	b.mu.Unlock()
	select {
	case <-t.granted: // the usual case needs no timer
		return &Reservation{budget: b, memory: memory}, nil
	default:
	}
	again := time.NewTicker(reclaimInterval)
	defer again.Stop()
	for {
		if priority == Caller {
			b.reclaim()
		}
		select {
		case <-t.granted:
			return &Reservation{budget: b, memory: memory}, nil
		case <-again.C:
			b.again()
		case <-ctx.Done():
			return nil, b.withdraw(t, ctx.Err())
		}
	}
}

// withdraw takes a ticket out of the line, or gives back what it was granted in
// the same instant.
func (b *Budget) withdraw(t *ticket, err error) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.forBytes.remove(t) {
		b.used -= t.memory
	}
	b.leave(t, time.Now())
	b.grant()
	return err
}

// grant serves those in line for memory that fit; b.mu is held. A large claim
// that does not fit lets smaller ones pass, until they have passed it for too long.
func (b *Budget) grant() {
	if b.forBytes.len() == 0 {
		return
	}
	now := time.Now()
	for {
		b.hold.look(now, &b.forBytes)
		free := b.memory - b.used
		var larger []*ticket
		t := b.forBytes.pop(func(t *ticket) bool {
			if t.memory > free {
				larger = append(larger, t)
			}
			return t.memory <= free && b.hold.admits(t)
		})
		if t == nil {
			return
		}
		for _, l := range larger {
			if l.passed.IsZero() {
				l.passed = now
			}
		}
		b.used += t.memory
		b.leave(t, now)
		close(t.granted)
	}
}

// again looks whether a hold has begun or ended.
func (b *Budget) again() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.grant()
}

// leave ends the hold of a ticket that waits no more; b.mu is held.
func (b *Budget) leave(t *ticket, now time.Time) {
	if b.hold.of == t {
		b.hold.end(now)
	}
}

// reclaim has idle instances ended until what callers wait for is covered or
// nobody has any to spare.
func (b *Budget) reclaim() {
	for {
		b.mu.Lock()
		missing := b.forBytes.wanted(Caller) - (b.memory - b.used) - b.evicting
		tenants := make([]Tenant, 0, len(b.tenants))
		for t := range b.tenants {
			tenants = append(tenants, t)
		}
		b.mu.Unlock()
		if missing <= 0 || !b.evictOne(tenants) {
			return
		}
	}
}

// evictOne has the least worthy idle instance of all tenants ended.
func (b *Budget) evictOne(tenants []Tenant) bool {
	var from Tenant
	least := Victim{Worth: math.Inf(1)}
	for _, t := range tenants {
		if v, ok := t.Victim(); ok && (from == nil || v.Worth < least.Worth) {
			from, least = t, v
		}
	}
	if from == nil {
		return false
	}
	r := from.Evict(least.ID)
	if r == nil {
		return true // used since: look for another
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.evicted++
	if !r.released {
		r.evicting = true
		b.evicting += r.memory
	}
	if least.Worth > b.Clock() {
		b.clock.Store(math.Float64bits(least.Worth))
	}
	return true
}
