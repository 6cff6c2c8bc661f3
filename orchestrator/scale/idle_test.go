package scale_test

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/kilnfaas/kiln/orchestrator/scale"
)

var fixed = scale.Settings{FreezeAfter: 5 * time.Second, KeepAlive: 10 * time.Minute, Adaptive: true}

// recorded returns a histogram of idle times.
func recorded(times ...time.Duration) *scale.Histogram {
	h := &scale.Histogram{}
	for _, d := range times {
		h.Record(d)
	}
	return h
}

func repeat(d time.Duration, n int) []time.Duration {
	all := make([]time.Duration, n)
	for i := range all {
		all[i] = d
	}
	return all
}

func evenly(n int) (all []time.Duration) {
	for i := range n {
		all = append(all, time.Duration(i%240)*time.Minute+time.Minute/2)
	}
	return all
}

func TestPlanIdle(t *testing.T) {
	usual := scale.Plan{Freeze: 5 * time.Second, Remove: 10 * time.Minute}
	tests := []struct {
		name     string
		settings scale.Settings
		h        *scale.Histogram
		want     scale.Plan
	}{
		{"nothing known", fixed, recorded(), usual},
		{"nine samples", fixed, recorded(repeat(30*time.Minute, 9)...), usual},
		{"not adaptive", scale.Settings{FreezeAfter: 1, KeepAlive: 2}, recorded(repeat(30*time.Minute, 50)...), scale.Plan{Freeze: 1, Remove: 2}},
		{"every half hour", fixed, recorded(repeat(30*time.Minute, 10)...),
			scale.Plan{Freeze: 5 * time.Second, Remove: 10 * time.Second, Prewarm: 27 * time.Minute, Expire: 34*time.Minute + 6*time.Second}},
		{"every minute or so", fixed, recorded(append(repeat(20*time.Second, 50), repeat(90*time.Second, 50)...)...),
			scale.Plan{Freeze: 5 * time.Second, Remove: 2*time.Minute + 12*time.Second}},
		{"anything goes", fixed, recorded(evenly(480)...), usual},
		{"mostly out of bounds", fixed, recorded(append(repeat(5*time.Hour, 21), repeat(30*time.Minute, 20)...)...), usual},
		{"bursts do not count", fixed, recorded(append(repeat(time.Millisecond, 100_000), repeat(time.Second, 1000)...)...), usual},
	}
	for _, test := range tests {
		if got := scale.PlanIdle(test.settings, test.h); got != test.want {
			t.Errorf("%s: %+v, want %+v", test.name, got, test.want)
		}
	}
}

func TestPlanIdleProperties(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	for range 300 {
		h := &scale.Histogram{}
		centre, spread := r.Float64()*200, r.Float64()*20
		for range r.IntN(400) {
			minutes := max(0, centre+r.NormFloat64()*spread)
			if r.IntN(20) == 0 {
				minutes *= 10
			}
			h.Record(time.Duration(minutes * float64(time.Minute)))
		}
		plan := scale.PlanIdle(fixed, h)
		if plan.Remove <= 0 || plan.Prewarm < 0 || plan.Remove > 5*time.Hour || plan.Expire > 5*time.Hour {
			t.Fatalf("%+v", plan)
		}
		if plan.Prewarm > 0 && (plan.Remove > plan.Prewarm || plan.Expire <= plan.Prewarm) {
			t.Fatalf("prewarmed before it is removed, or for no time: %+v", plan)
		}
		if h.Samples() < 10 && plan.Remove != fixed.KeepAlive {
			t.Fatalf("%d samples: %+v", h.Samples(), plan)
		}
	}
}

func TestHistogramAgesInsteadOfOverflowing(t *testing.T) {
	h := recorded(repeat(30*time.Minute, 200_000)...)
	if n := h.Samples(); n < 1<<15 || n > 1<<16 {
		t.Errorf("%d samples", n)
	}
	if !h.Representative() {
		t.Error("forgot what it is about")
	}
	clone := h.Clone()
	clone.Record(time.Minute)
	if clone.Samples() == h.Samples() {
		t.Error("a clone shares its bins")
	}
}
