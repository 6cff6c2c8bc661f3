package main

import (
	"context"
	"fmt"
	"time"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/docker"
)

// Memory is what idle things cost.
type Memory struct {
	Gateway   []GatewayMemory  `json:"gateway"`
	Instances []InstanceMemory `json:"instances"`
}

// GatewayMemory is the gateway's resident memory with functions at zero.
type GatewayMemory struct {
	Functions int     `json:"functions"`
	MiB       float64 `json:"rss_mib"`
	ListMS    float64 `json:"list_ms"`   // GET /v1/functions
	DeployMS  float64 `json:"deploy_ms"` // p50 of those deployed for this row, all of them built before
	Failures  int     `json:"failures"`  // of one call to each
}

// InstanceMemory is an idle instance's cgroup, page cache aside.
type InstanceMemory struct {
	Template string  `json:"template"`
	MiB      float64 `json:"rss_mib"`
}

// settle is how long the gateway gets to return what set-up used.
const settle = 5 * time.Second

func runMemory(ctx context.Context, p plan, engine *docker.Client, dir string) (m Memory, err error) {
	g, err := startGateway(ctx, dir, "memory", "KILN_CELLS=0")
	if err != nil {
		return m, err
	}
	defer func() { err = joinErr(err, g.stop(ctx)) }()
	deployed := 0
	for _, n := range p.memory {
		row := GatewayMemory{Functions: n}
		p.say(fmt.Sprintf("deploying functions up to %d", n))
		if err := deployMixed(ctx, g, deployed, n, &row); err != nil {
			return m, err
		}
		deployed = n
		time.Sleep(settle)
		start := time.Now()
		if _, err := g.client.Functions(ctx); err != nil {
			return m, err
		}
		row.ListMS = float64(time.Since(start).Microseconds()) / 1000
		rss, err := g.rss()
		if err != nil {
			return m, err
		}
		row.MiB = float64(rss) / float64(orchestrator.MiB)
		m.Gateway = append(m.Gateway, row)
	}
	for _, template := range p.templates {
		name := "idle-" + template
		if err := g.deploy(ctx, name, template, "scale: {min: 1, freeze_after: 0s}\n"); err != nil {
			return m, err
		}
		container, err := g.instance(ctx, engine, name)
		if err != nil {
			return m, err
		}
		used, err := cgroupMemory(container)
		if err != nil {
			p.say("memory of an instance: " + err.Error())
			continue
		}
		m.Instances = append(m.Instances, InstanceMemory{Template: template, MiB: float64(used) / float64(orchestrator.MiB)})
	}
	return m, nil
}

// mixture are the templates that functions for the gateway's memory take in turn.
var mixture = []string{"python", "node", "go", "exec"}

// deployMixed deploys functions number from to to-1, one after the other, and
// then calls each of them once, from zero unless it was just proven.
func deployMixed(ctx context.Context, g *gateway, from, to int, row *GatewayMemory) error {
	var took []time.Duration
	for i := from; i < to; i++ {
		start := time.Now()
		if err := g.deploy(ctx, mixedName(i), mixture[i%len(mixture)], coldSpec); err != nil {
			return err
		}
		if i >= len(mixture) { // the first of each template builds
			took = append(took, time.Since(start))
		}
	}
	if len(took) > 0 {
		row.DeployMS = coldRow("", "", took).P50
	}
	for i := range to {
		if _, err := firstAnswer(ctx, g.addr, "/invoke/"+mixedName(i)); err != nil {
			row.Failures++
		}
	}
	return nil
}

func mixedName(i int) string { return fmt.Sprintf("%s-%d", mixture[i%len(mixture)], i) }
