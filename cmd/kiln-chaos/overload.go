package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"sync"
	"text/tabwriter"
	"time"
)

// What is promised under too much load.
const (
	// overloadFactor is the load, in capacities.
	overloadFactor = 3
	// healthzP99 is how soon 99 of 100 health checks are answered.
	healthzP99 = 50 * time.Millisecond
	// backWithin is how soon after it calls are answered as before.
	backWithin = 2 * time.Second
	// goodput is the least part of the capacity that is still served.
	goodput = 0.5
)

// How it is measured.
const (
	floodTime      = time.Minute
	shortFloodTime = 5 * time.Second
	probePause     = 10 * time.Millisecond
	// slotsOfNoisy are its instances times its concurrency.
	slotsOfNoisy = 8
	// senders bounds the calls under way: more than wait in the queue.
	senders = 1024
	// asBefore is how many calls in a row have to be as fast as before.
	asBefore = 5
	// floodTimeout is that of the flooded function, and deadlineSlack what an
	// answer may take on its way.
	floodTimeout  = 2 * time.Second
	deadlineSlack = 250 * time.Millisecond
	// machineSlack is how many times as long as by a plain server of Go on the
	// same machine at the same time an answer may take: a machine that is busy
	// otherwise is not Kiln's fault.
	machineSlack = 3
)

// Functions of the overload: one that is flooded and one that has few calls.
var (
	noisy = spec{min: 1, max: 2, concurrency: 4, seconds: 0.05, timeout: floodTimeout.String(), more: ", freeze_after: 0s"}
	quiet = spec{min: 1, max: 2, concurrency: 4, seconds: 0.003, timeout: floodTimeout.String()}
)

const noisyName, quietName = "noisy", "quiet"

// flood is what came of an overload.
type flood struct {
	capacity float64 // calls a second
	length   time.Duration

	mu       sync.Mutex
	sent     int             // guarded by mu
	accepted []time.Duration // guarded by mu; latencies of answers 200
	shed     int             // guarded by mu; 429 with Retry-After
	other    []string        // guarded by mu; neither
	healthz  []time.Duration // guarded by mu
	plain    []time.Duration // guarded by mu; of a server beside
	quiet    []time.Duration // guarded by mu
	quietBad []string        // guarded by mu
	back     time.Duration
}

// overload floods a function for some time and judges what came of it.
func (f *flood) overload(ctx context.Context, w *world, length time.Duration) error {
	client, err := w.gateway.client()
	if err != nil {
		return err
	}
	for name, s := range map[string]spec{noisyName: noisy, quietName: quiet} {
		if _, err := deploy(ctx, client, name, 1, s); err != nil {
			return fmt.Errorf("deploy %s: %w", name, err)
		}
	}
	// Until all instances are up; a slow machine starts them later than calls wait.
	warm := w.gateway.startLoad(slices.Repeat([]caller{{noisyName, http.MethodGet, 0}}, slotsOfNoisy))
	err = w.pause(ctx, capacityTime)
	warm.stop()
	if err != nil {
		return err
	}
	if f.capacity, err = w.capacity(ctx, []string{noisyName}, slotsOfNoisy); err != nil {
		return err
	}
	f.length = length
	w.o.say("overload: capacity %.0f calls/s, flooding with %d times as many for %s", f.capacity, overloadFactor, length)
	usual, err := w.usual()
	if err != nil {
		return err
	}
	if err := f.run(ctx, w); err != nil {
		return err
	}
	f.back = w.comesBack(ctx, usual)
	f.judge(w)
	return ctx.Err()
}

// overload is the whole of a run of its own.
func overload(ctx context.Context, w *world, length time.Duration) error {
	var f flood
	if err := f.overload(ctx, w, length); err != nil {
		return err
	}
	f.print(os.Stdout)
	if len(w.violations) > 0 {
		return errors.New("a promise was broken under too much load")
	}
	return nil
}

