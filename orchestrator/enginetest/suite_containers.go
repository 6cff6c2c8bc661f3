package enginetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kilnfaas/kiln/orchestrator"
)

var containerTests = []suiteTest{
	{"RunInspectListStop", testLifecycle},
	{"EnvironmentAndCommand", testEnvironment},
	{"Secrets", testSecrets},
	{"NameInUse", testNameInUse},
	{"RefusedConfigurations", testRefused},
	{"Exited", testExited},
	{"StopGraceful", testStopGraceful},
	{"StopKills", testStopKills},
	{"StopUnknown", testStopUnknown},
	{"StopTwiceAtOnce", testStopTwice},
	{"Limit", testLimit},
	{"SixteenAtOnce", testConcurrentRuns},
	{"CancelledRunLeavesNothing", testCancelledRun},
	{"EndedContexts", testEndedContexts},
	{"Network", testNetwork},
	{"Info", testInfo},
}

func testLifecycle(t *testing.T, b *bench) {
	ctx := b.ctx(t)
	config := b.config()
	config.Labels["dev.kiln.test.own"] = "yes"
	before := time.Now()
	ran := b.serve(t, config)

	image, err := b.Images.Image(ctx, b.Probe)
	if err != nil {
		t.Fatalf("Image: %v", err)
	}
	want := orchestrator.Container{
		ID: ran.ID, Name: config.Name, Image: b.Probe, ImageID: image.ID, State: orchestrator.ContainerRunning,
		Addr: ran.Addr, PID: ran.PID, CreatedAt: ran.CreatedAt, Labels: ran.Labels,
	}
	if ran.ID == "" || ran.Addr == "" || ran.PID == 0 || ran.CreatedAt.Before(before.Add(-time.Minute)) {
		t.Errorf("Run left out the id, the address, the process or the time: %+v", ran)
	}
	if diff := cmp.Diff(want, ran); diff != "" {
		t.Errorf("Run (-want +got):\n%s", diff)
	}
	if !hasAll(ran.Labels, config.Labels) {
		t.Errorf("labels: got %v, want at least %v", ran.Labels, config.Labels)
	}
	inspected, err := b.Engine.Inspect(ctx, ran.ID)
	if err != nil {
		t.Fatalf("Inspect: %v", err)
	}
	if diff := cmp.Diff(ran, inspected); diff != "" {
		t.Errorf("Inspect differs from Run (-run +inspect):\n%s", diff)
	}
	listed, err := b.Engine.List(ctx, config.Labels)
	if err != nil || len(listed) != 1 {
		t.Fatalf("List: got %v, %v; want the container", listed, err)
	}
	listed[0].PID, listed[0].CreatedAt = ran.PID, ran.CreatedAt // may be missing, may be rounded
	if diff := cmp.Diff(ran, listed[0]); diff != "" {
		t.Errorf("List differs from Run (-run +list):\n%s", diff)
	}
	for _, labels := range []map[string]string{{"dev.kiln.test.own": "no"}, {"dev.kiln.test.absent": ""}} {
		merged := maps.Clone(b.Labels)
		maps.Copy(merged, labels)
		if others, err := b.Engine.List(ctx, merged); err != nil || len(others) != 0 {
			t.Errorf("List(%v): got %v, %v; want none", labels, others, err)
		}
	}
	if err := b.Engine.Stop(ctx, ran.ID, 5*time.Second); err != nil {
		t.Fatalf("Stop: %v", err)
	}
	if _, err := b.Engine.Inspect(ctx, ran.ID); !errors.Is(err, orchestrator.ErrNotFound) {
		t.Errorf("Inspect after Stop: got %v, want ErrNotFound", err)
	}
	b.wantNone(t)
}

// wantNone fails unless no container of the test is left.
func (b *bench) wantNone(t *testing.T) {
	t.Helper()
	list, err := b.Engine.List(b.ctx(t), b.Labels)
	if err != nil || len(list) != 0 {
		t.Errorf("List: got %+v, %v; want none", list, err)
	}
}

