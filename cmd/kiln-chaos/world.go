package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/docker"
)

// Functions of a world, beside the steady ones.
const (
	sleepyName = "sleepy"
	// changers are functions that are deployed and removed all the time.
	changers = 2
)

// world is what faults happen to: an engine, a gateway, and functions that are
// called and changed all the time. Faults use it from one goroutine.
type world struct {
	o       options
	dir     string
	random  *rand.Rand
	engine  *engine
	docker  *docker.Client // of engine
	gateway *gateway
	owner   string // label of what the gateway made
	ledger  *ledger
	journal *journal
	steady  []string // names

	deployed     atomic.Int64 // changes that were acknowledged
	slowestStart time.Duration
	slowestBack  time.Duration
	cuts         int

	excuses []*excuse // of the fault under way

	mu         sync.Mutex
	violations []string       // guarded by mu; of the fault under way
	versions   map[string]int // guarded by mu; the last that was deployed or tried
}

// steadyFunctions are how many are called all the time.
const steadyFunctions = 2

// newWorld starts an engine and a gateway in dir and deploys the functions.
func newWorld(ctx context.Context, o options, dir string) (_ *world, err error) {
	w := &world{
		o: o, dir: dir, random: rand.New(rand.NewPCG(o.seed, 0)), ledger: newLedger(), versions: map[string]int{},
		engine: &engine{},
	}
	if o.own {
		w.engine.dir = filepath.Join(dir, "engine")
	}
	if w.gateway, err = newGateway(o.kiln, dir, w.engine.host()); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.close())
		}
	}()
	if err := os.MkdirAll(w.gateway.data(), 0o755); err != nil {
		return nil, err
	}
	// Small, to be filled, and gone with the mount namespace.
	if err := unix.Mount("tmpfs", w.gateway.data(), "tmpfs", 0, "size="+diskSize+",mode=700"); err != nil {
		return nil, fmt.Errorf("mount a data folder: %w", err)
	}
	if o.own {
		if err := w.furnishEngine(ctx); err != nil {
			return nil, err
		}
	}
	if w.docker, err = docker.Open(ctx, docker.Options{Host: w.engine.host()}); err != nil {
		return nil, err
	}
	o.say("starting a gateway")
	if _, err := w.gateway.start(ctx); err != nil {
		return nil, err
	}
	w.owner, err = w.engine.docker(ctx, "network", "inspect", "--format", `{{index .Labels "`+orchestrator.LabelOwner+`"}}`, w.gateway.network)
	if err != nil {
		return nil, err
	}
	logs, err := w.engine.containers(ctx)
	if err != nil {
		return nil, err
	}
	w.journal = openJournal(logs, w.owner)
	return w, nil
}

// furnishEngine starts an engine of its own with what python functions need.
func (w *world) furnishEngine(ctx context.Context) error {
	w.o.say("starting an engine")
	if err := os.MkdirAll(w.engine.dir, 0o755); err != nil {
		return err
	}
	if err := w.engine.start(ctx); err != nil {
		return err
	}
	return w.engine.carry(ctx, "python:3.13-slim-trixie", "kiln-base/python:3.13")
}

// labels are those of all that the gateway made.
func (w *world) labels() map[string]string {
	return map[string]string{orchestrator.LabelOwner: w.owner}
}

// filter is the same for the docker client.
func (w *world) filter() string { return "label=" + orchestrator.LabelOwner + "=" + w.owner }

// populate deploys the functions that are there all the time.
func (w *world) populate(ctx context.Context) error {
	client, err := w.gateway.client()
	if err != nil {
		return err
	}
	for i := range steadyFunctions {
		name := fmt.Sprint("steady-", i)
		if _, err := deploy(ctx, client, name, 1, steady); err != nil {
			return fmt.Errorf("deploy %s: %w", name, err)
		}
		w.steady = append(w.steady, name)
	}
	if _, err := deploy(ctx, client, sleepyName, 1, sleepy); err != nil {
		return fmt.Errorf("deploy %s: %w", sleepyName, err)
	}
	return w.settle(ctx)
}

// close ends everything. It can be called of a world that is not whole.
func (w *world) close() error {
	errs := []error{w.gateway.stop()}
	if w.journal != nil {
		w.journal.close()
	}
	if w.docker != nil {
		errs = append(errs, w.docker.Close())
	}
	if w.o.own {
		errs = append(errs, w.engine.stop())
	} else if w.owner != "" {
		errs = append(errs, w.removeAll())
	}
	if err := unix.Unmount(w.gateway.data(), unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// removeAll removes what the gateway made from an engine that goes on.
func (w *world) removeAll() error {
	ctx := context.Background()
	var errs []error
	for _, kind := range []struct{ list, remove []string }{
		{[]string{"ps", "--all", "--quiet"}, []string{"rm", "--force", "--volumes"}},
		{[]string{"images", "--quiet", "--filter", "label=dev.kiln.kind=image"}, []string{"rmi", "--force"}},
		{[]string{"images", "--quiet", "--filter", "label=dev.kiln.kind=cell"}, []string{"rmi", "--force"}},
		{[]string{"network", "ls", "--quiet"}, []string{"network", "rm"}},
	} {
		ids, err := w.engine.list(ctx, append(kind.list, "--filter", w.filter())...)
		if slices.Sort(ids); len(ids) > 0 {
			_, err = w.engine.docker(ctx, append(kind.remove, slices.Compact(ids)...)...)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// keepLogs leaves the logs and removes the rest, which is large.
func keepLogs(dir string) error {
	return os.RemoveAll(filepath.Join(dir, "engine", "data"))
}

// broken notes a promise that was not kept.
func (w *world) broken(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	text := fmt.Sprintf(format, args...)
	w.o.say("  BROKEN: %s", text)
	w.violations = append(w.violations, text)
}

func (w *world) between(least, most time.Duration) time.Duration {
	return least + time.Duration(w.random.Int64N(int64(most-least)))
}

func (w *world) pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
