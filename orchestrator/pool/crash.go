package pool

import (
	"errors"
	"fmt"
	"time"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/scale"
)

// CodeCrashLoop is the code of the error for requests that come while starts are
// held up.
const CodeCrashLoop = "crash-loop"

// crash remembers starts that failed and instances that ended young.
type crash struct {
	failures int     // of the function, in a row
	until    instant // no start before
	last     error
	// platform failures (no memory, no engine) hold up background starts only.
	platform      int
	platformUntil instant
}

// failed counts a failed start.
func (c *crash) failed(now instant, err error) {
	if errors.Is(err, orchestrator.ErrFunction) {
		c.failures++
		c.until = now + scale.Backoff(c.failures)
		c.last = err
		return
	}
	c.platform++
	c.platformUntil = now + scale.Backoff(c.platform+1) // no caller waits: never at once
}

// pausing says whether starts are held up.
func (c *crash) pausing(now instant) bool { return now < c.until }

// pausingBackground says whether starts that nobody waits for are held up.
func (c *crash) pausingBackground(now instant) bool { return now < max(c.until, c.platformUntil) }

// crashing returns the error for requests that come while starts are held up
// and nothing else serves; mu is held.
func (p *Pool) crashing(now instant) error {
	if !p.crash.pausing(now) || p.live()+p.count[Starting] > 0 {
		return nil
	}
	pause := p.crash.until - now
	err := &orchestrator.Error{
		Class: orchestrator.ErrFunction, Code: CodeCrashLoop,
		Detail:     fmt.Sprintf("%s failed to start %d times in a row: %v", p.name, p.crash.failures, p.crash.last),
		Hint:       fmt.Sprintf("the next start is tried in %s; `kiln logs %s` may tell why, a new deploy is tried at once", pause.Round(time.Second), p.name),
		RetryAfter: max(minRetryAfter, pause),
		Cause:      p.crash.last,
	}
	var known *orchestrator.Error
	if errors.As(p.crash.last, &known) {
		err.Output = known.Output
	}
	return err
}

// Died takes out an instance whose container has ended, and says whether it was
// this pool's.
func (p *Pool) Died(id string, exitCode int, oom bool) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if in := p.find(id); in != nil {
		in.settleFate(&End{ExitCode: exitCode, OOM: oom})
		if in.state != Dead {
			p.died(in, p.now(), describeExit(exitCode, oom))
		}
		return true
	}
	if p.count[Starting] > 0 && len(p.early) < maxEarly {
		p.early = append(p.early, id)
	}
	return false
}

// Displaced takes out an instance whose address another container has got: the
// engine gives an address away again only once its container is gone, and the
// news of that may come late, or never when the engine was restarted. Requests
// must not reach somebody else's container meanwhile.
func (p *Pool) Displaced(addr, by string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, in := range p.instances {
		if in.addr == addr && in.id != by && in.state != Starting && in.state != Dead {
			p.died(in, p.now(), "is gone: another container has its address")
			return
		}
	}
}

// maxEarly bounds the deaths that are remembered while something is starting.
const maxEarly = 64

// forgetEarly drops them when no start is left that they could concern; mu is
// held.
func (p *Pool) forgetEarly() {
	if p.count[Starting] == 0 {
		p.early = nil
	}
}

// died takes out an instance that ended by itself; mu is held.
func (p *Pool) died(in *instance, now instant, how string) {
	young := now-in.readyAt < scale.StableAfter
	// One that stopped to take connections is being ended for just that.
	expected := in.stopping && in.reason != ReasonUnreachable
	p.to(in, Dead)
	if !expected {
		in.reason = ReasonDied
		p.stats.Died++
		p.cfg.Logger.Warn("instance died", "function", p.name, "revision", p.release.Revision.ID, "container_id", in.id, "how", how)
		if reason := orchestrator.Errorf(orchestrator.ErrFunction, "instance-died", "an instance of %s %s", p.name, how); young && !in.blamed {
			p.crash.failed(now, reason)
		} else if in.blamed {
			p.crash.last = reason // the same end, and the engine knows more of it
		}
	}
	p.stop(in, 0)
	p.provision(now)
}

func describeExit(code int, oom bool) string {
	if oom {
		return "was killed for using more memory than it may"
	}
	return fmt.Sprintf("ended with exit code %d", code)
}

// settle forgets failures once an instance has lived long enough; mu is held.
func (p *Pool) settle(now instant) {
	if p.crash.failures == 0 && p.crash.platform == 0 {
		return
	}
	for _, in := range p.instances {
		if in.state != Starting && in.state != Dead && now-in.readyAt >= scale.StableAfter && in.readyAt > 0 {
			p.crash = crash{}
			return
		}
	}
}
