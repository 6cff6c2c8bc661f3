package enginetest

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/kilnfaas/kiln/orchestrator"
)

// What the fake engine's machine has, and the least memory a container gets, as
// Docker has it.
const (
	fakeCPUs      = 4
	fakeMemory    = 8 * orchestrator.GiB
	leastMemory   = 6 * orchestrator.MiB
	addressesEach = 254 // of a /24
)

// fakeContainer is guarded by Fake.mu, except what is set once.
type fakeContainer struct {
	id      string
	config  orchestrator.ContainerConfig
	image   string
	addr    string
	created time.Time
	pid     int
	kill    context.CancelFunc
	term    chan struct{}
	ask     sync.Once     // closes term
	ended   chan struct{} // closed when the program has returned

	state    orchestrator.ContainerState
	thawed   chan struct{} // closed by Thaw; nil while running
	exitCode int
	oom      bool
	log      []orchestrator.LogLine
	grown    chan struct{} // closed and replaced when log grows
}

func (c *fakeContainer) report() orchestrator.Container {
	r := orchestrator.Container{
		ID: c.id, Name: c.config.Name, Image: c.config.Image, ImageID: c.image,
		Labels: maps.Clone(c.config.Labels), State: c.state, CreatedAt: c.created,
		ExitCode: c.exitCode, OOMKilled: c.oom,
	}
	if c.state != orchestrator.ContainerExited {
		r.Addr, r.PID = c.addr, c.pid
	}
	return r
}

// Run starts a program in a container.
func (f *Fake) Run(ctx context.Context, config orchestrator.ContainerConfig) (orchestrator.Container, error) {
	f.mu.Lock()
	f.runningNow++
	f.runningMost = max(f.runningMost, f.runningNow)
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		f.runningNow--
		f.mu.Unlock()
	}()
	if err := f.begin(ctx, OpRun); err != nil {
		return orchestrator.Container{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	image, err := f.check(config)
	if err != nil {
		return orchestrator.Container{}, err
	}
	programCtx, kill := context.WithCancel(context.WithoutCancel(ctx))
	c := &fakeContainer{
		id: f.id(), config: config, image: image.ID, created: time.Now(),
		kill: kill, term: make(chan struct{}), ended: make(chan struct{}),
		state: orchestrator.ContainerRunning, grown: make(chan struct{}),
	}
	c.config.Env, c.config.Labels, c.config.Secrets = maps.Clone(config.Env), maps.Clone(config.Labels), maps.Clone(config.Secrets)
	c.pid = f.serial
	c.addr = fmt.Sprintf("127.%d.%d.%d", f.subnet[0], f.subnet[1]+byte(f.serial/addressesEach), 1+f.serial%addressesEach)
	f.containers[c.id] = c
	process := &Process{Config: c.config, Addr: c.addr, Term: c.term, fake: f, container: c}
	process.Stdout, process.Stderr = &fakeLog{fake: f, container: c}, &fakeLog{fake: f, container: c, stderr: true}
	f.work.Go(func() {
		defer kill()
		f.exited(c, image.program(programCtx, process))
	})
	return c.report(), nil
}

// check is what an engine refuses. Call with mu held.
func (f *Fake) check(config orchestrator.ContainerConfig) (*fakeImage, error) {
	image, err := f.find(config.Image)
	if err != nil {
		return nil, err
	}
	for _, other := range f.containers {
		if other.config.Name == config.Name {
			return nil, orchestrator.Errorf(orchestrator.ErrConflict, "engine-conflict", "the name %s is in use", config.Name)
		}
	}
	if _, ok := f.networks[config.Network]; config.Network != "" && !ok {
		return nil, orchestrator.Errorf(orchestrator.ErrNotFound, "network-not-found", "there is no network %s", config.Network)
	}
	return image, checkLimits(config.Limits)
}

func checkLimits(limits orchestrator.Limits) error {
	if limits.Memory < 0 || limits.Memory > 0 && limits.Memory < leastMemory || limits.CPU < 0 || limits.CPU > fakeCPUs {
		return orchestrator.Errorf(orchestrator.ErrInvalid, "engine-refused", "limits out of range: %+v", limits)
	}
	return nil
}

// exited records the end of a program.
func (f *Fake) exited(c *fakeContainer, code int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if c.oom {
		code = exitKilled
	}
	c.state, c.exitCode = orchestrator.ContainerExited, code
	close(c.ended)
	close(c.grown)
	f.publish(orchestrator.Event{Kind: orchestrator.EventDied, ID: c.id, Labels: maps.Clone(c.config.Labels), ExitCode: code, Time: time.Now()})
}

// container finds one by id. Call with mu held.
func (f *Fake) container(id string) (*fakeContainer, error) {
	if c := f.containers[id]; c != nil {
		return c, nil
	}
	return nil, orchestrator.Errorf(orchestrator.ErrNotFound, "engine-not-found", "there is no container %s", id)
}

// Stop ends and removes a container.
func (f *Fake) Stop(ctx context.Context, id string, grace time.Duration) error {
	if err := f.begin(ctx, OpStop); err != nil {
		return err
	}
	f.mu.Lock()
	c := f.containers[id]
	if c == nil {
		f.mu.Unlock()
		return nil
	}
	c.thaw()
	f.mu.Unlock()
	if grace > 0 {
		c.ask.Do(func() { close(c.term) })
		timer := time.NewTimer(grace)
		defer timer.Stop()
		select {
		case <-c.ended:
		case <-timer.C:
		case <-ctx.Done():
			return ctxError(ctx, OpStop)
		}
	}
	c.kill()
	<-c.ended
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.containers, id)
	return nil
}

