package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"time"
)

// Soak is load for a long time on a function whose instances come, freeze, thaw
// and go underneath.
type Soak struct {
	Seconds float64 `json:"seconds"`
	Rate    float64 `json:"rate"` // asked for: half of the maximum
	Load    Stats   `json:"load"`
	// Changes is how often the number of instances asked for changed; Least and
	// Most are how many there were, frozen ones included.
	Changes int `json:"changes"`
	Least   int `json:"least_instances"`
	Most    int `json:"most_instances"`
}

const (
	soakCallers = 16
	// soakLow and soakHigh are the least numbers of instances that are asked for in
	// turn. Half the load keeps one or two busy, so that the others freeze and go.
	soakLow, soakHigh = 1, 5
	// soakLook is how often the instances are counted.
	soakLook = 250 * time.Millisecond
)

// soakSpec has few slots, so that the most recently used instance is picked and
// the others become idle, and sends idle ones away soon.
func soakSpec() string {
	return fmt.Sprintf("concurrency: 2\nresources: {cpu: %d, memory: 128MiB}\nscale: {min: %d, max: 8, freeze_after: 1s, keep_alive: 2s}\n",
		runtime.NumCPU(), soakLow)
}

func runSoak(ctx context.Context, p plan, dir string) (s Soak, err error) {
	g, err := startGateway(ctx, dir, "soak")
	if err != nil {
		return s, err
	}
	defer func() { err = joinErr(err, g.stop(ctx)) }()
	if err := g.deploy(ctx, "soak", "go", soakSpec()); err != nil {
		return s, err
	}
	t := target{name: "kiln", addr: g.addr, requests: [][]byte{rawRequest(g.addr, "/invoke/soak", nil)}, proxy: g.processes()}
	closedLoop(ctx, t, soakCallers, p.warmUp)
	s.Seconds, s.Rate = p.soak.Seconds(), closedLoop(ctx, t, soakCallers, p.stretch).rate()/2
	p.say(fmt.Sprintf("%s of %.0f/s, scaling underneath", p.soak, s.Rate))

	during, stop := context.WithCancel(ctx)
	defer stop()
	var wait sync.WaitGroup
	var scaling error
	wait.Go(func() { scaling = s.scale(during, g, p.soakTurn) })
	load := openLoop(ctx, t, soakCallers, s.Rate, p.soak)
	stop()
	wait.Wait()
	if load.firstErr != nil {
		p.say(fmt.Sprintf("%d failures, the first: %v", load.failures, load.firstErr))
	}
	s.Load = stats(load)
	if scaling == nil && s.Most == s.Least {
		// The gateway starts nothing beside a ready instance while the processors
		// are used up, by others perhaps.
		p.say(fmt.Sprintf("there were %d instances all the time: nothing was scaled", s.Most))
	}
	return s, scaling
}

// scale asks for more and for fewer instances in turn and counts them, until ctx
// ends.
func (s *Soak) scale(ctx context.Context, g *gateway, turn time.Duration) error {
	look := time.NewTicker(soakLook)
	defer look.Stop()
	change := time.NewTicker(turn)
	defer change.Stop()
	for low := true; ; {
		var err error
		select {
		case <-ctx.Done():
			return nil
		case <-change.C:
			least := soakLow
			if low = !low; !low {
				least = soakHigh
			}
			_, err = g.client.Configure(ctx, "soak", map[string]any{"scale": map[string]any{"min": least}})
			s.Changes++
		case <-look.C:
			err = s.count(ctx, g)
		}
		if err != nil && !errors.Is(err, context.Canceled) {
			return err
		}
	}
}

// count notes how many instances there are.
func (s *Soak) count(ctx context.Context, g *gateway) error {
	status, err := g.client.Instances(ctx, "soak")
	if err != nil {
		return err
	}
	n := status.Ready + status.Frozen
	s.Most = max(s.Most, n)
	if s.Least == 0 || n < s.Least {
		s.Least = n
	}
	return nil
}
