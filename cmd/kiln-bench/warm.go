package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/kilnfaas/kiln/orchestrator/docker"
)

// Warm is load on functions that run already.
type Warm struct {
	Closed []WarmRow `json:"closed"`
	Random Random    `json:"random"`
	Open   []OpenRow `json:"open"`
}

// WarmRow compares the three ways to one container.
type WarmRow struct {
	Callers int              `json:"callers"`
	Body    int              `json:"body"`
	Targets map[string]Stats `json:"targets"` // direct, nginx, kiln
}

// OpenRow is load at a fixed rate, half of what the slower proxy reached.
type OpenRow struct {
	Callers int              `json:"callers"`
	Rate    float64          `json:"rate"`
	Targets map[string]Stats `json:"targets"`
}

// Stats is a sample in figures. Times are microseconds.
type Stats struct {
	Requests int64   `json:"requests"`
	Failures int64   `json:"failures"`
	Rate     float64 `json:"rate"` // per second
	P50      float64 `json:"p50_us"`
	P90      float64 `json:"p90_us"`
	P99      float64 `json:"p99_us"`
	P999     float64 `json:"p999_us"`
	Max      float64 `json:"max_us"`
	// Processor time for one request: of nginx or the gateway, and of the
	// functions' containers.
	ProxyCPU    float64 `json:"proxy_cpu_us"`
	FunctionCPU float64 `json:"function_cpu_us"`
}

func stats(s sample) Stats {
	us := func(q float64) float64 { return float64(s.quantile(q).Microseconds()) }
	return Stats{
		Requests: s.requests, Failures: s.failures, Rate: s.rate(),
		P50: us(50), P90: us(90), P99: us(99), P999: us(99.9), Max: us(100),
		ProxyCPU: s.each(s.proxyCPU), FunctionCPU: s.each(s.functionCPU),
	}
}

// warmSpec gives the function all of the machine, so that the proxies are what
// is measured, and keeps one instance that is never frozen.
func warmSpec(memory string) string {
	return fmt.Sprintf("concurrency: %d\nresources: {cpu: %d, memory: %s}\nmax_request: 0\nscale: {min: 1, max: 1, freeze_after: 0s, keep_alive: 1h}\n",
		warmConcurrency, runtime.NumCPU(), memory)
}

// warmConcurrency is above every number of callers: nothing queues.
const warmConcurrency = 128

func runWarm(ctx context.Context, p plan, engine *docker.Client, dir string) (w Warm, err error) {
	g, err := startGateway(ctx, dir, "warm")
	if err != nil {
		return w, err
	}
	defer func() { err = joinErr(err, g.stop(ctx)) }()
	p.say("deploying the function")
	if err := g.deploy(ctx, "echo", "go", warmSpec("256MiB")); err != nil {
		return w, err
	}
	instance, err := g.instance(ctx, engine, "echo")
	if err != nil {
		return w, err
	}
	past, err := g.upstream(ctx, instance)
	if err != nil {
		return w, err
	}
	n, err := startNginx(dir, map[string]upstream{"echo": past})
	if err != nil {
		return w, err
	}
	defer func() { err = joinErr(err, n.stop()) }()

	function := family(instance.PID)
	ways := func(body int) []target {
		payload := make([]byte, body)
		return []target{
			{name: "direct", addr: past.addr, requests: [][]byte{past.request(payload)}, function: function},
			{name: "nginx", addr: n.addr, requests: [][]byte{rawRequest(n.addr, "/invoke/echo", payload)}, function: function, proxy: n.processes()},
			{name: "kiln", addr: g.addr, requests: [][]byte{rawRequest(g.addr, "/invoke/echo", payload)}, function: function, proxy: g.processes()},
		}
	}
	for _, body := range p.bodies {
		for _, callers := range p.callers {
			p.say(fmt.Sprintf("closed loop, %d callers, %d bytes", callers, body))
			w.Closed = append(w.Closed, WarmRow{Callers: callers, Body: body, Targets: inTurns(ctx, p, ways(body), func(t target) sample {
				return closedLoop(ctx, t, callers, p.stretch)
			})})
		}
	}
	for _, callers := range []int{16, 64} {
		slower := slowerRate(w.Closed, callers)
		p.say(fmt.Sprintf("open loop, %d callers, %.0f/s", callers, slower/2))
		w.Open = append(w.Open, OpenRow{Callers: callers, Rate: slower / 2, Targets: inTurns(ctx, p, ways(0), func(t target) sample {
			return openLoop(ctx, t, callers, slower/2, p.stretch)
		})})
	}
	w.Random, err = runRandom(ctx, p, engine, g, dir)
	return w, err
}

// inTurns measures each way for a stretch, round after round: A B C A B C.
func inTurns(ctx context.Context, p plan, ways []target, measure func(target) sample) map[string]Stats {
	totals := map[string]*sample{}
	for _, t := range ways {
		s := newSample()
		totals[t.name] = &s
		closedLoop(ctx, t, 8, p.warmUp)
	}
	for range p.rounds {
		for _, t := range ways {
			s := measure(t)
			totals[t.name].add(s)
			if s.firstErr != nil {
				p.say(fmt.Sprintf("%s: %d failures, the first: %v", t.name, s.failures, s.firstErr))
			}
		}
	}
	result := map[string]Stats{}
	for name, s := range totals {
		result[name] = stats(*s)
	}
	return result
}

// slowerRate is the smaller rate of nginx and Kiln with empty bodies.
func slowerRate(rows []WarmRow, callers int) float64 {
	for _, r := range rows {
		if r.Callers == callers && r.Body == 0 {
			return min(r.Targets["nginx"].Rate, r.Targets["kiln"].Rate)
		}
	}
	return 1000
}

// workDir makes a folder for state and logs, which stays when the run fails.
func workDir() (string, error) {
	dir, err := filepath.Abs(filepath.Join(".kiln", "bench", time.Now().Format("20060102-150405")))
	if err != nil {
		return "", err
	}
	return dir, os.MkdirAll(dir, 0o755)
}
