package cage

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/kilnfaas/kiln/orchestrator"
)

// kind is what a cgroup of a hierarchy can limit.
type kind uint8

const (
	unified  kind = iota // version 2: everything
	memoryV1             // version 1 has a hierarchy for each
	pidsV1
)

func (k kind) countsProcesses() bool { return k != memoryV1 }

// place is a folder in which an engine makes the cgroups of steps.
type place struct {
	folder string
	prefix string // of the steps' names there
	kind   kind
}

// systemdPrefix begins the names of steps where the engine's cgroup driver is
// systemd: BuildKit hands on the driver's notation, and the runtime takes it for
// a name.
const systemdPrefix = "system.slice:docker:"

// places returns where steps can be. Those of the driver cgroupfs are in
// docker/buildkit, those of systemd beside the engine's own service or at the
// top.
func places(root string) []place {
	var list []place
	for _, hierarchy := range []struct {
		folder string
		kind   kind
	}{{root, unified}, {filepath.Join(root, "memory"), memoryV1}, {filepath.Join(root, "pids"), pidsV1}} {
		list = append(list,
			place{filepath.Join(hierarchy.folder, "docker", "buildkit"), "", hierarchy.kind},
			place{filepath.Join(hierarchy.folder, "system.slice"), systemdPrefix, hierarchy.kind},
			place{hierarchy.folder, systemdPrefix, hierarchy.kind})
	}
	return list
}

// steps returns the paths of the cgroups of steps; none where the place is not.
func (p place) steps() []string {
	folder, err := os.Open(p.folder)
	if err != nil {
		return nil
	}
	defer folder.Close()
	entries, err := folder.ReadDir(-1)
	if err != nil {
		return nil // it has been removed meanwhile
	}
	var paths []string
	for _, entry := range entries {
		if entry.IsDir() && strings.HasPrefix(entry.Name(), p.prefix) {
			paths = append(paths, filepath.Join(p.folder, entry.Name()))
		}
	}
	return paths
}

// Usable says whether limits can be set: the cgroup file system is that of a
// machine with an engine, and can be written to.
func (b *Builder) Usable() bool {
	for _, file := range []string{"pids/docker/cgroup.procs", "docker/cgroup.procs", "pids/system.slice/cgroup.procs", "system.slice/cgroup.procs"} {
		f, err := os.OpenFile(filepath.Join(b.root, file), os.O_WRONLY, 0)
		if err == nil {
			f.Close()
			return true
		}
	}
	return false
}

// step is the cgroup of a step, in one hierarchy.
type step struct {
	path      string
	kind      kind
	crowdedAt time.Time // since when it is at its limit of processes; zero = it is not
	bomb      bool
}

// limit writes the limits. What the kernel has not been built to count is left
// out, and so is a step that has ended.
func (s *step) limit(limits orchestrator.Limits) error {
	memory, pids := strconv.FormatInt(int64(limits.Memory), 10), strconv.FormatInt(limits.Pids, 10)
	var errs []error
	write := func(wanted bool, file, value string, optional bool) {
		if !wanted {
			return
		}
		if err := s.write(file, value); err != nil && !(optional && errors.Is(err, fs.ErrNotExist)) {
			errs = append(errs, err)
		}
	}
	switch s.kind {
	case unified:
		write(limits.Memory > 0, "memory.max", memory, false)
		write(limits.Memory > 0, "memory.swap.max", "0", true)
		write(limits.Pids > 0, "pids.max", pids, false)
	case memoryV1:
		write(limits.Memory > 0, "memory.limit_in_bytes", memory, false)
		write(limits.Memory > 0, "memory.memsw.limit_in_bytes", memory, true)
	case pidsV1:
		write(limits.Pids > 0, "pids.max", pids, false)
	}
	if _, err := os.Stat(s.path); err != nil {
		return nil
	}
	return errors.Join(errs...)
}

// write writes to a file that is there: cgroups' files cannot be made.
func (s *step) write(file, value string) error {
	f, err := os.OpenFile(filepath.Join(s.path, file), os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return fmt.Errorf("limit a step: %w", err)
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

// processes returns how many there are in it.
func (s *step) processes() int64 {
	text, err := os.ReadFile(filepath.Join(s.path, "pids.current"))
	if err != nil {
		return 0
	}
	n, _ := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	return n
}

// kill ends the processes of a step. It is called again until none is left: in
// version 1 they have to be killed one by one, which takes that they can be
// seen from here; what cannot be killed can at least not become more.
func (s *step) kill() {
	_ = s.write("pids.max", "0")
	if s.kind == unified && s.write("cgroup.kill", "1") == nil { // Linux 5.14
		return
	}
	text, err := os.ReadFile(filepath.Join(s.path, "cgroup.procs"))
	if err != nil {
		return // it has ended
	}
	for _, word := range strings.Fields(string(text)) {
		pid, err := strconv.Atoi(word)
		if err != nil || pid <= 1 || !s.holds(pid) {
			continue // 0 stands for a process that is not visible
		}
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
}

// holds says whether a process is still in the cgroup: its number may have come
// to another.
func (s *step) holds(pid int) bool {
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cgroup"))
	return err == nil && strings.Contains(string(text), "/"+filepath.Base(s.path)+"\n")
}
