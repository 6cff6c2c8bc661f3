package pool

import (
	"fmt"
	"time"

	"github.com/kilnfaas/kiln/orchestrator/capacity"
)

// State is a state of an instance's life:
//
//	starting -> ready -> freezing -> frozen -> thawing -> ready
//	ready -> doubted -> ready
//	ready, doubted, freezing, frozen, thawing -> draining -> dead
//	any -> dead
//
// A freeze that fails leads back to ready.
type State uint8

// The states of an instance.
const (
	Starting State = iota // being launched; has no id yet
	Ready                 // takes requests
	Doubted               // lost a connection, or was adopted: takes none until it is seen to live
	Freezing              // idle, connections closed, being suspended
	Frozen                // suspended
	Thawing               // being resumed
	Draining              // takes no more requests; stopped when those in flight are done
	Dead                  // ended; being removed

	states = iota
)

// String returns the name used in Status.
func (s State) String() string {
	switch s {
	case Starting, Thawing, Doubted:
		return "starting"
	case Ready:
		return "ready"
	case Freezing, Frozen:
		return "frozen"
	case Draining:
		return "draining"
	case Dead:
		return "dead"
	}
	return fmt.Sprintf("State(%d)", uint8(s))
}

// next lists the allowed transitions.
var next = [states][]State{
	Starting: {Ready, Dead},
	Ready:    {Freezing, Doubted, Draining, Dead},
	Doubted:  {Ready, Draining, Dead},
	Freezing: {Frozen, Ready, Draining, Dead},
	Frozen:   {Thawing, Draining, Dead},
	Thawing:  {Ready, Draining, Dead},
	Draining: {Dead},
	Dead:     {},
}

// instance is one container of the pool's revision. Everything in it that
// changes is guarded by the pool's mutex.
type instance struct {
	id, addr, origin string // set before it is ready, then constant
	conns            Conns  // nil without a data plane
	reservation      *capacity.Reservation
	start            *start    // while starting
	startedAt        time.Time // for people
	launchedAt       instant   // when the start, or the last thaw, began
	readyAt          instant   // when it ended

	state     State
	inflight  int
	idleSince instant
	credit    float64       // greedy-dual clock at the last use
	parked    bool          // ready, but not picked while others do
	wanted    bool          // freezing: somebody waits, thaw at once
	prewarmed bool          // started in expectation of a call that has not come yet
	due       instant       // prewarmed: when that call should have come; 0 = not known
	stopping  bool          // a goroutine ends and removes it
	drainBy   instant       // draining: when it is stopped with requests in flight
	reason    string        // why it left
	used      bool          // has had a request
	blamed    bool          // its end was counted as a failure of the function
	seen      instant       // last tick that looked at it while idle
	end       *End          // how its container ended, once that is known
	fate      chan struct{} // closed when that is known, or that it lives; nil = nobody asks

	slot         int       // index in Pool.ready, or -1
	newer, older *instance // neighbours in Pool.free; see free.go
	listed       bool      // in Pool.free
}

// to is the one place where an instance changes its state. It keeps what the
// pool derives from states: the counts, the ready set and the list of free
// slots.
func (p *Pool) to(in *instance, state State) {
	allowed := false
	for _, s := range next[in.state] {
		allowed = allowed || s == state
	}
	if !allowed {
		panic(fmt.Sprintf("pool: instance %s cannot go from %d to %d", in.id, in.state, state))
	}
	if state != Ready {
		p.withhold(in)
		in.parked = false
	}
	if state != Freezing {
		in.wanted = false
	}
	p.count[in.state]--
	in.state = state
	p.count[state]++
	if state == Ready {
		p.offer(in)
	}
}

// add takes a new instance in: starting, or adopted as doubted or frozen.
func (p *Pool) add(in *instance, state State) {
	in.state, in.slot, in.seen = state, -1, never
	p.instances = append(p.instances, in)
	p.count[state]++
	if state == Ready {
		p.offer(in)
	}
}

// drop forgets an instance that has been removed.
func (p *Pool) drop(in *instance) {
	in.settleFate(nil)
	for i, other := range p.instances {
		if other == in {
			last := len(p.instances) - 1
			p.instances[i] = p.instances[last]
			p.instances[last] = nil
			p.instances = p.instances[:last]
			p.count[in.state]--
			break
		}
	}
	if len(p.instances) == 0 {
		p.instances, p.ready = nil, nil
		p.calls = 0 // FaasCache counts from the first instance on
	}
}

// find returns the instance of a container, or nil; mu is held.
func (p *Pool) find(id string) *instance {
	for _, in := range p.instances {
		if in.id == id && id != "" {
			return in
		}
	}
	return nil
}

// live returns how many instances serve or could, without those starting.
func (p *Pool) live() int {
	return p.count[Ready] + p.count[Doubted] + p.count[Freezing] + p.count[Frozen] + p.count[Thawing]
}
