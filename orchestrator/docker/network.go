package docker

import (
	"context"
	"errors"
	"maps"

	"github.com/docker/docker/api/types/network"

	"github.com/kilnfaas/kiln/orchestrator"
)

// EnsureNetwork makes a bridge network with the labels unless one of that name
// exists. Containers on it reach each other's addresses and the outside, and
// the engine's machine reaches theirs.
func (c *Client) EnsureNetwork(ctx context.Context, name string, labels map[string]string) error {
	callCtx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	what := "make the network " + name
	_, err := c.api.NetworkInspect(callCtx, name, network.InspectOptions{})
	if err = translate(ctx, what, err); !errors.Is(err, orchestrator.ErrNotFound) {
		return err
	}
	_, err = c.api.NetworkCreate(callCtx, name, network.CreateOptions{Driver: "bridge", Labels: maps.Clone(labels)})
	if err = translate(ctx, what, err); errors.Is(err, orchestrator.ErrConflict) {
		return nil // somebody else made it meanwhile
	}
	return err
}