// usual returns how long calls of the noisy function take at most when nobody
// else calls.
func (w *world) usual() (slowest time.Duration, err error) {
	conn := wire{address: w.gateway.address}
	defer conn.hangUp()
	for range 20 {
		began := time.Now()
		if _, _, err := conn.exchange(http.MethodGet, noisyName, "usual"); err != nil {
			return 0, err
		}
		slowest = max(slowest, time.Since(began))
	}
	return slowest, nil
}

// run floods, and probes meanwhile.
func (f *flood) run(ctx context.Context, w *world) error {
	ctx, cancel := context.WithTimeout(ctx, f.length)
	defer cancel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	beside := &http.Server{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}), ReadHeaderTimeout: callTimeout}
	defer beside.Close()
	var work sync.WaitGroup
	go func() { _ = beside.Serve(listener) }() // until Close
	work.Go(func() { f.probe(ctx, "http://"+w.gateway.address+"/healthz", &f.healthz) })
	work.Go(func() { f.probe(ctx, "http://"+listener.Addr().String(), &f.plain) })
	work.Go(func() { f.callQuiet(ctx, w) })
	turns := make(chan struct{}, senders) // a call that finds no sender is not sent: the bound is on this side
	for range senders {
		work.Go(func() { f.send(w, turns) })
	}
	gap := time.Duration(float64(time.Second) / (f.capacity * overloadFactor))
	due := time.Now()
	for ctx.Err() == nil {
		for ; !due.After(time.Now()); due = due.Add(gap) {
			select {
			case turns <- struct{}{}:
			default:
			}
		}
		_ = w.pause(ctx, max(time.Millisecond, time.Until(due)))
	}
	close(turns)
	work.Wait()
	return nil
}

// send makes one call for each turn.
func (f *flood) send(w *world, turns <-chan struct{}) {
	conn := wire{address: w.gateway.address}
	defer conn.hangUp()
	for range turns {
		began := time.Now()
		status, header, body, err := conn.exchangeHead(http.MethodGet, noisyName, "flood")
		took := time.Since(began)
		f.mu.Lock()
		f.sent++
		switch {
		case err != nil:
			f.other = append(f.other, err.Error())
		case status == http.StatusOK:
			f.accepted = append(f.accepted, took)
		case status == http.StatusTooManyRequests && header.Get("Retry-After") != "":
			f.shed++
		default:
			f.other = append(f.other, fmt.Sprintf("%d after %s: %.200s", status, took.Round(time.Millisecond), body))
		}
		f.mu.Unlock()
	}
}

// probe asks a server again and again, each time on a new connection, as health
// checks do.
func (f *flood) probe(ctx context.Context, url string, into *[]time.Duration) {
	client := &http.Client{Timeout: callTimeout, Transport: &http.Transport{
		DisableKeepAlives: true, DialContext: (&net.Dialer{Timeout: callTimeout}).DialContext,
	}}
	for ctx.Err() == nil {
		began := time.Now()
		response, err := client.Get(url)
		if err == nil {
			_, _ = io.Copy(io.Discard, io.LimitReader(response.Body, maxAnswer))
			response.Body.Close()
		}
		took := time.Since(began)
		if err != nil || response.StatusCode != http.StatusOK {
			took = callTimeout
		}
		f.mu.Lock()
		*into = append(*into, took)
		f.mu.Unlock()
		select {
		case <-ctx.Done():
		case <-time.After(probePause):
		}
	}
}

// callQuiet calls the other function at a low rate.
func (f *flood) callQuiet(ctx context.Context, w *world) {
	conn := wire{address: w.gateway.address}
	defer conn.hangUp()
	for ctx.Err() == nil {
		began := time.Now()
		status, body, err := conn.exchange(http.MethodGet, quietName, "quiet")
		took := time.Since(began)
		f.mu.Lock()
		if f.quiet = append(f.quiet, took); err != nil || status != http.StatusOK {
			f.quietBad = append(f.quietBad, fmt.Sprintf("%d %v: %.200s", status, err, body))
		}
		f.mu.Unlock()
		_ = w.pause(ctx, 2*probePause)
	}
}

