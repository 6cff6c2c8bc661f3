// Package enginetest holds what proves and replaces an engine in tests: the
// conformance suite of orchestrator.Engine, Images and Builder (Run), and Fake,
// an engine in memory that passes it.
package enginetest

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/kilnfaas/kiln/orchestrator"
)

// Subject is an implementation under test. Its Labels and Prefix must be of this
// test alone: the suite asserts on everything that carries them.
type Subject struct {
	Engine  orchestrator.Engine
	Images  orchestrator.Images
	Builder orchestrator.Builder
	// Probe is an image that runs the probe at /probe without arguments.
	Probe string
	// Labels are put on all that the suite makes.
	Labels map[string]string
	// Prefix begins the names of all that the suite makes. It suits names of
	// containers, images and networks.
	Prefix string
	// Network exists, and the test reaches the containers on it.
	Network string
}

// Run checks an implementation against the contracts. factory is called for
// each test, and removes by t.Cleanup what the test could not. The tests run
// one after the other.
func Run(t *testing.T, factory func(t *testing.T) Subject) {
	for _, part := range []struct {
		name  string
		tests []suiteTest
	}{
		{"Containers", containerTests},
		{"Freezing", freezeTests},
		{"Events", eventTests},
		{"Logs", logTests},
		{"Images", imageTests},
		{"Builds", buildTests},
	} {
		t.Run(part.name, func(t *testing.T) { runTests(t, part.tests, factory) })
	}
}

// RunBuilds checks the Builder only, for engines with several.
func RunBuilds(t *testing.T, factory func(t *testing.T) Subject) { runTests(t, buildTests, factory) }

// RunFreezing checks Freeze and Thaw only, for decorators that change them.
func RunFreezing(t *testing.T, factory func(t *testing.T) Subject) { runTests(t, freezeTests, factory) }

func runTests(t *testing.T, tests []suiteTest, factory func(t *testing.T) Subject) {
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) { test.run(t, &bench{Subject: factory(t)}) })
	}
}

type suiteTest struct {
	name string
	run  func(t *testing.T, b *bench)
}

// bench is a subject with what the tests do again and again.
type bench struct {
	Subject
	serial int
}

const (
	// patience bounds each wait of the suite. It is for failures only: the slowest
	// wait that succeeds takes a few seconds on a loaded machine.
	patience = 60 * time.Second
	// pollEvery is how often the suite asks for what no event tells.
	pollEvery = 20 * time.Millisecond
)

// ctx returns a context that ends with the test, or with the suite's patience.
func (b *bench) ctx(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// config is a container that serves the probe.
func (b *bench) config() orchestrator.ContainerConfig {
	b.serial++
	return orchestrator.ContainerConfig{
		Name:    fmt.Sprintf("%s-%d", b.Prefix, b.serial),
		Image:   b.Probe,
		Env:     map[string]string{"PORT": strconv.Itoa(orchestrator.InstancePort)},
		Labels:  maps.Clone(b.Labels),
		Limits:  orchestrator.Limits{Memory: 64 * orchestrator.MiB, CPU: 1, Pids: 64},
		Tmpfs:   []orchestrator.Tmpfs{{Path: "/tmp", Size: orchestrator.MiB}},
		Network: b.Network,
	}
}

// script is a container that carries out lines and ends.
func (b *bench) script(lines ...string) orchestrator.ContainerConfig {
	config := b.config()
	config.Command = append([]string{"script"}, lines...)
	return config
}

// run starts a container and stops it after the test.
func (b *bench) run(t *testing.T, config orchestrator.ContainerConfig) orchestrator.Container {
	t.Helper()
	c, err := b.Engine.Run(b.ctx(t), config)
	if err != nil {
		t.Fatalf("Run(%s): %v", config.Name, err)
	}
	t.Cleanup(func() {
		if err := b.Engine.Stop(context.Background(), c.ID, 0); err != nil {
			t.Errorf("Stop(%s): %v", config.Name, err)
		}
	})
	return c
}

// serve starts a container and waits until it answers.
func (b *bench) serve(t *testing.T, config orchestrator.ContainerConfig) orchestrator.Container {
	t.Helper()
	c := b.run(t, config)
	b.await(t, "the probe answers", func() bool {
		_, err := get(b.ctx(t), c, "/_kiln/ready")
		return err == nil
	})
	return c
}

// await returns once a condition holds.
func (b *bench) await(t *testing.T, what string, condition func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for ticker := time.NewTicker(pollEvery); ; <-ticker.C {
		if condition() {
			ticker.Stop()
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("after %s still not: %s", patience, what)
		}
	}
}

// awaitExit returns the container once it has ended.
func (b *bench) awaitExit(t *testing.T, id string) orchestrator.Container {
	t.Helper()
	var c orchestrator.Container
	b.await(t, "the container has exited", func() bool {
		var err error
		c, err = b.Engine.Inspect(b.ctx(t), id)
		if err != nil {
			t.Fatalf("Inspect: %v", err)
		}
		return c.State == orchestrator.ContainerExited
	})
	return c
}

// maxAnswer bounds what the suite reads of a probe's answer.
const maxAnswer = 1 << 20

// get asks the probe in a container; a status other than 200 is an error.
func get(ctx context.Context, c orchestrator.Container, path string) (string, error) {
	address := net.JoinHostPort(c.Addr, strconv.Itoa(orchestrator.InstancePort))
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+path, nil)
	if err != nil {
		return "", err
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err != nil {
		return "", err
	}
	if response.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s: %s: %s", path, response.Status, strings.TrimSpace(string(body)))
	}
	return string(body), nil
}
