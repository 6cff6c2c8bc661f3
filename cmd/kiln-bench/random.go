package main

import (
	"context"
	"fmt"

	"github.com/kilnfaas/kiln/orchestrator/docker"
)

// Random compares many functions called at random with one. What it costs that
// each of many containers is woken for its own request is nobody's fault: nginx in
// front of the same containers shows how much that is.
type Random struct {
	Functions int     `json:"functions"`
	Callers   int     `json:"callers"`
	Kiln      OneMany `json:"kiln"`
	Nginx     OneMany `json:"nginx"`
}

// OneMany is load on one function and on many.
type OneMany struct {
	One  Stats `json:"one"`
	Many Stats `json:"many"`
}

// Keeps is the share of the rate with one function that many leave.
func (o OneMany) Keeps() float64 { return o.Many.Rate / o.One.Rate }

const (
	// randomCallers is how many callers there are at a time.
	randomCallers = 16
	// randomMemory is each function's: all of them run at once, within the
	// gateway's memory budget.
	randomMemory = "64MiB"
)

// runRandom calls one function, then many at random, in turns, through Kiln and
// nginx.
func runRandom(ctx context.Context, p plan, engine *docker.Client, g *gateway, dir string) (r Random, err error) {
	p.say(fmt.Sprintf("deploying %d functions", p.functions))
	names, err := g.deployMany(ctx, p.functions, "many", "go", warmSpec(randomMemory))
	if err != nil {
		return r, err
	}
	upstreams := map[string]upstream{}
	processes := map[string][]int{}
	for _, name := range names {
		instance, err := g.instance(ctx, engine, name)
		if err != nil {
			return r, err
		}
		if upstreams[name], err = g.upstream(ctx, instance); err != nil {
			return r, err
		}
		processes[name] = family(instance.PID)
	}
	n, err := startNginx(dir, upstreams)
	if err != nil {
		return r, err
	}
	defer func() { err = joinErr(err, n.stop()) }()

	calling := func(way, addr string, proxy []int, names ...string) target {
		t := target{name: way, addr: addr, proxy: proxy}
		for i := range names {
			// A fixed shuffle: a multiplier coprime to the length visits all of them.
			name := names[(i*37+11)%len(names)]
			t.requests = append(t.requests, rawRequest(addr, "/invoke/"+name, nil))
			t.function = append(t.function, processes[name]...)
		}
		return t
	}
	p.say("one function against many")
	got := inTurns(ctx, p, []target{
		calling("kiln, one", g.addr, g.processes(), names[0]),
		calling("kiln, many", g.addr, g.processes(), names...),
		calling("nginx, one", n.addr, n.processes(), names[0]),
		calling("nginx, many", n.addr, n.processes(), names...),
	}, func(t target) sample { return closedLoop(ctx, t, randomCallers, p.stretch) })
	return Random{
		Functions: len(names), Callers: randomCallers,
		Kiln:  OneMany{One: got["kiln, one"], Many: got["kiln, many"]},
		Nginx: OneMany{One: got["nginx, one"], Many: got["nginx, many"]},
	}, nil
}

// randomRow is a way's part of a Random.
type randomRow struct {
	Way string
	OneMany
}

// Rows are the ways, for tables.
func (r Random) Rows() []randomRow { return []randomRow{{"nginx", r.Nginx}, {"kiln", r.Kiln}} }
