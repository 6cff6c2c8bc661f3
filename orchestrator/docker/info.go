package docker

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/kilnfaas/kiln/orchestrator"
)

// Info describes the engine. APIVersion is the one that was negotiated.
func (c *Client) Info(ctx context.Context) (orchestrator.EngineInfo, error) {
	callCtx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	info, err := c.api.Info(callCtx)
	if err != nil {
		return orchestrator.EngineInfo{}, translate(ctx, "ask the engine about itself", err)
	}
	return orchestrator.EngineInfo{
		Version:       info.ServerVersion,
		APIVersion:    c.api.ClientVersion(),
		StorageDriver: info.Driver,
		CgroupVersion: info.CgroupVersion,
		CgroupDriver:  info.CgroupDriver,
		Runtimes:      slices.Sorted(maps.Keys(info.Runtimes)),
		CPUs:          info.NCPU,
		Memory:        orchestrator.Bytes(info.MemTotal),
		RootDir:       info.DockerRootDir,
		Rootless: slices.ContainsFunc(info.SecurityOptions, func(option string) bool {
			return strings.HasPrefix(option, "name=rootless")
		}),
	}, nil
}