// comesBack returns how long after the flood calls take until they are as fast
// as before it.
func (w *world) comesBack(ctx context.Context, usual time.Duration) time.Duration {
	conn := wire{address: w.gateway.address}
	defer conn.hangUp()
	ended := time.Now()
	since, good := ended, 0
	for good < asBefore && ctx.Err() == nil && time.Since(ended) < settleTime {
		began := time.Now()
		status, _, err := conn.exchange(http.MethodGet, noisyName, "back")
		if err != nil || status != http.StatusOK || time.Since(began) > machineSlack*usual {
			good, since = 0, time.Now()
			continue
		}
		good++
	}
	return since.Sub(ended)
}

// judge compares the figures with what is promised.
func (f *flood) judge(w *world) {
	busy := quantile(f.plain, 0.99) * machineSlack
	if p := quantile(f.healthz, 0.99); p > max(healthzP99, busy) {
		w.broken("1 of 100 health checks took %s or more; a plain server beside %s", p, quantile(f.plain, 0.99))
	}
	if f.shed == 0 {
		w.broken("nothing was refused: it was no overload")
	}
	for _, text := range f.other[:min(len(f.other), shown)] {
		w.broken("a call got neither an answer nor 429 with Retry-After (%d in all): %s", len(f.other), text)
	}
	if slowest := quantile(f.accepted, 1); slowest > floodTimeout+max(deadlineSlack, busy) {
		w.broken("an accepted call took %s, its deadline was %s", slowest, floodTimeout)
	}
	if served := float64(len(f.accepted)) / f.length.Seconds(); served < goodput*f.capacity {
		w.broken("%.0f calls/s were served of a capacity of %.0f", served, f.capacity)
	}
	for _, text := range f.quietBad[:min(len(f.quietBad), shown)] {
		w.broken("a call of the quiet function failed: %s", text)
	}
	if p := quantile(f.quiet, 0.99); p > max(deadlineSlack, busy) {
		w.broken("1 of 100 calls of the quiet function took %s or more", p)
	}
	if f.back > backWithin {
		w.broken("calls were as fast as before only %s after the load", f.back)
	}
}

func (f *flood) print(out io.Writer) {
	if f.sent == 0 {
		return // not asked for
	}
	ms := func(d time.Duration) string { return d.Round(100 * time.Microsecond).String() }
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(table, "capacity\t%.0f calls/s\n", f.capacity)
	fmt.Fprintf(table, "load\t%.0f calls/s for %s\n", float64(f.sent)/f.length.Seconds(), f.length)
	fmt.Fprintf(table, "served\t%.0f calls/s, slowest %s of a deadline of %s\n",
		float64(len(f.accepted))/f.length.Seconds(), ms(quantile(f.accepted, 1)), floodTimeout)
	fmt.Fprintf(table, "refused with 429 and Retry-After\t%d\n", f.shed)
	fmt.Fprintf(table, "failed otherwise\t%d\n", len(f.other))
	fmt.Fprintf(table, "healthz\tp50 %s, p99 %s (a plain server beside: p99 %s)\n",
		ms(quantile(f.healthz, 0.5)), ms(quantile(f.healthz, 0.99)), ms(quantile(f.plain, 0.99)))
	fmt.Fprintf(table, "the quiet function\tp50 %s, p99 %s, %d of %d failed\n",
		ms(quantile(f.quiet, 0.5)), ms(quantile(f.quiet, 0.99)), len(f.quietBad), len(f.quiet))
	fmt.Fprintf(table, "as before\t%s after the load\n", ms(f.back))
	table.Flush()
}

// quantile of latencies; 0 without any.
func quantile(latencies []time.Duration, q float64) time.Duration {
	sorted := slices.Sorted(slices.Values(latencies))
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))]
}
