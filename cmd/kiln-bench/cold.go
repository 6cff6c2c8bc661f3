package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/docker"
)

// Cold is the time to a first answer.
type Cold struct {
	Single []ColdRow  `json:"single"`
	Bursts []BurstRow `json:"bursts"`
}

// ColdRow is one language woken one way, again and again.
type ColdRow struct {
	Template string `json:"template"`
	Way      string `json:"way"` // docker-run, image, cell, frozen-cgroup, frozen-engine, unpause
	Samples  int    `json:"samples"`
	// Others came from somewhere else, such as the image when no cell waited, and
	// are in the figures all the same.
	Others int     `json:"others"`
	P50    float64 `json:"p50_ms"`
	P99    float64 `json:"p99_ms"`
	Max    float64 `json:"max_ms"`
}

// BurstRow is as many distinct functions called at once, all from zero.
type BurstRow struct {
	Template  string  `json:"template"`
	Way       string  `json:"way"`
	Functions int     `json:"functions"`
	Failures  int     `json:"failures"`
	P50       float64 `json:"p50_ms"`
	Last      float64 `json:"last_ms"`
	// Engine is the time the engine needs to start as many containers, all at
	// once, up to the last one's first answer.
	Engine float64 `json:"engine_ms"`
}

// coldSpec sends an idle instance away as soon as the gateway looks.
const (
	coldSpec = "scale: {max: 1, freeze_after: 0s, keep_alive: 1s}\n"
	// A burst takes as long as the engine needs for all its containers.
	burstSpec  = coldSpec + "timeout: 3m\n"
	frozenSpec = "scale: {max: 1, freeze_after: 1s, keep_alive: 1h}\n"
)

func runCold(ctx context.Context, p plan, engine *docker.Client, dir string) (c Cold, err error) {
	for _, way := range []string{"image", "cell"} {
		p.say("cold starts, way: " + way)
		if err := coldSingles(ctx, p, engine, dir, way, &c); err != nil {
			return c, err
		}
		p.say("bursts, way: " + way)
		if err := coldBursts(ctx, p, engine, dir, way, &c); err != nil {
			return c, err
		}
	}
	for _, freezer := range []string{"cgroup", "engine"} {
		p.say("frozen instances, freezer: " + freezer)
		if err := frozenWay(ctx, p, engine, dir, freezer, &c); err != nil {
			return c, err
		}
	}
	return c, nil
}

const (
	coldCells  = 4  // of a template, that wait
	burstCells = 32 // that a stock grows to
)

// coldCellsOf is how many cells a gateway keeps that wakes this way.
func coldCellsOf(way string) int {
	if way == "cell" {
		return coldCells
	}
	return 0
}

// coldSingles measures single starts of each language, in turns with plain
// containers. Each begins when all cells wait, so that none is being made beside.
func coldSingles(ctx context.Context, p plan, engine *docker.Client, dir, way string, c *Cold) (err error) {
	cells := coldCellsOf(way)
	g, err := startGateway(ctx, dir, way, fmt.Sprintf("KILN_CELLS=%d", cells), fmt.Sprintf("KILN_CELLS_MAX=%d", max(1, cells)))
	if err != nil {
		return err
	}
	defer func() { err = joinErr(err, g.stop(ctx)) }()
	calm := func(template string) error {
		if cells == 0 {
			return nil
		}
		return g.awaitCells(ctx, template, cells)
	}
	for _, template := range p.templates {
		name := "cold-" + template
		if err := g.deploy(ctx, name, template, coldSpec); err != nil {
			return err
		}
		config, err := likeInstance(ctx, g, engine, name)
		if err != nil {
			return err
		}
		var kiln, plain []time.Duration
		others := 0
		for range p.colds {
			if err := g.waitState(ctx, name, "at zero", atZero); err != nil {
				return err
			}
			if err := calm(template); err != nil {
				return err
			}
			took, err := firstAnswer(ctx, g.addr, "/invoke/"+name)
			if err != nil {
				return fmt.Errorf("cold call of %s: %w", name, err)
			}
			kiln = append(kiln, took)
			origin, err := g.origin(ctx, name)
			if err != nil {
				return err
			}
			if origin != way {
				others++
			}
			if err := calm(template); err != nil {
				return err
			}
			took, err = dockerRun(ctx, engine, config)
			if err != nil {
				return fmt.Errorf("docker run of %s: %w", name, err)
			}
			plain = append(plain, took)
		}
		row := coldRow(template, way, kiln)
		row.Others = others
		c.Single = append(c.Single, row, coldRow(template, "docker-run ("+way+" turn)", plain))
	}
	return nil
}