// Freeze makes a container stand still.
func (f *Fake) Freeze(ctx context.Context, id string) error {
	return f.change(ctx, OpFreeze, id, func(c *fakeContainer) error {
		if c.state == orchestrator.ContainerRunning {
			c.state, c.thawed = orchestrator.ContainerFrozen, make(chan struct{})
		}
		return nil
	})
}

// Thaw undoes Freeze.
func (f *Fake) Thaw(ctx context.Context, id string) error {
	return f.change(ctx, OpThaw, id, func(c *fakeContainer) error {
		c.thaw()
		return nil
	})
}

// thaw is called with Fake.mu held.
func (c *fakeContainer) thaw() {
	if c.state == orchestrator.ContainerFrozen {
		c.state = orchestrator.ContainerRunning
		close(c.thawed)
	}
}

// Limit changes a container's limits; those of 0 stay.
func (f *Fake) Limit(ctx context.Context, id string, limits orchestrator.Limits) error {
	return f.change(ctx, OpLimit, id, func(c *fakeContainer) error {
		if err := checkLimits(limits); err != nil {
			return err
		}
		if limits.Memory > 0 {
			c.config.Limits.Memory = limits.Memory
		}
		if limits.CPU > 0 {
			c.config.Limits.CPU = limits.CPU
		}
		if limits.Pids > 0 {
			c.config.Limits.Pids = limits.Pids
		}
		return nil
	})
}

// Limits returns the limits a container has now, for assertions.
func (f *Fake) Limits(id string) (orchestrator.Limits, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.containers[id]
	if c == nil {
		return orchestrator.Limits{}, false
	}
	return c.config.Limits, true
}

// change does something to a container that has not ended.
func (f *Fake) change(ctx context.Context, op Op, id string, do func(*fakeContainer) error) error {
	if err := f.begin(ctx, op); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	c, err := f.container(id)
	if err != nil {
		return err
	}
	if c.state == orchestrator.ContainerExited {
		return orchestrator.Errorf(orchestrator.ErrConflict, "container-exited", "the container %s has ended", id)
	}
	return do(c)
}

