package docker

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/docker/docker/api/types/container"

	"github.com/kilnfaas/kiln/orchestrator"
)

// Helper is a short command that has to run in the network of the engine's
// machine.
type Helper struct {
	Name    string
	Image   string
	Command []string
	Labels  map[string]string
}

const (
	helperMemory = 64 * orchestrator.MiB
	helperPids   = 32
	// helperOutput is how many of its last lines an error tells.
	helperOutput = 5
)

// Help runs a helper to its end and removes it. It gets the machine's network
// and the right to change it, and nothing else: no other capability, no mounts,
// a read-only root. The code it ended with comes with an error only when it
// could not be run.
func (c *Client) Help(ctx context.Context, helper Helper) (code int, output string, err error) {
	what := "run the helper " + helper.Name
	init := true
	host := &container.HostConfig{
		NetworkMode: "host", ReadonlyRootfs: true, Init: &init,
		CapDrop: []string{"ALL"}, CapAdd: []string{"NET_ADMIN"}, SecurityOpt: []string{"no-new-privileges"},
		Resources: resources(orchestrator.Limits{Memory: helperMemory, Pids: helperPids}),
	}
	createCtx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	created, err := c.api.ContainerCreate(createCtx, &container.Config{
		Image: helper.Image, Cmd: helper.Command, Labels: helper.Labels, User: "0",
	}, host, nil, nil, helper.Name)
	if err != nil {
		return 0, "", translate(ctx, what, err)
	}
	defer func() { err = errors.Join(err, c.remove(context.WithoutCancel(ctx), created.ID)) }()
	ended, failed := c.api.ContainerWait(createCtx, created.ID, container.WaitConditionNextExit)
	if err := c.api.ContainerStart(createCtx, created.ID, container.StartOptions{}); err != nil {
		return 0, "", translate(ctx, what, err)
	}
	select {
	case end := <-ended:
		code = int(end.StatusCode)
	case err := <-failed:
		return 0, "", translate(ctx, what, err)
	}
	var lines []string
	for line, err := range c.Logs(ctx, created.ID, orchestrator.LogOptions{Tail: helperOutput}) {
		if err != nil {
			return code, "", fmt.Errorf("read what the helper wrote: %w", err)
		}
		lines = append(lines, line.Text)
	}
	return code, strings.Join(lines, "\n"), nil
}
