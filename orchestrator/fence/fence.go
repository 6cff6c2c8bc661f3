// Package fence keeps the networks of an installation's instances and the walls
// around them: it decorates an Engine, so that every network that is made is
// known here, tells which addresses lie inside, and puts the walls up again
// when somebody takes them down.
//
// What holds without any privilege are the networks themselves: containers on
// one do not reach each other, and the modes without a way out have none. The
// walls add what no network of the engine's can say: the machine's own ports,
// cloud metadata, and services that instances share.
package fence

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/kilnfaas/kiln/orchestrator"
)

// raiseTimeout bounds one change or look at the walls: a helper's container has
// to be started for it, perhaps its image made.
const raiseTimeout = 60 * time.Second

// Way is a firewall and how often its walls are looked at.
type Way struct {
	Name string // for the log
	orchestrator.Firewall
	Every time.Duration
}

// Config sets a Fence up.
type Config struct {
	Engine  orchestrator.Engine // required
	Owner   string              // id of the installation
	Network string              // base of the instances' networks
	Port    uint16              // see orchestrator.Walls
	Ways    []Way               // the first that works is used; none = no walls
	Strict  bool                // it is an error when none works
	Logger  *slog.Logger        // nil = discard
}

// Fence is an Engine that keeps the fence. Open it, let Keep run, and use it in place
// of the engine. It is safe for concurrent use.
type Fence struct {
	orchestrator.Engine
	config Config

	mu      sync.Mutex
	subnets map[string][]netip.Prefix // by network; guarded by mu
	walls   orchestrator.Walls        // guarded by mu
	way     *Way                      // guarded by mu; nil = no walls
}

// New returns a Fence without networks and walls.
func New(config Config) *Fence {
	if config.Logger == nil {
		config.Logger = slog.New(slog.DiscardHandler)
	}
	networks := orchestrator.InstanceNetworks(config.Owner, config.Network)
	return &Fence{
		Engine: config.Engine, config: config, subnets: map[string][]netip.Prefix{},
		walls: orchestrator.Walls{
			Owner: config.Owner, Port: config.Port,
			Internet: networks[orchestrator.NetworkInternet].Bridge,
			Services: networks[orchestrator.NetworkServices].Bridge,
			None:     networks[orchestrator.NetworkNone].Bridge,
		},
	}
}

// Open makes the network of the default mode, learns of the others, and puts
// the walls up. Without Strict it is no error that they cannot be.
func (f *Fence) Open(ctx context.Context) error {
	network, err := f.EnsureNetwork(ctx, orchestrator.InstanceNetworks(f.config.Owner, f.config.Network)[orchestrator.NetworkInternet])
	if err != nil {
		return fmt.Errorf("make the network %s: %w", f.config.Network, err)
	}
	if network.Shared {
		f.config.Logger.Warn("containers on the network may reach one another; remove it when nothing uses it, and Kiln makes it anew",
			"network", network.Name)
	}
	known, err := f.Engine.Networks(ctx, map[string]string{orchestrator.LabelOwner: f.config.Owner})
	if err != nil {
		return fmt.Errorf("list networks: %w", err)
	}
	for _, n := range known {
		f.learn(n)
	}
	if err := f.learnBuilds(ctx); err != nil {
		return err
	}
	return f.raise(ctx)
}

