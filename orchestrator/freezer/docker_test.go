package freezer_test

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/docker"
	"github.com/kilnfaas/kiln/orchestrator/freezer"
)

// patience bounds what an engine is waited for, whose machine may be busy.
const patience = 30 * time.Second

// skip skips a test that needs what is not here, unless nothing may be skipped.
func skip(t *testing.T, why string, err error) {
	t.Helper()
	if os.Getenv("CI") == "true" || os.Getenv("KILN_REQUIRE_DOCKER") == "1" {
		t.Fatalf("%s: %v", why, err)
	}
	t.Skipf("%s: %v", why, err)
}

// realEngine is the machine's engine with freezing by cgroup.
func realEngine(t *testing.T) (*freezer.Engine, *docker.Client) {
	t.Helper()
	client, err := docker.Open(t.Context(), docker.Options{})
	if err != nil {
		skip(t, "no engine", err)
	}
	t.Cleanup(func() { client.Close() })
	engine := freezer.New(client, "")
	if !engine.Usable() {
		skip(t, "no access to cgroups", nil)
	}
	return engine, client
}

// TestRealContainer freezes a container of the real engine as often as it can
// and looks whether it stands still in between.
func TestRealContainer(t *testing.T) {
	engine, client := realEngine(t)
	labels := map[string]string{orchestrator.LabelOwner: "freezer-test"}
	c, err := engine.Run(t.Context(), orchestrator.ContainerConfig{
		Name: "kiln-freezer-test", Image: "debian:trixie-slim", Labels: labels, Network: "none",
		Command: []string{"sh", "-c", "trap 'echo bye; exit 0' TERM; while :; do echo tick; sleep 0.02; done"},
		Limits:  orchestrator.Limits{Memory: 32 * orchestrator.MiB, CPU: 1, Pids: 16},
	})
	if err != nil {
		skip(t, "no container", err)
	}
	t.Cleanup(func() { client.Stop(context.Background(), c.ID, 0) })
	ticks := func() (n int) {
		for line, err := range engine.Logs(t.Context(), c.ID, orchestrator.LogOptions{Tail: -1}) {
			if err != nil {
				t.Fatal(err)
			}
			if strings.TrimSpace(line.Text) == "tick" {
				n++
			}
		}
		return n
	}
	for ticks() == 0 {
		time.Sleep(10 * time.Millisecond)
	}

	const cycles = 100
	begin := time.Now()
	for range cycles {
		if err := engine.Freeze(t.Context(), c.ID); err != nil {
			t.Fatal(err)
		}
		if err := engine.Thaw(t.Context(), c.ID); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%v for a freeze and a thaw", time.Since(begin)/cycles)

	if err := engine.Freeze(t.Context(), c.ID); err != nil {
		t.Fatal(err)
	}
	if got, err := engine.Inspect(t.Context(), c.ID); err != nil || got.State != orchestrator.ContainerFrozen {
		t.Errorf("%s, %v", got.State, err)
	}
	// What was on its way to the log comes, and then nothing does.
	const still = time.Second // in which a running one ticks fifty times, and some also when the processor is others'
	before := -1
	for end := time.Now().Add(patience); ; time.Sleep(still) {
		after := ticks()
		if after == before {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%d ticks within %s while frozen", after-before, still)
		}
		before = after
	}
	// A new gateway, which did not freeze it, thaws it.
	if err := freezer.New(client, "").Thaw(t.Context(), c.ID); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(patience)
	for ticks() == before {
		if time.Now().After(deadline) {
			t.Fatal("it does not tick again")
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err := engine.Freeze(t.Context(), c.ID); err != nil {
		t.Fatal(err)
	}
	begin = time.Now()
	if err := engine.Stop(t.Context(), c.ID, 10*time.Second); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begin); took > 8*time.Second {
		t.Errorf("took %v to stop a frozen container: it did not get its SIGTERM", took)
	}
}
