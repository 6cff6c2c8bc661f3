package freezer

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/kilnfaas/kiln/orchestrator"
)

// cgroup is a container's group.
type cgroup struct {
	path string // of the file that freezes
	v2   bool
}

// validID keeps what is joined to a path from leading elsewhere.
func validID(id string) bool {
	return id != "" && !strings.ContainsAny(id, "/.")
}

// find returns a container's cgroup. Its place follows from the engine's cgroup
// driver (cgroupfs or systemd) and the version; the process' own record of it
// (/proc/PID/cgroup) is no help, as a gateway in a container sees other PIDs.
func find(root, id string) (cgroup, error) {
	if !validID(id) {
		return cgroup{}, orchestrator.Errorf(orchestrator.ErrInvalid, "container-id-invalid", "%q is no container id", id)
	}
	for _, g := range []cgroup{
		{filepath.Join(root, "freezer", "docker", id, "freezer.state"), false},
		{filepath.Join(root, "freezer", "system.slice", "docker-"+id+".scope", "freezer.state"), false},
		{filepath.Join(root, "system.slice", "docker-"+id+".scope", "cgroup.freeze"), true},
		{filepath.Join(root, "docker", id, "cgroup.freeze"), true},
	} {
		if _, err := os.Stat(g.path); err == nil {
			return g, nil
		}
	}
	return cgroup{}, orchestrator.Errorf(orchestrator.ErrNotFound, "cgroup-not-found", "no cgroup of container %s below %s", id, root)
}

// words returns what version 1 and 2 call the two states.
func (g cgroup) word(frozen bool) string {
	switch {
	case g.v2 && frozen:
		return "1"
	case g.v2:
		return "0"
	case frozen:
		return "FROZEN"
	}
	return "THAWED"
}

func (g cgroup) write(frozen bool) error {
	f, err := os.OpenFile(g.path, os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("write %s: %w", g.path, err)
	}
	if _, err := f.WriteString(g.word(frozen)); err != nil {
		f.Close()
		return fmt.Errorf("write %s: %w", g.path, err)
	}
	return f.Close()
}

// isFrozen says whether every process of the group stands still.
func (g cgroup) isFrozen() bool {
	if !g.v2 {
		state, err := os.ReadFile(g.path)
		return err == nil && strings.TrimSpace(string(state)) == g.word(true)
	}
	events, err := os.ReadFile(filepath.Join(filepath.Dir(g.path), "cgroup.events"))
	return err == nil && bytes.Contains(events, []byte("frozen 1"))
}

// The pauses between looks at a group that is being frozen, which the kernel
// does asynchronously: usually it is done at the first.
const (
	firstLook = 20 * time.Microsecond
	maxLook   = 2 * time.Millisecond
)

// freeze returns once every process stands still. On failure the group is thawed
// again.
func (g cgroup) freeze(ctx context.Context) error {
	if err := g.write(true); err != nil {
		return err
	}
	for look := firstLook; !g.isFrozen(); look = min(2*look, maxLook) {
		timer := time.NewTimer(look)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			if err := g.write(false); err != nil {
				return err
			}
			return ctx.Err()
		}
		// Version 1 stops half-way when a process forks meanwhile, and goes on
		// when it is told again.
		if !g.v2 {
			if err := g.write(true); err != nil {
				return err
			}
		}
	}
	return nil
}

// thaw returns once the processes run again.
func (g cgroup) thaw(ctx context.Context) error {
	if err := g.write(false); err != nil {
		return err
	}
	for look := firstLook; g.isFrozen(); look = min(2*look, maxLook) {
		timer := time.NewTimer(look)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		}
	}
	return nil
}
