package docker

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"

	"github.com/docker/docker/api/types/network"
	"github.com/docker/docker/api/types/versions"

	"github.com/kilnfaas/kiln/orchestrator"
)

// Options of the engine's bridge driver.
const (
	optionBridge    = "com.docker.network.bridge.name"
	optionICC       = "com.docker.network.bridge.enable_icc" // between containers of one bridge
	bridgePrefix    = "br-"                                  // the engine's own names, with an id behind
	bridgeIDLength  = 12
	notICC          = "false"
	driverBridge    = "bridge"
	nowhereResolver = "127.0.0.1" // inside the container, where nobody answers
)

// hastyLookups make lookups fail after a second where nobody will answer, instead
// of after ten: the engine's resolver keeps silent then.
var hastyLookups = []string{"timeout:1", "attempts:1"}

// EnsureNetwork makes a bridge network unless one of that name exists; see
// orchestrator.Engine. The engine's machine reaches the containers on it.
func (c *Client) EnsureNetwork(ctx context.Context, config orchestrator.NetworkConfig) (orchestrator.Network, error) {
	callCtx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	what := "make the network " + config.Name
	details, err := c.api.NetworkInspect(callCtx, config.Name, network.InspectOptions{})
	if err = translate(ctx, what, err); err != nil && !errors.Is(err, orchestrator.ErrNotFound) {
		return orchestrator.Network{}, err
	}
	if err == nil {
		found := networkOf(details)
		if !outdated(found, config) || len(details.Containers) > 0 {
			return found, nil
		}
		if err := translate(ctx, what, c.api.NetworkRemove(callCtx, details.ID)); errors.Is(err, orchestrator.ErrConflict) {
			return found, nil // a container came in between
		} else if err != nil && !errors.Is(err, orchestrator.ErrNotFound) {
			return orchestrator.Network{}, err
		}
	}
	createCtx, stop := context.WithTimeout(ctx, startTimeout) // it makes an interface and rules, as a start does
	defer stop()
	_, err = c.api.NetworkCreate(createCtx, config.Name, createOptions(config))
	if err = translate(ctx, what, err); err != nil && !errors.Is(err, orchestrator.ErrConflict) {
		return orchestrator.Network{}, err
	}
	// A conflict says that somebody else made it meanwhile.
	details, err = c.api.NetworkInspect(createCtx, config.Name, network.InspectOptions{})
	return networkOf(details), translate(ctx, what, err)
}

func createOptions(config orchestrator.NetworkConfig) network.CreateOptions {
	options := map[string]string{}
	if !config.Shared {
		options[optionICC] = notICC
	}
	if config.Bridge != "" {
		options[optionBridge] = config.Bridge
	}
	return network.CreateOptions{
		Driver: driverBridge, Internal: config.Internal, Options: options, Labels: maps.Clone(config.Labels),
	}
}

// outdated says whether a network is of the same owner and not as it is wanted:
// an earlier version made it.
func outdated(n orchestrator.Network, config orchestrator.NetworkConfig) bool {
	for name, value := range config.Labels {
		if n.Labels[name] != value {
			return false
		}
	}
	return len(config.Labels) > 0 &&
		(n.Shared != config.Shared || n.Internal != config.Internal || config.Bridge != "" && n.Bridge != config.Bridge)
}

// Networks returns the networks that carry all of labels.
func (c *Client) Networks(ctx context.Context, labels map[string]string) ([]orchestrator.Network, error) {
	callCtx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	found, err := c.api.NetworkList(callCtx, network.ListOptions{Filters: labelFilter(labels)})
	if err != nil {
		return nil, translate(ctx, "list networks", err)
	}
	list := make([]orchestrator.Network, 0, len(found))
	for _, n := range found {
		list = append(list, networkOf(n))
	}
	return list, nil
}

func networkOf(n network.Inspect) orchestrator.Network {
	out := orchestrator.Network{
		Name: n.Name, Labels: n.Labels, Bridge: n.Options[optionBridge],
		Internal: n.Internal, Shared: n.Options[optionICC] != notICC,
	}
	if out.Bridge == "" && len(n.ID) >= bridgeIDLength {
		out.Bridge = bridgePrefix + n.ID[:bridgeIDLength]
	}
	for _, pool := range n.IPAM.Config {
		if subnet, err := netip.ParsePrefix(pool.Subnet); err == nil {
			out.Subnets = append(out.Subnets, subnet)
		}
	}
	return out
}

// macPerNetworkSince is the API that takes the hardware address with the
// network, and not with the container any more.
const macPerNetworkSince = "1.44"

func (c *Client) endpoints(name, mac string) *network.NetworkingConfig {
	if name == "" || mac == "" || versions.LessThan(c.api.ClientVersion(), macPerNetworkSince) {
		return nil
	}
	return &network.NetworkingConfig{EndpointsConfig: map[string]*network.EndpointSettings{name: {MacAddress: mac}}}
}

// hardwareAddress returns one that tells rules whose it is.
func hardwareAddress() string {
	mac := make(net.HardwareAddr, 6)
	n := copy(mac, orchestrator.MACPrefix[:])
	rand.Read(mac[n:])
	return fmt.Sprint(mac)
}