func testEnvironment(t *testing.T, b *bench) {
	config := b.config()
	config.Command = []string{"serve"}
	config.Env["KILN_TEST"] = "a=b c\n\"d\" é"
	c := b.serve(t, config)
	got, err := get(b.ctx(t), c, "/env?name=KILN_TEST")
	if err != nil || got != config.Env["KILN_TEST"] {
		t.Errorf("environment: got %q, %v; want %q", got, err, config.Env["KILN_TEST"])
	}
}

// testSecrets looks for each value where it belongs: whole, whatever is in it, and
// there when the command begins.
func testSecrets(t *testing.T, b *bench) {
	every := make([]byte, 256)
	for i := range every {
		every[i] = byte(i)
	}
	config := b.config()
	config.Command = []string{"serve"} // replaces the image's also when secrets come first
	config.Secrets = map[string][]byte{
		"API_KEY": []byte("s3cret\n"), "every.byte": every,
		"largest": bytes.Repeat([]byte("k"), int(orchestrator.MaxSecret)),
	}
	for i := range 8 { // more than a pipe holds
		config.Secrets[fmt.Sprintf("more-%d", i)] = bytes.Repeat([]byte{byte(i)}, int(orchestrator.MaxSecret))
	}
	for range 2 { // the first has more to prepare
		config.Name = b.config().Name
		c := b.serve(t, config)
		for name, want := range config.Secrets {
			got, err := get(b.ctx(t), c, "/file?path="+orchestrator.SecretsPath+"/"+name)
			if err != nil || got != string(want) {
				t.Errorf("secret %s: got %d bytes, %v; want %d", name, len(got), err, len(want))
			}
		}
	}
}

func testNameInUse(t *testing.T, b *bench) {
	config := b.config()
	first := b.serve(t, config)
	if _, err := b.Engine.Run(b.ctx(t), config); !errors.Is(err, orchestrator.ErrConflict) {
		t.Errorf("Run of a name in use: got %v, want ErrConflict", err)
	}
	if _, err := get(b.ctx(t), first, "/_kiln/ready"); err != nil {
		t.Errorf("the first container was disturbed: %v", err)
	}
}

func testRefused(t *testing.T, b *bench) {
	for _, test := range []struct {
		name   string
		change func(*orchestrator.ContainerConfig)
		want   error
	}{
		{"unknown image", func(c *orchestrator.ContainerConfig) { c.Image = b.Prefix + "/absent:1" }, orchestrator.ErrNotFound},
		{"unknown network", func(c *orchestrator.ContainerConfig) { c.Network = b.Prefix + "-absent" }, orchestrator.ErrNotFound},
		{"too little memory", func(c *orchestrator.ContainerConfig) { c.Limits.Memory = orchestrator.KiB }, orchestrator.ErrInvalid},
		{"too many cores", func(c *orchestrator.ContainerConfig) { c.Limits.CPU = 10_000 }, orchestrator.ErrInvalid},
	} {
		config := b.config()
		test.change(&config)
		if _, err := b.Engine.Run(b.ctx(t), config); !errors.Is(err, test.want) {
			t.Errorf("%s: got %v, want %v", test.name, err, test.want)
		}
	}
	b.wantNone(t)
}

func testExited(t *testing.T, b *bench) {
	c := b.run(t, b.script("exit 7"))
	got := b.awaitExit(t, c.ID)
	if got.ExitCode != 7 || got.Addr != "" || got.PID != 0 || got.OOMKilled {
		t.Errorf("Inspect: got %+v; want exit code 7, no address, no process", got)
	}
	list, err := b.Engine.List(b.ctx(t), b.Labels)
	if err != nil || len(list) != 1 || list[0].State != orchestrator.ContainerExited || list[0].ExitCode != 7 || list[0].Addr != "" {
		t.Errorf("List: got %+v, %v; want it exited with code 7", list, err)
	}
	if err := b.Engine.Stop(b.ctx(t), c.ID, time.Second); err != nil {
		t.Errorf("Stop of what has exited: %v", err)
	}
	b.wantNone(t)
}

