package main

import (
	"context"
	"os"

	"golang.org/x/sys/unix"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/build"
	"github.com/kilnfaas/kiln/orchestrator/cage"
	"github.com/kilnfaas/kiln/orchestrator/docker"
)

// openBuilder limits the steps of builds where the engine's builder does not.
func (d *daemon) openBuilder(ctx context.Context) error {
	kind, err := d.engine.BuilderKind(ctx)
	if err != nil {
		return opening("the engine", err)
	}
	caged := cage.New(d.engine, d.cfg.CgroupRoot, d.stepLimits(), d.logger)
	d.images = caged
	if kind == docker.BuilderBuildKit && !caged.Usable() {
		d.logger.Warn("the steps of builds have no limits of memory and processes: BuildKit sets none, and the cgroup file system cannot be written to; run the gateway as root, set cgroup_root, or set builder to classic")
	}
	return nil
}

// minStepMemory is what compilers and linkers of ordinary programs need.
const minStepMemory = orchestrator.GiB

// stepLimits are those of one step of a build.
func (d *daemon) stepLimits() orchestrator.Limits {
	memory := d.cfg.BuildMemory
	if memory == 0 {
		memory = max(minStepMemory, d.info.Memory/2/orchestrator.Bytes(d.cfg.Builds))
	}
	return orchestrator.Limits{Memory: memory, Pids: int64(d.cfg.BuildPids)}
}

// insideContainer is a file that engines put into every container.
const insideContainer = "/.dockerenv"

// diskWatch watches the disk with the engine's data: where that is not visible,
// but the gateway is one of the engine's containers, through the container's own
// root, which is on it.
func (d *daemon) diskWatch() build.DiskWatch {
	watch := build.DiskWatch{Limit: d.cfg.BuildDisk, Reclaim: d.engine.DropBuildCache}
	for _, way := range []struct{ path, proof string }{{d.info.RootDir, d.info.RootDir}, {"/", insideContainer}} {
		if _, err := os.Stat(way.proof); err == nil {
			watch.Free = func() (orchestrator.Bytes, error) { return freeSpace(way.path) }
			return watch
		}
	}
	return watch
}

// freeSpace returns the space that is left for others than root.
func freeSpace(path string) (orchestrator.Bytes, error) {
	var stat unix.Statfs_t
	err := unix.Statfs(path, &stat)
	return orchestrator.Bytes(stat.Bavail) * orchestrator.Bytes(stat.Bsize), err
}
