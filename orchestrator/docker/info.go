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
	options := securityOptions(info.SecurityOptions)
	_, rootless := options["rootless"]
	_, remapped := options["userns"]
	return orchestrator.EngineInfo{
		Version:       info.ServerVersion,
		APIVersion:    c.api.ClientVersion(),
		StorageDriver: info.Driver,
		CgroupVersion: info.CgroupVersion,
		CgroupDriver:  info.CgroupDriver,
		Runtimes:      slices.Sorted(maps.Keys(info.Runtimes)),
		Runtime:       info.DefaultRuntime,
		CPUs:          info.NCPU,
		Memory:        orchestrator.Bytes(info.MemTotal),
		RootDir:       info.DockerRootDir,
		Rootless:      rootless,
		Remapped:      remapped,
		Seccomp:       options["seccomp"],
		SwapCounted:   info.SwapLimit,
	}, nil
}

// noSeccomp is how an engine calls a profile that allows everything.
const noSeccomp = "unconfined"

// securityOptions reads "name=seccomp,profile=default" and the like: profiles by
// name, empty for what has none.
func securityOptions(list []string) map[string]string {
	options := map[string]string{}
	for _, option := range list {
		var name, profile string
		for field := range strings.SplitSeq(option, ",") {
			switch key, value, _ := strings.Cut(field, "="); key {
			case "name":
				name = value
			case "profile":
				profile = value
			}
		}
		if profile == noSeccomp {
			profile = ""
		}
		options[name] = profile
	}
	return options
}