// Inspect returns one container.
func (f *Fake) Inspect(ctx context.Context, id string) (orchestrator.Container, error) {
	if err := f.begin(ctx, OpInspect); err != nil {
		return orchestrator.Container{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	c, err := f.container(id)
	if err != nil {
		return orchestrator.Container{}, err
	}
	return c.report(), nil
}

// List returns the containers that carry all of labels, newest first.
func (f *Fake) List(ctx context.Context, labels map[string]string) ([]orchestrator.Container, error) {
	if err := f.begin(ctx, OpList); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	var list []orchestrator.Container
	for _, c := range f.containers {
		if hasAll(c.config.Labels, labels) {
			r := c.report()
			r.PID, r.OOMKilled = 0, false // as Docker's list
			list = append(list, r)
		}
	}
	slices.SortFunc(list, func(a, b orchestrator.Container) int {
		if order := b.CreatedAt.Compare(a.CreatedAt); order != 0 {
			return order
		}
		return strings.Compare(a.ID, b.ID)
	})
	return list, nil
}

// EnsureNetwork makes a network.
func (f *Fake) EnsureNetwork(ctx context.Context, config orchestrator.NetworkConfig) (orchestrator.Network, error) {
	if err := f.begin(ctx, OpNetwork); err != nil {
		return orchestrator.Network{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if network, ok := f.networks[config.Name]; ok {
		return network, nil
	}
	bridge := config.Bridge
	if bridge == "" {
		bridge = "br-" + config.Name
	}
	f.networks[config.Name] = orchestrator.Network{
		Name: config.Name, Labels: maps.Clone(config.Labels), Bridge: bridge,
		Subnets: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, Internal: config.Internal, Shared: config.Shared,
	}
	return f.networks[config.Name], nil
}

// Networks returns the networks that carry all of labels.
func (f *Fake) Networks(ctx context.Context, labels map[string]string) ([]orchestrator.Network, error) {
	if err := f.begin(ctx, OpNetwork); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	var list []orchestrator.Network
	for _, name := range slices.Sorted(maps.Keys(f.networks)) {
		if hasAll(f.networks[name].Labels, labels) {
			list = append(list, f.networks[name])
		}
	}
	return list, nil
}

// Info describes the fake.
func (f *Fake) Info(ctx context.Context) (orchestrator.EngineInfo, error) {
	if err := f.begin(ctx, OpInfo); err != nil {
		return orchestrator.EngineInfo{}, err
	}
	return orchestrator.EngineInfo{
		Version: "fake", APIVersion: "1.41", StorageDriver: "memory", CgroupVersion: "2", CgroupDriver: "fake",
		Runtimes: []string{"fake"}, Runtime: "fake", Seccomp: "default", SwapCounted: true, CPUs: fakeCPUs, Memory: fakeMemory, RootDir: "/var/lib/fake",
	}, nil
}

// fakeLog is stdout or stderr of a program.
type fakeLog struct {
	fake      *Fake
	container *fakeContainer
	stderr    bool
	partial   []byte // guarded by Fake.mu
}

// maxFakeLine bounds a line, as the contract says.
const maxFakeLine = 64 << 10

// Write appends whole lines to the container's log.
func (l *fakeLog) Write(p []byte) (int, error) {
	l.fake.mu.Lock()
	defer l.fake.mu.Unlock()
	n := len(p)
	for {
		line, rest, complete := bytes.Cut(p, []byte("\n"))
		l.partial = append(l.partial, line...)
		if !complete {
			break
		}
		text := string(l.partial[:min(len(l.partial), maxFakeLine)])
		l.partial = l.partial[:0]
		l.container.log = append(l.container.log, orchestrator.LogLine{Time: time.Now(), Stderr: l.stderr, Text: text})
		p = rest
	}
	if l.container.state != orchestrator.ContainerExited {
		close(l.container.grown)
		l.container.grown = make(chan struct{})
	}
	return n, nil
}