// coldBursts measures bursts of distinct functions.
func coldBursts(ctx context.Context, p plan, engine *docker.Client, dir, way string, c *Cold) (err error) {
	g, err := startGateway(ctx, dir, way+"-bursts", fmt.Sprintf("KILN_CELLS=%d", coldCellsOf(way)), fmt.Sprintf("KILN_CELLS_MAX=%d", burstCells))
	if err != nil {
		return err
	}
	defer func() { err = joinErr(err, g.stop(ctx)) }()
	for _, n := range p.bursts {
		row, err := burst(ctx, g, engine, n, way)
		if err != nil {
			return err
		}
		c.Bursts = append(c.Bursts, row)
	}
	return nil
}

// likeInstance returns the configuration of a function's container, under the
// benchmark's own labels, so that the gateway takes no notice of it.
func likeInstance(ctx context.Context, g *gateway, engine *docker.Client, name string) (orchestrator.ContainerConfig, error) {
	if _, err := firstAnswer(ctx, g.addr, "/invoke/"+name); err != nil {
		return orchestrator.ContainerConfig{}, err
	}
	f, err := g.client.Function(ctx, name)
	if err != nil {
		return orchestrator.ContainerConfig{}, err
	}
	revisions, err := g.client.Revisions(ctx, name)
	if err != nil {
		return orchestrator.ContainerConfig{}, err
	}
	release := orchestrator.Release{Spec: f.Spec, Revision: orchestrator.Revision{ID: f.Live}, Template: orchestrator.Template{Name: f.Spec.Template}}
	for _, r := range revisions {
		if r.ID == f.Live {
			release.Revision.Image = r.Image
		}
	}
	if release.Revision.Image == "" {
		return orchestrator.ContainerConfig{}, errors.New("the live revision has no image")
	}
	return release.Container(benchOwner, g.network), nil
}

// benchOwner labels containers that are nobody's but the benchmark's.
const benchOwner = "kiln-bench"

// dockerRun starts a container as the engine does for anybody, and returns the
// time to its first answer.
func dockerRun(ctx context.Context, engine *docker.Client, config orchestrator.ContainerConfig) (time.Duration, error) {
	config.Name = fmt.Sprintf("kiln-bench-%d", time.Now().UnixNano())
	start := time.Now()
	container, err := engine.Run(ctx, config)
	if err != nil {
		return 0, err
	}
	defer engine.Stop(context.WithoutCancel(ctx), container.ID, time.Second)
	addr := container.Addr + ":8080"
	for end := start.Add(idleTimeout); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if _, err := firstAnswer(ctx, addr, "/"); err == nil {
			return time.Since(start), nil
		}
	}
	return 0, fmt.Errorf("no answer from %s", addr)
}

// firstTimeout bounds a first answer: the last of a burst waits for the starts of
// all others.
const firstTimeout = 3 * time.Minute

// firstAnswer makes one call on a connection of its own and returns the time
// from dialling to the answer's first byte.
func firstAnswer(_ context.Context, addr, path string) (time.Duration, error) {
	start := time.Now()
	conn, err := net.DialTimeout("tcp", addr, dialTimeout)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(firstTimeout)); err != nil {
		return 0, err
	}
	request := strings.Replace(string(rawRequest(addr, path, nil)), "\r\n\r\n", "\r\nConnection: close\r\n\r\n", 1)
	if _, err := conn.Write([]byte(request)); err != nil {
		return 0, err
	}
	head := make([]byte, 512)
	n, err := conn.Read(head)
	took := time.Since(start)
	if err != nil {
		return 0, err
	}
	if !strings.HasPrefix(string(head[:n]), "HTTP/1.1 2") {
		line, _, _ := strings.Cut(string(head[:n]), "\r\n")
		return 0, fmt.Errorf("answer %q", line)
	}
	return took, nil
}

