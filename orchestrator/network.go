package orchestrator

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"net/netip"
)

// NetworkMode says whom the instances of a function may talk to. Whatever it
// is, they do not reach one another, cells, or the machine that they run on.
type NetworkMode string

// The modes. The empty one is NetworkInternet: records of before there was a
// choice have it.
const (
	NetworkInternet NetworkMode = "internet" // the outside, cloud metadata excepted
	NetworkServices NetworkMode = "services" // containers that were connected to the services network, by name
	NetworkNone     NetworkMode = "none"     // nobody
)

// NetworkModes are all of them, the default first.
var NetworkModes = []NetworkMode{NetworkInternet, NetworkServices, NetworkNone}

// EngineNetwork is the name of the network that an engine has from the start, and
// runs the steps of builds on.
const EngineNetwork = "bridge"

// NetworkConfig says which bridge network to make. Containers on it reach none
// of the others, unless Shared.
type NetworkConfig struct {
	Name     string
	Bridge   string // interface on the engine's machine; empty = the engine's choice
	Labels   map[string]string
	Internal bool // no way out
	Shared   bool // containers on it reach one another, as far as no rule forbids it
}

// Network is a network as the engine reports it.
type Network struct {
	Name     string
	Labels   map[string]string
	Bridge   string // interface on the engine's machine
	Subnets  []netip.Prefix
	Internal bool
	Shared   bool
}

// InstanceNetwork returns the name of the network of a mode. base is the
// network that the installation is configured with.
func InstanceNetwork(base string, mode NetworkMode) string {
	if mode == "" || mode == NetworkInternet {
		return base
	}
	return base + "-" + string(mode)
}

// InstanceNetworks returns the networks of an installation, by mode.
func InstanceNetworks(owner, base string) map[NetworkMode]NetworkConfig {
	networks := make(map[NetworkMode]NetworkConfig, len(NetworkModes))
	for _, mode := range NetworkModes {
		name := InstanceNetwork(base, mode)
		networks[mode] = NetworkConfig{
			Name:     name,
			Bridge:   bridge(name),
			Labels:   map[string]string{LabelOwner: owner},
			Internal: mode != NetworkInternet,
			Shared:   mode == NetworkServices,
		}
	}
	return networks
}

// bridge derives an interface's name from the network's, so that rules about it
// can be made before the network, and hold when it is made again. The kernel
// takes 15 characters.
func bridge(network string) string {
	sum := sha256.Sum256([]byte(network))
	return "kiln-" + hex.EncodeToString(sum[:5])
}

// MACPrefix begins the hardware addresses of instances on the services network,
// and of nothing else: locally administered (the second bit), then "k". Rules
// tell by it that a frame goes from one of them to another; a container cannot
// change its own. The rest is random: among the 1,000 ports of a bridge two are
// alike once in 10,000 times.
var MACPrefix = [2]byte{0x06, 0x6b}

// Walls are the rules that keep the instances of one installation from the
// machine, from cloud metadata, and from one another.
type Walls struct {
	Owner    string // whose they are; part of the rules' name
	Internet string // bridge of NetworkInternet
	Services string // of NetworkServices
	None     string // of NetworkNone
	// Alone are the subnets on which there are instances and nobody else, as far as
	// their networks are there: nothing goes from one address to another.
	Alone []netip.Prefix
	// Builds is the bridge that steps of builds are on: the engine's default one,
	// which containers of others are on, too. Cloud metadata and instances are
	// kept from it, and nothing else. Empty = there is none.
	Builds string
	// Port of the machine stays open to instances that have a network: the
	// gateway's, which serves them functions and refuses them the rest. 0 = none.
	Port uint16
}

// Firewall keeps walls in the network of the engine's machine. All methods are
// idempotent and safe for concurrent use. Errors are ErrUnavailable: the right,
// or the kernel's part, is missing.
type Firewall interface {
	// Raise puts up walls and takes down what the same owner had, in one step.
	Raise(ctx context.Context, walls Walls) error
	// Standing says whether the walls are up just as they should be.
	Standing(ctx context.Context, walls Walls) (bool, error)
	// Raze takes down the walls of an owner; of all owners if that is empty.
	Raze(ctx context.Context, owner string) error
}
