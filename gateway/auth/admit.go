package auth

import (
	"maps"

	"golang.org/x/time/rate"

	"github.com/kilnfaas/kiln/orchestrator"
)

// errInternal refuses those who call a function that is the platform's own.
var errInternal = orchestrator.Errorf(orchestrator.ErrDenied, "function-internal", "the function is for the platform's own calls").
	WithHint("set access in function.yaml to public or token, or use an administrator's token")

// Admit says whether an invocation may go on: nil, ErrDenied, or ErrExhausted
// when the function or the token is called too often. Only a caller who may
// invoke takes from the function's rate.
func (g *Guard) Admit(spec *orchestrator.Spec, authorization string) error {
	switch spec.Access {
	case "", orchestrator.AccessPublic:
	case orchestrator.AccessToken:
		caller, err := g.Identify(authorization)
		if err != nil {
			return err
		}
		if err := caller.May(orchestrator.ScopeInvoke); err != nil {
			return err
		}
		if err := caller.For(spec.Name); err != nil {
			return err
		}
	default: // internal, and what this gateway does not know
		caller, err := g.Identify(authorization)
		if err != nil || caller.May(orchestrator.ScopeAdmin) != nil {
			return errInternal
		}
	}
	if spec.Rate.Limited() {
		return take(g.limitOf(spec), "function-rate", "the function is called too often")
	}
	return nil
}

// limit is the rate of a function in effect.
type limit struct {
	rate    orchestrator.Rate
	limiter *rate.Limiter
}

// limitOf returns the limiter of a function. A rate that was changed begins with
// a full burst.
func (g *Guard) limitOf(spec *orchestrator.Spec) *rate.Limiter {
	if l, ok := (*g.limits.Load())[spec.Name]; ok && l.rate == spec.Rate {
		return l.limiter
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	old := *g.limits.Load()
	if l, ok := old[spec.Name]; ok && l.rate == spec.Rate {
		return l.limiter // another caller was first
	}
	limits := maps.Clone(old)
	l := limit{rate: spec.Rate, limiter: rate.NewLimiter(rate.Limit(spec.Rate.PerSecond), spec.Rate.AtOnce())}
	limits[spec.Name] = l
	g.limits.Store(&limits)
	return l.limiter
}

// Forget drops what is kept for a function that is gone.
func (g *Guard) Forget(function string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	limits := maps.Clone(*g.limits.Load())
	delete(limits, function)
	g.limits.Store(&limits)
}