func testStopGraceful(t *testing.T, b *bench) {
	died := b.follow(t, b.Labels)
	c := b.serve(t, b.config())
	if err := b.Engine.Stop(b.ctx(t), c.ID, 30*time.Second); err != nil {
		t.Fatalf("Stop: %v", err)
	}
	if e := died.next(t, orchestrator.EventDied); e.ExitCode != 0 {
		t.Errorf("exit code: got %d, want the 0 of a program that SIGTERM asked to end", e.ExitCode)
	}
	b.wantNone(t)
}

func testStopKills(t *testing.T, b *bench) {
	config := b.config()
	config.Env["PROBE_IGNORE_TERM"] = "1"
	died := b.follow(t, b.Labels)
	c := b.serve(t, config)
	const grace = time.Second
	started := time.Now()
	if err := b.Engine.Stop(b.ctx(t), c.ID, grace); err != nil {
		t.Fatalf("Stop: %v", err)
	}
	if took := time.Since(started); took < grace {
		t.Errorf("Stop killed after %s, before the grace of %s", took, grace)
	}
	if e := died.next(t, orchestrator.EventDied); e.ExitCode != exitKilled {
		t.Errorf("exit code: got %d, want %d", e.ExitCode, exitKilled)
	}
	b.wantNone(t)
}

func testStopUnknown(t *testing.T, b *bench) {
	for _, grace := range []time.Duration{0, time.Second} {
		if err := b.Engine.Stop(b.ctx(t), b.Prefix+"-absent", grace); err != nil {
			t.Errorf("Stop(grace %s): got %v, want nil", grace, err)
		}
	}
}

func testStopTwice(t *testing.T, b *bench) {
	c := b.serve(t, b.config())
	var stops sync.WaitGroup
	for range 4 {
		stops.Go(func() {
			if err := b.Engine.Stop(b.ctx(t), c.ID, time.Second); err != nil {
				t.Errorf("Stop: %v", err)
			}
		})
	}
	stops.Wait()
	b.wantNone(t)
}

func testLimit(t *testing.T, b *bench) {
	ctx := b.ctx(t)
	c := b.serve(t, b.config())
	more := orchestrator.Limits{Memory: 96 * orchestrator.MiB, CPU: 0.5, Pids: 32}
	if err := b.Engine.Limit(ctx, c.ID, more); err != nil {
		t.Errorf("Limit: %v", err)
	}
	if err := b.Engine.Limit(ctx, c.ID, orchestrator.Limits{CPU: 10_000}); !errors.Is(err, orchestrator.ErrInvalid) {
		t.Errorf("Limit beyond the machine: got %v, want ErrInvalid", err)
	}
	if err := b.Engine.Limit(ctx, b.Prefix+"-absent", more); !errors.Is(err, orchestrator.ErrNotFound) {
		t.Errorf("Limit of an unknown container: got %v, want ErrNotFound", err)
	}
}

func testConcurrentRuns(t *testing.T, b *bench) {
	const n = 16
	configs := make([]orchestrator.ContainerConfig, n)
	for i := range configs {
		configs[i] = b.config()
	}
	ran := make([]orchestrator.Container, n)
	var runs sync.WaitGroup
	for i := range n {
		runs.Go(func() {
			var err error
			if ran[i], err = b.Engine.Run(b.ctx(t), configs[i]); err != nil {
				t.Errorf("Run: %v", err)
			}
		})
	}
	runs.Wait()
	addresses := map[string]bool{}
	for _, c := range ran {
		addresses[c.Addr] = true
	}
	if len(addresses) != n {
		t.Errorf("%d containers have %d addresses: %v", n, len(addresses), slices.Sorted(maps.Keys(addresses)))
	}
	if list, err := b.Engine.List(b.ctx(t), b.Labels); err != nil || len(list) != n {
		t.Errorf("List: got %d containers, %v; want %d", len(list), err, n)
	}
	var stops sync.WaitGroup
	for _, c := range ran {
		stops.Go(func() {
			if err := b.Engine.Stop(b.ctx(t), c.ID, 0); err != nil {
				t.Errorf("Stop: %v", err)
			}
		})
	}
	stops.Wait()
	b.wantNone(t)
}

