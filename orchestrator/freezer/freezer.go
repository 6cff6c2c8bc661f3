// Package freezer freezes containers through their cgroup instead of the
// engine's API: one write instead of a request that goes through three
// daemons, 0.4 ms instead of 8. It decorates an Engine, so that everybody who
// looks at or stops a container sees it as frozen although the engine does not
// know.
//
// The gateway must be able to write to the machine's cgroup file system; where
// a container's cgroup is not found, the engine does it. An engine that kills a
// container which is frozen this way (docker rm -f) succeeds all the same.
package freezer

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/kilnfaas/kiln/orchestrator"
)

// DefaultRoot is where the machine's cgroups are.
const DefaultRoot = "/sys/fs/cgroup"

// Engine is an orchestrator.Engine whose Freeze and Thaw use cgroups where they
// can.
type Engine struct {
	orchestrator.Engine
	root string

	mu     sync.Mutex
	frozen map[string]struct{} // by this Engine through cgroups; guarded by mu
}

// New decorates an engine. root is the cgroup file system; empty = DefaultRoot.
func New(engine orchestrator.Engine, root string) *Engine {
	if root == "" {
		root = DefaultRoot
	}
	return &Engine{Engine: engine, root: root, frozen: map[string]struct{}{}}
}

// Usable says whether the cgroup file system is there and can be written to.
func (e *Engine) Usable() bool {
	for _, dir := range []string{filepath.Join(e.root, "freezer", "docker"), filepath.Join(e.root, "freezer", "system.slice"), filepath.Join(e.root, "system.slice"), filepath.Join(e.root, "docker")} {
		if writable(dir) {
			return true
		}
	}
	return false
}

// Freeze suspends a container. Idempotent.
func (e *Engine) Freeze(ctx context.Context, id string) error {
	group, err := find(e.root, id)
	if err == nil {
		err = group.freeze(ctx)
	}
	switch {
	case err == nil:
		e.mu.Lock()
		e.frozen[id] = struct{}{}
		e.mu.Unlock()
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	}
	return e.Engine.Freeze(ctx, id) // no such cgroup, or not ours to write
}

// Thaw resumes a container, whoever froze it. Idempotent.
func (e *Engine) Thaw(ctx context.Context, id string) error {
	e.mu.Lock()
	_, ours := e.frozen[id]
	delete(e.frozen, id)
	e.mu.Unlock()
	if ours {
		group, err := find(e.root, id)
		if err == nil {
			err = group.thaw(ctx)
		}
		if err == nil {
			return nil
		}
	}
	return e.thawUnknown(ctx, id)
}

// thawUnknown resumes a container that an earlier gateway froze, one way or the
// other.
func (e *Engine) thawUnknown(ctx context.Context, id string) error {
	container, err := e.Engine.Inspect(ctx, id)
	if err != nil {
		return err
	}
	if container.State == orchestrator.ContainerFrozen {
		return e.Engine.Thaw(ctx, id)
	}
	group, err := find(e.root, id)
	if err != nil {
		return e.Engine.Thaw(ctx, id)
	}
	return group.thaw(ctx)
}

// Stop thaws a container, so that it can end by itself, and stops it.
func (e *Engine) Stop(ctx context.Context, id string, grace time.Duration) error {
	if grace > 0 && e.isFrozen(id) {
		// What cannot be thawed is still killed after the grace.
		if err := e.Thaw(ctx, id); err != nil && ctx.Err() != nil {
			return ctx.Err()
		}
	}
	e.mu.Lock()
	delete(e.frozen, id)
	e.mu.Unlock()
	return e.Engine.Stop(ctx, id, grace)
}

// Inspect returns one container; State is ContainerFrozen whoever froze it.
func (e *Engine) Inspect(ctx context.Context, id string) (orchestrator.Container, error) {
	container, err := e.Engine.Inspect(ctx, id)
	if err == nil {
		e.correct(&container)
	}
	return container, err
}

// List returns containers; State is ContainerFrozen whoever froze them.
func (e *Engine) List(ctx context.Context, labels map[string]string) ([]orchestrator.Container, error) {
	list, err := e.Engine.List(ctx, labels)
	for i := range list {
		e.correct(&list[i])
	}
	return list, err
}

func (e *Engine) correct(c *orchestrator.Container) {
	if c.State == orchestrator.ContainerRunning && e.isFrozen(c.ID) {
		c.State = orchestrator.ContainerFrozen
	}
}

func (e *Engine) isFrozen(id string) bool {
	group, err := find(e.root, id)
	return err == nil && group.isFrozen()
}

// writable says whether files below dir may be changed.
func writable(dir string) bool {
	for _, name := range []string{"cgroup.procs", "tasks"} {
		f, err := os.OpenFile(filepath.Join(dir, name), os.O_WRONLY, 0)
		if err == nil {
			f.Close()
			return true
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return false
		}
	}
	return false
}
