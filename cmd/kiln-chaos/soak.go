package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"text/tabwriter"
	"time"
)

const (
	// soakShare is the part of the capacity that a soak uses.
	soakShare = 0.3
	// soakGrowth is how much more memory the gateway may hold at the end.
	soakGrowth = 0.05
	// warmUp is the part of a soak after which memory is measured: pools, caches
	// and the heap have their size then. soakWindow is the part that is measured,
	// there and at the end.
	warmUp, soakWindow = 0.4, 0.15
	// soakSamples are taken over the whole time.
	soakSamples = 200
	// soakCallers are the connections that the load uses.
	soakCallers = 8
	// capacityTime is how long the capacity is measured.
	capacityTime = 3 * time.Second
)

// soak calls functions at a part of the capacity, with deploys in between, and
// checks that the gateway holds no more memory and goroutines at the end.
func soak(ctx context.Context, w *world, length time.Duration) error {
	if err := w.populate(ctx); err != nil {
		return err
	}
	perSecond, err := w.capacity(ctx, w.steady, soakCallers)
	if err != nil {
		return err
	}
	pace := time.Duration(soakCallers / (perSecond * soakShare) * float64(time.Second))
	w.o.say("capacity %.0f/s, one call each %s from %d callers", perSecond, pace.Round(time.Microsecond), soakCallers)
	var callers []caller
	for i := range soakCallers {
		callers = append(callers, caller{w.steady[i%len(w.steady)], http.MethodGet, pace})
	}
	before := w.figures(ctx)
	l, c := w.gateway.startLoad(callers), w.startChurn()
	var memory []float64
	for range soakSamples {
		if err = w.pause(ctx, length/soakSamples); err != nil {
			break
		}
		resident, measured := w.gateway.measure(ctx, "process_resident_memory_bytes")
		if err = measured; err != nil {
			break
		}
		memory = append(memory, resident)
	}
	c.stop()
	l.stop()
	if err != nil {
		return err
	}
	w.returned(ctx, before)
	return w.soaked(l, length, memory)
}

// soaked prints the figures and says whether they are as promised.
func (w *world) soaked(l *load, length time.Duration, memory []float64) error {
	n := float64(len(memory))
	early := median(memory[int(n*warmUp):int(n*(warmUp+soakWindow))])
	late := median(memory[int(n*(1-soakWindow)):])
	growth := late/early - 1
	if growth > soakGrowth {
		w.broken("the gateway's memory grew by %.1f %%, more than %.0f %%", growth*100, soakGrowth*100)
	}
	for _, f := range l.failures {
		w.broken("a call failed: %s", f)
	}
	const mib = 1 << 20
	table := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintf(table, "time\t%s\ncalls sent\t%d\nfailed\t%d\nchanges\t%d\n", length, l.sent.Load(), len(l.failures), w.deployed.Load())
	fmt.Fprintf(table, "memory after the warm-up\t%.1f MiB\nmemory at the end\t%.1f MiB\ngrowth\t%+.1f %%\n", early/mib, late/mib, growth*100)
	table.Flush()
	if len(w.violations) > 0 {
		return errors.New("a promise was broken")
	}
	return nil
}

func median(samples []float64) float64 {
	sorted := slices.Sorted(slices.Values(samples))
	if len(sorted) == 0 {
		return 0
	}
	return sorted[len(sorted)/2]
}

// capacity measures how many calls a second functions answer to callers that
// each send the next call when the last is answered.
func (w *world) capacity(ctx context.Context, functions []string, callers int) (float64, error) {
	var all []caller
	for i := range callers {
		all = append(all, caller{functions[i%len(functions)], http.MethodGet, 0})
	}
	began := time.Now()
	l := w.gateway.startLoad(all)
	err := w.pause(ctx, capacityTime)
	l.stop()
	if len(l.failures) > 0 {
		err = fmt.Errorf("measuring the capacity: %d calls failed: %s", len(l.failures), l.failures[0])
	}
	return float64(l.sent.Load()) / time.Since(began).Seconds(), err
}