// burst calls n distinct functions at once, all from zero, and has the engine
// start as many containers for comparison.
func burst(ctx context.Context, g *gateway, engine *docker.Client, n int, way string) (BurstRow, error) {
	const template = "python"
	row := BurstRow{Template: template, Way: way, Functions: n}
	prefix := fmt.Sprintf("burst%d", n)
	names, err := g.deployMany(ctx, n, prefix, template, burstSpec)
	if err != nil {
		return row, err
	}
	config, err := likeInstance(ctx, g, engine, names[0])
	if err != nil {
		return row, err
	}
	for _, name := range names {
		if err := g.waitState(ctx, name, "at zero", atZero); err != nil {
			return row, err
		}
	}
	if cells := coldCellsOf(way); cells > 0 {
		if err := g.awaitCells(ctx, template, cells); err != nil {
			return row, err
		}
	}
	took, errs := atOnce(n, func(i int) (time.Duration, error) { return firstAnswer(ctx, g.addr, "/invoke/"+names[i]) })
	for _, err := range errs {
		if err != nil {
			row.Failures++
		}
	}
	all := coldRow(template, way, took)
	row.P50, row.Last = all.P50, all.Max
	started := time.Now()
	containers := make([]string, n)
	_, errs = atOnce(n, func(i int) (time.Duration, error) {
		c := config
		c.Name = fmt.Sprintf("kiln-bench-%d-%d", started.UnixNano(), i)
		container, err := engine.Run(ctx, c)
		containers[i] = container.ID
		if err != nil {
			return 0, err
		}
		for {
			took, err := firstAnswer(ctx, container.Addr+":8080", "/")
			if err == nil || time.Since(started) > idleTimeout {
				return took, err
			}
			time.Sleep(time.Millisecond)
		}
	})
	row.Engine = float64(time.Since(started).Microseconds()) / 1000
	atOnce(n, func(i int) (time.Duration, error) {
		return 0, engine.Stop(context.WithoutCancel(ctx), containers[i], time.Second)
	})
	for _, name := range names {
		errs = append(errs, g.client.Remove(ctx, name))
	}
	return row, errors.Join(errs...)
}

func atOnce(n int, f func(int) (time.Duration, error)) ([]time.Duration, []error) {
	took, errs := make([]time.Duration, n), make([]error, n)
	var wait sync.WaitGroup
	for i := range n {
		wait.Go(func() { took[i], errs[i] = f(i) })
	}
	wait.Wait()
	return took, errs
}

// frozenWay measures calls of a function whose instance is frozen; with the
// engine's freezer also, in turns, how long the engine alone needs to thaw.
func frozenWay(ctx context.Context, p plan, engine *docker.Client, dir, freezer string, c *Cold) (err error) {
	g, err := startGateway(ctx, dir, "frozen-"+freezer, "KILN_FREEZER="+freezer, "KILN_CELLS=0")
	if err != nil {
		return err
	}
	defer func() { err = joinErr(err, g.stop(ctx)) }()
	for _, template := range p.templates {
		name := "frozen-" + template
		if err := g.deploy(ctx, name, template, frozenSpec); err != nil {
			return err
		}
		thaw := func() (time.Duration, error) { return 0, nil }
		if freezer == "engine" {
			var end func()
			if thaw, end, err = thawing(ctx, g, engine, name); err != nil {
				return err
			}
			defer end()
		}
		var took, plain []time.Duration
		for range p.colds {
			if err := g.waitState(ctx, name, "frozen", frozen); err != nil {
				return err
			}
			d, err := firstAnswer(ctx, g.addr, "/invoke/"+name)
			if err != nil {
				return err
			}
			alone, err := thaw()
			if err != nil {
				return err
			}
			took, plain = append(took, d), append(plain, alone)
		}
		c.Single = append(c.Single, coldRow(template, "frozen-"+freezer, took))
		if freezer == "engine" {
			c.Single = append(c.Single, coldRow(template, "unpause", plain))
		}
	}
	return nil
}

// thawing runs a container like a function's and returns what freezes it and
// measures the engine's thaw, and what ends it.
func thawing(ctx context.Context, g *gateway, engine *docker.Client, name string) (thaw func() (time.Duration, error), end func(), err error) {
	config, err := likeInstance(ctx, g, engine, name)
	if err != nil {
		return nil, nil, err
	}
	config.Name = fmt.Sprintf("kiln-bench-%d", time.Now().UnixNano())
	container, err := engine.Run(ctx, config)
	if err != nil {
		return nil, nil, err
	}
	thaw = func() (time.Duration, error) {
		if err := engine.Freeze(ctx, container.ID); err != nil {
			return 0, err
		}
		start := time.Now()
		err := engine.Thaw(ctx, container.ID)
		return time.Since(start), err
	}
	return thaw, func() { engine.Stop(context.WithoutCancel(ctx), container.ID, time.Second) }, nil
}
