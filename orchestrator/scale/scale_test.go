package scale_test

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/kilnfaas/kiln/orchestrator/scale"
)

const ms = time.Millisecond

func TestBurst(t *testing.T) {
	tests := []struct {
		name string
		d    scale.Demand
		want int
	}{
		{"nobody waits", scale.Demand{Concurrency: 1, Ready: 1}, 0},
		{"single flight from zero", scale.Demand{Concurrency: 1, Waiting: 1}, 1},
		{"single flight for many", scale.Demand{Concurrency: 64, Waiting: 64, Starting: 1}, 0},
		{"unknown service time: a slot for each", scale.Demand{Concurrency: 4, Waiting: 9, Ready: 1}, 3},
		{"minus those that start", scale.Demand{Concurrency: 4, Waiting: 9, Ready: 1, Starting: 2}, 1},
		{"fast calls: the ready one is through before another is up", scale.Demand{Concurrency: 1, Waiting: 30, Ready: 1, Service: 5 * ms, Start: 190 * ms}, 0},
		{"its rest needs one more", scale.Demand{Concurrency: 1, Waiting: 60, Ready: 1, Service: 5 * ms, Start: 190 * ms}, 1},
		{"slow calls: a slot for each", scale.Demand{Concurrency: 1, Waiting: 3, Ready: 1, Service: 10 * time.Second, Start: 190 * ms}, 3},
		{"no less than 100 ms ahead", scale.Demand{Concurrency: 1, Waiting: 10, Ready: 1, Service: 10 * ms, Start: ms}, 0},
		{"free slots count", scale.Demand{Concurrency: 2, Waiting: 2, Free: 2, Ready: 1, Service: time.Hour}, 0},
	}
	for _, test := range tests {
		if got := scale.Burst(test.d); got != test.want {
			t.Errorf("%s: %d, want %d", test.name, got, test.want)
		}
	}
}

func randomDemand(r *rand.Rand) scale.Demand {
	d := scale.Demand{
		Concurrency: r.IntN(70) - 1, Waiting: r.IntN(500) - 1, Free: r.IntN(10) - 1,
		Ready: r.IntN(20) - 1, Starting: r.IntN(10) - 1,
	}
	if r.IntN(3) > 0 {
		d.Service = time.Duration(math.Pow(10, r.Float64()*13))
	}
	if r.IntN(3) > 0 {
		d.Start = time.Duration(math.Pow(10, r.Float64()*11))
	}
	return d
}

func TestBurstProperties(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 50_000 {
		d := randomDemand(r)
		n := scale.Burst(d)
		if n < 0 {
			t.Fatalf("%+v: %d", d, n)
		}
		if d.Waiting > 0 && n > d.Waiting {
			t.Fatalf("%+v: %d instances for fewer requests", d, n)
		}
		more := d
		more.Waiting++
		if started := d.Ready > 0 || d.Starting > 0; started && scale.Burst(more) < n {
			t.Fatalf("%+v: %d, and fewer (%d) with one more waiting", d, n, scale.Burst(more))
		}
		if d.Ready > 0 {
			more = d
			more.Ready++
			if scale.Burst(more) > n {
				t.Fatalf("%+v: %d, and more (%d) with one more ready", d, n, scale.Burst(more))
			}
		}
		more = d
		more.Starting = max(0, d.Starting) + 1
		if d.Ready+d.Starting > 0 && scale.Burst(more) > n {
			t.Fatalf("%+v: %d, and more (%d) with one more starting", d, n, scale.Burst(more))
		}
		if limit := scale.QueueLimit(d); limit < 10 {
			t.Fatalf("%+v: queue limit %d", d, limit)
		}
	}
}