// learnBuilds finds the bridge that builds are on.
func (f *Fence) learnBuilds(ctx context.Context) error {
	all, err := f.Engine.Networks(ctx, nil)
	if err != nil {
		return fmt.Errorf("list networks: %w", err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, n := range all {
		if n.Name == orchestrator.EngineNetwork && n.Name != f.config.Network {
			f.walls.Builds = n.Bridge
		}
	}
	return nil
}

// raise finds a way that works.
func (f *Fence) raise(ctx context.Context) error {
	var errs []error
	for _, way := range f.config.Ways {
		if err := f.raiseBy(ctx, way); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", way.Name, err))
			continue
		}
		f.mu.Lock()
		f.way = &way
		f.mu.Unlock()
		f.config.Logger.Info("instances are walled off", "by", way.Name)
		return nil
	}
	err := errors.Join(errs...)
	switch {
	case len(f.config.Ways) == 0:
		return nil
	case f.config.Strict:
		return fmt.Errorf("wall instances off: %w", err)
	}
	f.config.Logger.Warn("instances are not walled off: they reach this machine's ports and cloud metadata", "error", err,
		"next", "run the gateway as root, or set isolation to strict to refuse this")
	return nil
}

func (f *Fence) raiseBy(ctx context.Context, way Way) error {
	ctx, cancel := context.WithTimeout(ctx, raiseTimeout)
	defer cancel()
	f.mu.Lock()
	walls := f.walls
	f.mu.Unlock()
	return way.Raise(ctx, walls)
}

// Keep looks after the walls until ctx ends.
func (f *Fence) Keep(ctx context.Context) error {
	f.mu.Lock()
	way := f.way
	f.mu.Unlock()
	if way == nil {
		return nil
	}
	ticker := time.NewTicker(way.Every)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			if err := f.mend(ctx, *way); err != nil && ctx.Err() == nil {
				f.config.Logger.Warn("look after the walls", "error", err)
			}
		}
	}
}

// mend puts the walls up when they are not.
func (f *Fence) mend(ctx context.Context, way Way) error {
	callCtx, cancel := context.WithTimeout(ctx, raiseTimeout)
	defer cancel()
	f.mu.Lock()
	walls := f.walls
	f.mu.Unlock()
	standing, err := way.Standing(callCtx, walls)
	if err != nil || standing {
		return err
	}
	if err := f.raiseBy(ctx, way); err != nil {
		return err
	}
	f.config.Logger.Warn("instances were not walled off: somebody had removed the rules; they are back")
	return nil
}

// Run runs a container. Without walls nobody reads its mark, and nobody sees to
// it that the machine finds a marked one.
func (f *Fence) Run(ctx context.Context, config orchestrator.ContainerConfig) (orchestrator.Container, error) {
	f.mu.Lock()
	config.Marked = config.Marked && f.way != nil
	f.mu.Unlock()
	return f.Engine.Run(ctx, config)
}

// EnsureNetwork makes a network and learns of it.
func (f *Fence) EnsureNetwork(ctx context.Context, config orchestrator.NetworkConfig) (orchestrator.Network, error) {
	network, err := f.Engine.EnsureNetwork(ctx, config)
	if err != nil {
		return network, err
	}
	// The walls name subnets, and the bridge of services has settings, which go with
	// it.
	again := f.learn(network) || network.Name == orchestrator.InstanceNetwork(f.config.Network, orchestrator.NetworkServices)
	f.mu.Lock()
	way := f.way
	f.mu.Unlock()
	if way == nil || !again {
		return network, nil
	}
	return network, f.raiseBy(ctx, *way)
}

// learn notes a network, and says whether the walls have to change for it.
func (f *Fence) learn(network orchestrator.Network) (changed bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.subnets[network.Name] = network.Subnets
	for mode, bridge := range map[orchestrator.NetworkMode]*string{
		orchestrator.NetworkInternet: &f.walls.Internet,
		orchestrator.NetworkServices: &f.walls.Services,
		orchestrator.NetworkNone:     &f.walls.None,
	} {
		if network.Name == orchestrator.InstanceNetwork(f.config.Network, mode) && *bridge != network.Bridge {
			*bridge, changed = network.Bridge, true
		}
	}
	var alone []netip.Prefix
	for _, mode := range []orchestrator.NetworkMode{orchestrator.NetworkInternet, orchestrator.NetworkNone} {
		for _, subnet := range f.subnets[orchestrator.InstanceNetwork(f.config.Network, mode)] {
			if subnet.Addr().Is4() {
				alone = append(alone, subnet.Masked())
			}
		}
	}
	if !slices.Equal(alone, f.walls.Alone) {
		f.walls.Alone, changed = alone, true
	}
	return changed
}

// Inside says whether an address lies in a network of the instances.
func (f *Fence) Inside(addr netip.Addr) bool {
	addr = addr.Unmap()
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, subnets := range f.subnets {
		if slices.ContainsFunc(subnets, func(s netip.Prefix) bool { return s.Contains(addr) }) {
			return true
		}
	}
	return false
}
