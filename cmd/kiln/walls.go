package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/kilnfaas/kiln/orchestrator"
)

// ownedEngine is what checkWalls and checkNetwork ask of an engine.
type ownedEngine interface {
	List(ctx context.Context, labels map[string]string) ([]orchestrator.Container, error)
	Networks(ctx context.Context, labels map[string]string) ([]orchestrator.Network, error)
}

// checkWalls sees whether everything that runs is walled off. owners returns
// whose rules this machine has.
func checkWalls(ctx context.Context, engine ownedEngine, owners func(context.Context) ([]string, error)) finding {
	const check = "isolation"
	running := map[string]bool{} // by owner
	for _, kind := range []string{orchestrator.KindInstance, orchestrator.KindCell} {
		containers, err := engine.List(ctx, map[string]string{orchestrator.LabelKind: kind})
		if err != nil {
			return bad(check, err, "")
		}
		for _, c := range containers {
			running[c.Labels[orchestrator.LabelOwner]] = true
		}
	}
	networks, err := engine.Networks(ctx, nil)
	if err != nil {
		return bad(check, err, "")
	}
	for _, n := range networks {
		owner := n.Labels[orchestrator.LabelOwner]
		services := orchestrator.InstanceNetwork("", orchestrator.NetworkServices)
		if running[owner] && n.Shared && !strings.HasSuffix(n.Name, services) {
			return finding{check, verdictDoubt, fmt.Sprintf("containers on the network %s may reach one another", n.Name),
				"make down && make up: the gateway makes the network anew when nothing uses it"}
		}
	}
	walled, err := owners(ctx)
	if known := (*orchestrator.Error)(nil); errors.As(err, &known) && known.Code == "firewall-forbidden" {
		return finding{check, verdictSkipped, "this machine's rules cannot be seen from here", "run kiln doctor as root"}
	}
	if err != nil {
		return bad(check, err, "")
	}
	for owner := range running {
		if !slices.Contains(walled, owner) {
			return finding{check, verdictDoubt, "instances reach this machine's ports and cloud metadata: the rules against it are missing",
				"a gateway that may make rules puts them back within 30 s; look for \"walled off\" in its log"}
		}
	}
	if len(running) == 0 {
		return finding{check, verdictGood, "no instance runs that would have to be walled off", ""}
	}
	return finding{check, verdictGood, "instances are walled off from this machine and from each other", ""}
}