func TestWait(t *testing.T) {
	tests := []struct {
		name string
		d    scale.Demand
		want time.Duration
	}{
		{"a free slot", scale.Demand{Concurrency: 1, Ready: 1, Free: 1, Service: time.Second}, 0},
		{"knows nothing", scale.Demand{Concurrency: 1, Waiting: 100, Ready: 1}, 0},
		{"first in line", scale.Demand{Concurrency: 1, Ready: 1, Service: time.Second}, time.Second},
		{"tenth in line of two by five", scale.Demand{Concurrency: 5, Waiting: 9, Ready: 2, Service: time.Second}, time.Second},
		{"from zero", scale.Demand{Concurrency: 1, Service: time.Second, Start: 200 * ms}, 200 * ms},
		{"from zero, second", scale.Demand{Concurrency: 1, Waiting: 1, Starting: 1, Service: time.Second, Start: 200 * ms}, 1200 * ms},
	}
	for _, test := range tests {
		if got := scale.Wait(test.d); got != test.want {
			t.Errorf("%s: %v, want %v", test.name, got, test.want)
		}
	}
	r := rand.New(rand.NewPCG(3, 4))
	for range 20_000 {
		d := randomDemand(r)
		wait := scale.Wait(d)
		more := d
		more.Waiting++
		if wait < 0 || d.Waiting >= 0 && scale.Wait(more) < wait {
			t.Fatalf("%+v: %v, behind one more %v", d, wait, scale.Wait(more))
		}
	}
}

func TestAverageFollows(t *testing.T) {
	var a scale.Average
	if a.Value() != 0 {
		t.Error("knows something")
	}
	a.Add(100 * ms)
	if a.Value() != 100*ms {
		t.Errorf("first sample: %v", a.Value())
	}
	for range 50 {
		a.Add(10 * ms)
	}
	if v := a.Value(); v < 10*ms || v > 11*ms {
		t.Errorf("after fifty: %v", v)
	}
	a = scale.Average{}
	a.Add(0)
	if a.Value() <= 0 {
		t.Error("an instant call counts as unknown")
	}
}

func TestBackoff(t *testing.T) {
	want := []time.Duration{0, 0, 1, 2, 4, 8, 16, 32, 60, 60}
	for failures, seconds := range want {
		if got := scale.Backoff(failures); got != seconds*time.Second {
			t.Errorf("%d failures: %v, want %v", failures, got, seconds*time.Second)
		}
	}
	for _, n := range []int{-5, 1000, math.MaxInt32} {
		if got := scale.Backoff(n); got < 0 || got > scale.MaxBackoff {
			t.Errorf("%d failures: %v", n, got)
		}
	}
}

func TestWorth(t *testing.T) {
	base := scale.Worth(5, 10, 200*ms, 128<<20)
	if base <= 5 {
		t.Errorf("worth %v is not above the clock", base)
	}
	for name, w := range map[string]float64{
		"used more often": scale.Worth(5, 11, 200*ms, 128<<20),
		"dearer to start": scale.Worth(5, 10, 300*ms, 128<<20),
		"smaller":         scale.Worth(5, 10, 200*ms, 64<<20),
		"used later":      scale.Worth(6, 10, 200*ms, 128<<20),
	} {
		if w <= base {
			t.Errorf("%s: %v, not more than %v", name, w, base)
		}
	}
	if w := scale.Worth(5, 0, 0, 0); w != 5 || math.IsNaN(w) {
		t.Errorf("of nothing: %v", w)
	}
}

func TestBacklog(t *testing.T) {
	for _, test := range []struct {
		calls   int
		service time.Duration
		want    float64
	}{
		{0, time.Second, 0},
		{1000, 0, 0},
		{1000, 100 * time.Millisecond, 10},
		{100_000, 300 * time.Microsecond, 3},
		{10, time.Second, 1},
		{-1, time.Second, 0},
	} {
		if got := scale.Backlog(test.calls, test.service); got != test.want {
			t.Errorf("Backlog(%d, %v) = %v, want %v", test.calls, test.service, got, test.want)
		}
	}
}
