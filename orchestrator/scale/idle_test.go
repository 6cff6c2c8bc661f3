package scale_test

import (
	"math/rand/v2"
	"slices"
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
		// Waiting two hours for one call in ten would cost more than it spares.
		{"stragglers are not waited for", fixed, recorded(append(repeat(90*time.Second, 90), evenly(240)[120:130]...)...),
			scale.Plan{Freeze: 5 * time.Second, Remove: 2*time.Minute + 12*time.Second}},
		// The fixed plan meets as many as keeping to 11 minutes would, and is rid of the others sooner.
		{"fixed is best", fixed, recorded(slices.Concat(repeat(90*time.Second, 1), repeat(9*time.Minute+30*time.Second, 7), repeat(5*time.Hour, 5))...), usual},
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

// TestPlanIdlePays checks against the pauses themselves, one by one, that a plan
// is worth at least what the fixed one and the published one (0.9*p5 to 1.1*p99)
// are, at 15 minutes of an idle instance for a cold start.
func TestPlanIdlePays(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 10))
	learnt := 0
	for range 500 {
		h := &scale.Histogram{}
		var pauses []time.Duration
		centre, spread, lost := r.Float64()*120, r.Float64()*40, r.IntN(40)
		for range 10 + r.IntN(200) {
			bin := time.Duration(max(0, centre+r.NormFloat64()*spread))
			if r.IntN(100) < lost {
				bin = time.Duration(r.IntN(400))
			}
			pauses = append(pauses, bin*time.Minute+30*time.Second)
			h.Record(pauses[len(pauses)-1])
		}
		plan := scale.PlanIdle(fixed, h)
		if !h.Representative() {
			continue
		}
		learnt++
		got := worth(plan, pauses)
		for name, other := range map[string]scale.Plan{"fixed": {Remove: fixed.KeepAlive}, "published": published(pauses)} {
			if than := worth(other, pauses); got < than-time.Second {
				t.Fatalf("%+v is worth %v, the %s plan %+v %v", plan, got, name, other, than)
			}
		}
	}
	if learnt < 100 {
		t.Errorf("%d plans were learnt: the test tests little", learnt)
	}
}

func worth(p scale.Plan, pauses []time.Duration) (sum time.Duration) {
	for _, pause := range pauses {
		if sum -= min(pause, p.Remove); pause < p.Remove {
			sum += 15 * time.Minute
		}
		if p.Prewarm > 0 && pause > p.Prewarm {
			if sum -= min(pause, p.Expire) - p.Prewarm; pause < p.Expire {
				sum += 15 * time.Minute
			}
		}
	}
	return sum
}

// published is the plan of the paper: 0.9 times the lower edge of p5's minute,
// 1.1 times the upper edge of p99's.
func published(pauses []time.Duration) scale.Plan {
	var within []time.Duration
	for _, pause := range pauses {
		if pause < 4*time.Hour {
			within = append(within, pause)
		}
	}
	slices.Sort(within)
	rank := func(percent int) time.Duration {
		return within[(len(within)*percent+99)/100-1].Truncate(time.Minute)
	}
	head, tail := rank(5)*9/10, (rank(99)+time.Minute)*11/10
	if head < 2*time.Minute {
		return scale.Plan{Remove: tail}
	}
	return scale.Plan{Remove: 10 * time.Second, Prewarm: head, Expire: tail}
}

func TestPlanIdleFollowsWhatItIsMadeFrom(t *testing.T) {
	h := recorded(repeat(90*time.Second, 20)...)
	short := scale.PlanIdle(fixed, h)
	for range 20 {
		h.Record(4*time.Minute + 30*time.Second)
	}
	if long := scale.PlanIdle(fixed, h); long.Remove <= short.Remove {
		t.Errorf("kept for %v, and after longer pauses for %v", short.Remove, long.Remove)
	}
	rigid := scale.PlanIdle(scale.Settings{KeepAlive: time.Hour}, h)
	if want := (scale.Plan{Remove: time.Hour}); rigid != want {
		t.Errorf("with other settings: %+v, want %+v", rigid, want)
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

func BenchmarkPlanIdle(b *testing.B) {
	h := &scale.Histogram{}
	r := rand.New(rand.NewPCG(1, 1))
	for range 400 {
		h.Record(time.Duration(r.ExpFloat64() * float64(20*time.Minute)))
	}
	if !h.Representative() {
		b.Fatal("there is nothing to plan with")
	}
	b.ReportAllocs()
	for b.Loop() {
		h.Record(20 * time.Minute)
		scale.PlanIdle(fixed, h)
	}
}