// testCancelledRun gives Runs up at different moments.
func testCancelledRun(t *testing.T, b *bench) {
	for after := time.Duration(0); after < 200*time.Millisecond; after += 40 * time.Millisecond {
		ctx, cancel := context.WithCancel(t.Context())
		timer := time.AfterFunc(after, cancel)
		c, err := b.Engine.Run(ctx, b.config())
		timer.Stop()
		cancel()
		switch {
		case err == nil: // it was faster
			if err := b.Engine.Stop(b.ctx(t), c.ID, 0); err != nil {
				t.Errorf("Stop: %v", err)
			}
		case !errors.Is(err, context.Canceled):
			t.Errorf("Run cancelled after %s: got %v, want context.Canceled", after, err)
		}
	}
	b.await(t, "nothing is left of cancelled runs", func() bool {
		list, err := b.Engine.List(b.ctx(t), b.Labels)
		return err == nil && len(list) == 0
	})
}

func testEndedContexts(t *testing.T, b *bench) {
	c := b.run(t, b.config())
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	late, cancelLate := context.WithDeadline(t.Context(), time.Unix(0, 0))
	defer cancelLate()
	for name, call := range map[string]func(ctx context.Context) error{
		"Run":     func(ctx context.Context) error { _, err := b.Engine.Run(ctx, b.config()); return err },
		"Inspect": func(ctx context.Context) error { _, err := b.Engine.Inspect(ctx, c.ID); return err },
		"List":    func(ctx context.Context) error { _, err := b.Engine.List(ctx, b.Labels); return err },
		"Freeze":  func(ctx context.Context) error { return b.Engine.Freeze(ctx, c.ID) },
		"Thaw":    func(ctx context.Context) error { return b.Engine.Thaw(ctx, c.ID) },
		"Stop":    func(ctx context.Context) error { return b.Engine.Stop(ctx, c.ID, time.Second) },
		"Image":   func(ctx context.Context) error { _, err := b.Images.Image(ctx, b.Probe); return err },
	} {
		if err := call(cancelled); !errors.Is(err, context.Canceled) {
			t.Errorf("%s with a cancelled context: got %v, want context.Canceled", name, err)
		}
		if err := call(late); !errors.Is(err, orchestrator.ErrDeadline) {
			t.Errorf("%s after its deadline: got %v, want ErrDeadline", name, err)
		}
	}
}

var compareAddresses = cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })

func testNetwork(t *testing.T, b *bench) {
	for range 2 {
		network, err := b.Engine.EnsureNetwork(b.ctx(t), orchestrator.NetworkConfig{Name: b.Network, Labels: b.Labels})
		if err != nil {
			t.Errorf("EnsureNetwork of what exists: %v", err)
		}
		if network.Name != b.Network || network.Bridge == "" || len(network.Subnets) == 0 {
			t.Errorf("EnsureNetwork leaves something out: %+v", network)
		}
		listed, err := b.Engine.Networks(b.ctx(t), network.Labels)
		if err != nil {
			t.Errorf("Networks: %v", err)
		}
		if !slices.ContainsFunc(listed, func(n orchestrator.Network) bool { return cmp.Equal(n, network, compareAddresses) }) {
			t.Errorf("Networks: got %+v, want %+v among them", listed, network)
		}
	}
	if listed, err := b.Engine.Networks(b.ctx(t), map[string]string{"dev.kiln.test": b.Prefix + "-nobody"}); err != nil || len(listed) != 0 {
		t.Errorf("Networks with labels that none has: got %+v, %v", listed, err)
	}
}

func testInfo(t *testing.T, b *bench) {
	info, err := b.Engine.Info(b.ctx(t))
	if err != nil {
		t.Fatalf("Info: %v", err)
	}
	if info.Version == "" || info.APIVersion == "" || info.CPUs < 1 || info.Memory < orchestrator.MiB || len(info.Runtimes) == 0 {
		t.Errorf("Info leaves something out: %+v", info)
	}
	if !slices.Contains(info.Runtimes, info.Runtime) {
		t.Errorf("the default runtime %q is none of %q", info.Runtime, info.Runtimes)
	}
	if info.CgroupVersion != "1" && info.CgroupVersion != "2" {
		t.Errorf("cgroup version: got %q", info.CgroupVersion)
	}
}
