package orchestrator

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/google/uuid"
)

// Release is a revision with the settings it is served with: all that the
// running side needs. Equal ConfigHash means that containers of one can serve
// the other.
type Release struct {
	Spec     Spec
	Revision Revision
	Template Template
	// Secrets are the versions of the secrets that Spec names.
	Secrets map[string]uint64
}

// instancePids bounds the processes and threads of an instance: enough for
// thread pools and subprocesses, too few for a fork bomb to be felt.
const instancePids = 256

// Limits returns the limits of one instance.
func (r Release) Limits() Limits {
	return Limits{Memory: r.Spec.Resources.Memory, CPU: r.Spec.Resources.CPU, Pids: instancePids}
}

// Env returns the environment of the release's instances: the function's own
// and what the runtime contract adds.
func (r Release) Env() map[string]string {
	env := maps.Clone(r.Spec.Env)
	if env == nil {
		env = map[string]string{}
	}
	env["PORT"] = strconv.Itoa(InstancePort)
	env["KILN_FUNCTION"] = r.Spec.Name
	env["KILN_REVISION"] = r.Revision.ID
	env["KILN_CONCURRENCY"] = strconv.Itoa(r.Spec.Concurrency)
	if r.Spec.Handler != "" {
		env["KILN_HANDLER"] = r.Spec.Handler
	}
	return env
}

// ConfigHash identifies everything that a container is created with. Settings
// that the gateway applies by itself (scale, timeout, request limit) do not
// count.
func (r Release) ConfigHash() string {
	data, err := json.Marshal(struct {
		Image  string
		Env    map[string]string
		Limits Limits
		Tmp    Bytes
		// Left out for the default: containers of before there was a choice serve.
		Network NetworkMode     `json:",omitempty"`
		Secrets []secretVersion `json:",omitempty"`
		Runtime string          `json:",omitempty"`
	}{r.Revision.Image, r.Env(), r.Limits(), r.Spec.Resources.Tmp, r.confined(), r.secrets(), r.Spec.Runtime})
	if err != nil {
		panic(fmt.Sprintf("orchestrator: encode a release: %v", err)) // strings and numbers only
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:8])
}

// secretVersion is a secret as it counts in a hash. The version does, as the
// value must not.
type secretVersion struct {
	Name    string
	Version uint64
}

func (r Release) secrets() []secretVersion {
	var all []secretVersion
	for _, name := range slices.Sorted(slices.Values(r.Spec.Secrets)) {
		all = append(all, secretVersion{name, r.Secrets[name]})
	}
	return all
}

// confined is the network mode, or empty for the default.
func (r Release) confined() NetworkMode {
	if r.Spec.Network == NetworkInternet {
		return ""
	}
	return r.Spec.Network
}

// Container returns what to run for one instance of r, under a name of its own.
// network is the one that the installation is configured with.
func (r Release) Container(owner, network string) ContainerConfig {
	return ContainerConfig{
		Name:  fmt.Sprintf("kiln-%s-%s-%s", r.Spec.Name, r.Revision.ID, uuid.NewString()[:8]),
		Image: r.Revision.Image,
		Env:   r.Env(),
		Labels: map[string]string{
			LabelOwner:    owner,
			LabelKind:     KindInstance,
			LabelFunction: r.Spec.Name,
			LabelRevision: r.Revision.ID,
			LabelConfig:   r.ConfigHash(),
			LabelTemplate: r.Template.Name,
		},
		Limits:  r.Limits(),
		Tmpfs:   []Tmpfs{{Path: "/tmp", Size: r.Spec.Resources.Tmp}},
		Network: InstanceNetwork(network, r.Spec.Network),
		Sealed:  r.confined() != "",
		Marked:  r.Spec.Network == NetworkServices,
		Runtime: r.Spec.Runtime,
	}
}

// SameInstances says whether instances of two specs of one revision are alike,
// so that changing one into the other needs no new container.
func SameInstances(a, b Spec) bool {
	return Release{Spec: a}.ConfigHash() == Release{Spec: b}.ConfigHash()
}
