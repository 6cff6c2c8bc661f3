package main

import (
	"context"
	"fmt"
	"net/http"
	"os/exec"
	"slices"
	"time"
)

// cutFor is how long Kiln may take to notice: calls that are at the instance end
// by their deadline, and a new connection is given up 1.5 s after that.
const cutFor = 8 * time.Second

// cutNetwork cuts one instance off for good: its packets are dropped, or it is
// taken off its network. A call that is at it ends by its deadline; it is replaced.
var cutNetwork = fault{name: "network cut", full: 4, short: 1, inject: func(ctx context.Context, w *world) error {
	victim, err := w.victim(ctx)
	if err != nil {
		return err
	}
	function := w.functionOf(ctx, victim.ID)
	end := w.excuse(func(f failure) bool {
		late := f.status == http.StatusGatewayTimeout || f.status == http.StatusBadGateway || f.status == http.StatusServiceUnavailable
		return f.function == function && late
	})
	defer end()
	if w.cuts++; w.cuts%2 == 0 {
		_, err = w.engine.docker(ctx, "network", "disconnect", "--force", w.gateway.network, victim.ID)
	} else {
		err = dropPackets(ctx, victim.PID)
	}
	if err != nil {
		return err
	}
	if err := w.pause(ctx, cutFor); err != nil {
		return err
	}
	if warm, err := w.warm(ctx); err != nil || slices.Contains(warm, victim.ID) {
		w.broken("an instance that cannot be reached counts as ready (%v)", err)
	}
	return w.settle(ctx)
}}

// dropPackets drops all that comes in to a container, in its own network
// namespace.
func dropPackets(ctx context.Context, pid int) error {
	out, err := exec.CommandContext(ctx, "nsenter", "--net", "--target", fmt.Sprint(pid),
		"iptables", "--wait", "--insert", "INPUT", "--jump", "DROP").CombinedOutput()
	if err != nil {
		return fmt.Errorf("drop the packets of an instance: %w: %s", err, out)
	}
	return nil
}
