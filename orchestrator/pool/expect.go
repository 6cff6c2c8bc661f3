package pool

import (
	"time"

	"github.com/kilnfaas/kiln/orchestrator/capacity"
)

const (
	// wakeFactor and wakeMargin are how much longer than usual a start may take for
	// an instance that is woken ahead of a call to be ready for it.
	wakeFactor = 2
	wakeMargin = 250 * time.Millisecond
	// wakeUnknown is for functions that never started; wakeMax bounds the rest: a
	// start that takes longer is no reason to hold memory for.
	wakeUnknown = time.Second
	wakeMax     = 30 * time.Second
)

// WakeTime returns how long before a call that is foreseen the function should be
// woken.
func (p *Pool) WakeTime() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.wakeTime()
}

func (p *Pool) wakeTime() time.Duration {
	if p.startup.Value() == 0 {
		return wakeUnknown
	}
	return min(wakeFactor*p.startup.Value()+wakeMargin, wakeMax)
}

// Expect tells that a call comes within WakeTime: when there is no instance, one
// is started, and stays until then, whatever the keep-alive.
func (p *Pool) Expect() {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	if p.phase != serving || p.live()+p.count[Starting] > 0 || p.crash.pausingBackground(now) {
		return
	}
	in := p.launch(now, capacity.Background, true)
	in.prewarmed, in.due = true, now+p.wakeTime()+wakeMargin
}
