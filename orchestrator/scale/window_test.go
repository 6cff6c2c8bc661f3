package scale_test

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/kilnfaas/kiln/orchestrator/scale"
)

func TestWindowAverages(t *testing.T) {
	var w scale.Window
	if w.Stable() != 0 || w.Panic() != 0 {
		t.Error("an empty window knows something")
	}
	w.Add(8)
	if w.Stable() != 8 || w.Panic() != 8 {
		t.Errorf("after one second: %v, %v", w.Stable(), w.Panic())
	}
	for range 59 {
		w.Add(2)
	}
	if got := w.Stable(); math.Abs(got-(8+59*2)/60.0) > 1e-6 || w.Panic() != 2 {
		t.Errorf("after a minute: %v, %v", got, w.Panic())
	}
	w.Add(2)
	if w.Stable() != 2 {
		t.Errorf("the first second is still in: %v", w.Stable())
	}
}

func TestDecide(t *testing.T) {
	tests := []struct {
		name  string
		f     scale.Fleet
		want  int
		panic bool
	}{
		{"idle keeps half", scale.Fleet{Concurrency: 1, Ready: 8, Max: 10}, 4, false},
		{"idle of one is none", scale.Fleet{Concurrency: 1, Ready: 1, Max: 10}, 0, false},
		{"minimum", scale.Fleet{Concurrency: 1, Ready: 1, Min: 1, Max: 10}, 1, false},
		{"steady", scale.Fleet{Stable: 14, Panic: 14, Concurrency: 10, Ready: 2, Max: 10}, 2, false},
		{"over 0.7 of the slots", scale.Fleet{Stable: 15, Panic: 15, Concurrency: 10, Ready: 2, Max: 10}, 3, false},
		{"one caller after another at C = 1", scale.Fleet{Stable: 1, Panic: 1, Concurrency: 1, Ready: 1, Max: 10}, 1, false},
		{"panic", scale.Fleet{Stable: 3, Panic: 30, Concurrency: 10, Ready: 2, Max: 10}, 5, true},
		{"maximum", scale.Fleet{Stable: 300, Panic: 300, Concurrency: 10, Ready: 2, Max: 10}, 10, true},
		{"tenfold at most", scale.Fleet{Stable: 300, Panic: 300, Concurrency: 1, Ready: 2, Max: 1000}, 20, true},
		{"starting count", scale.Fleet{Stable: 28, Panic: 28, Concurrency: 10, Ready: 1, Starting: 2, Max: 10}, 4, false},
	}
	for _, test := range tests {
		got, mode := scale.Decide(0, scale.Mode{}, test.f)
		if got != test.want || mode.Panicking() != test.panic {
			t.Errorf("%s: %d (panic %v), want %d (%v)", test.name, got, mode.Panicking(), test.want, test.panic)
		}
	}
}

func TestPanicNeverScalesDownAndEndsAfterCalm(t *testing.T) {
	_, mode := scale.Decide(0, scale.Mode{}, scale.Fleet{Panic: 40, Concurrency: 10, Ready: 2, Max: 10})
	if !mode.Panicking() {
		t.Fatal("no panic")
	}
	calm := scale.Fleet{Stable: 1, Panic: 1, Concurrency: 10, Ready: 8, Max: 10}
	var want int
	for second := 1; second < 60; second++ {
		if want, mode = scale.Decide(time.Duration(second)*time.Second, mode, calm); want != 8 {
			t.Fatalf("after %d s: %d", second, want)
		}
	}
	if want, mode = scale.Decide(60*time.Second, mode, calm); want != 4 || mode.Panicking() {
		t.Errorf("after 60 s of calm: %d, panic %v", want, mode.Panicking())
	}
}

func TestDecideStaysWithinBounds(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	mode := scale.Mode{}
	for range 50_000 {
		f := scale.Fleet{
			Stable: math.Pow(10, r.Float64()*8-2), Panic: math.Pow(10, r.Float64()*8-2), Concurrency: r.IntN(65),
			Ready: r.IntN(20), Starting: r.IntN(5), Min: r.IntN(4),
		}
		f.Max = f.Min + r.IntN(20)
		if r.IntN(100) == 0 {
			f.Stable = math.Inf(1)
		}
		was := mode
		now := time.Duration(r.Int64N(1e12))
		var want int
		want, mode = scale.Decide(now, was, f)
		have := f.Ready + f.Starting
		if want < f.Min || want > max(f.Min, f.Max) {
			t.Fatalf("%+v: %d is out of bounds", f, want)
		}
		if want > max(f.Min, 10*max(1, have)) {
			t.Fatalf("%+v: %d is more than tenfold", f, want)
		}
		if want < min(have/2, f.Max) {
			t.Fatalf("%+v: %d is less than half", f, want)
		}
		if mode.Panicking() && want < min(have, f.Max) {
			t.Fatalf("%+v: %d, less than there is, in panic", f, want)
		}
		more := f
		more.Stable *= 2
		if n, _ := scale.Decide(now, was, more); n < want {
			t.Fatalf("%+v: %d, and with twice the load %d", f, want, n)
		}
	}
}
