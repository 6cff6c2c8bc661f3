package cage_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/cage"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait of a test; nothing waits that long when it works.
const patience = 10 * time.Second

// building is a builder whose build goes on until it is told to end.
type building struct {
	began, end chan struct{}
}

func (b building) Build(context.Context, orchestrator.BuildRequest) (orchestrator.Image, error) {
	close(b.began)
	<-b.end
	return orchestrator.Image{ID: "built"}, nil
}

// hierarchy is a folder that looks like a cgroup file system.
type hierarchy struct {
	t    *testing.T
	root string
}

// make makes a cgroup with files, as the kernel does. "name=text" is a file that
// holds something.
func (h hierarchy) make(path string, files ...string) {
	h.t.Helper()
	whole := filepath.Join(h.root, path)
	if err := os.MkdirAll(filepath.Dir(whole), 0o755); err != nil {
		h.t.Fatal(err)
	}
	made := filepath.Join(h.t.TempDir(), "group")
	if err := os.Mkdir(made, 0o755); err != nil {
		h.t.Fatal(err)
	}
	for _, file := range files {
		name, text, ok := strings.Cut(file, "=")
		if !ok {
			text = "max"
		}
		if err := os.WriteFile(filepath.Join(made, name), []byte(text), 0o600); err != nil {
			h.t.Fatal(err)
		}
	}
	if err := os.Rename(made, whole); err != nil {
		h.t.Fatal(err)
	}
}

func (h hierarchy) read(path string) string {
	text, err := os.ReadFile(filepath.Join(h.root, path))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		h.t.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}

// await waits until a file holds a value.
func (h hierarchy) await(path, want string) {
	h.t.Helper()
	for end := time.Now().Add(patience); h.read(path) != want; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			h.t.Errorf("%s holds %q, want %q", path, h.read(path), want)
			return
		}
	}
}

// start begins a build in a cage and returns what ends it.
func (h hierarchy) start(limits orchestrator.Limits) (end func()) {
	h.t.Helper()
	b := building{began: make(chan struct{}), end: make(chan struct{})}
	builder := cage.New(b, h.root, limits, nil)
	done := make(chan error, 1)
	go func() {
		_, err := builder.Build(context.Background(), orchestrator.BuildRequest{})
		done <- err
	}()
	<-b.began
	return func() {
		close(b.end)
		if err := <-done; err != nil {
			h.t.Error(err)
		}
	}
}

// TestStepsAreLimited in all the places where engines have them.
func TestStepsAreLimited(t *testing.T) {
	const memory, pids = "1073741824", "100"
	v1memory := []string{"memory.limit_in_bytes", "memory.memsw.limit_in_bytes"}
	v2 := []string{"memory.max", "memory.swap.max", "pids.max", "pids.current"}
	for name, tt := range map[string]struct {
		groups map[string][]string
		want   map[string]string
	}{
		"version 1": {
			map[string][]string{"memory/docker/buildkit/one": v1memory, "pids/docker/buildkit/one": {"pids.max", "pids.current"}},
			map[string]string{
				"memory/docker/buildkit/one/memory.limit_in_bytes": memory, "memory/docker/buildkit/one/memory.memsw.limit_in_bytes": memory,
				"pids/docker/buildkit/one/pids.max": pids,
			},
		},
		"version 1 without swap": {
			map[string][]string{"memory/docker/buildkit/one": v1memory[:1]},
			map[string]string{"memory/docker/buildkit/one/memory.limit_in_bytes": memory},
		},
		"version 1, systemd": {
			map[string][]string{"pids/system.slice/system.slice:docker:one": {"pids.max"}},
			map[string]string{"pids/system.slice/system.slice:docker:one/pids.max": pids},
		},
		"version 2": {
			map[string][]string{"docker/buildkit/one": v2},
			map[string]string{"docker/buildkit/one/memory.max": memory, "docker/buildkit/one/memory.swap.max": "0", "docker/buildkit/one/pids.max": pids},
		},
		"version 2, systemd": {
			map[string][]string{"system.slice/system.slice:docker:one": v2, "system.slice:docker:two": v2},
			map[string]string{"system.slice/system.slice:docker:one/pids.max": pids, "system.slice:docker:two/memory.max": memory},
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := hierarchy{t, t.TempDir()}
			h.make("docker/buildkit/earlier", v2...)
			end := h.start(orchestrator.Limits{Memory: orchestrator.GiB, Pids: 100})
			h.make("docker/0123456789abcdef", v2...) // a container
			h.make("system.slice/docker-0123456789abcdef.scope", v2...)
			for path, files := range tt.groups {
				h.make(path, files...)
			}
			for path, want := range tt.want {
				h.await(path, want)
			}
			end()
			h.make("docker/buildkit/later", v2...)
			for _, path := range []string{"docker/buildkit/earlier", "docker/buildkit/later", "docker/0123456789abcdef", "system.slice/docker-0123456789abcdef.scope"} {
				if got := h.read(path + "/pids.max"); got != "max" {
					t.Errorf("%s is none of the build's steps, and has the limit %s", path, got)
				}
			}
		})
	}
}

// TestBombsAreEnded: a step that stays at its limit of processes, and no other.
func TestBombsAreEnded(t *testing.T) {
	h := hierarchy{t, t.TempDir()}
	end := h.start(orchestrator.Limits{Pids: 100})
	defer end()
	files := []string{"pids.max", "pids.current", "cgroup.kill", "memory.max"}
	h.make("docker/buildkit/bomb", files...)
	h.make("docker/buildkit/busy", files...)
	h.await("docker/buildkit/bomb/pids.max", "100")
	h.await("docker/buildkit/busy/pids.max", "100")
	write := func(path, text string) {
		if err := os.WriteFile(filepath.Join(h.root, path), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("docker/buildkit/busy/pids.current", "89\n")
	write("docker/buildkit/bomb/pids.current", "95\n")
	h.await("docker/buildkit/bomb/cgroup.kill", "1")
	h.await("docker/buildkit/bomb/pids.max", "0")
	if got := h.read("docker/buildkit/busy/cgroup.kill"); got != "max" {
		t.Errorf("a step below its limit was ended: %q", got)
	}
}

// TestQuickStepsAreEnded: one that has more processes than it may before the
// limit is written.
func TestQuickStepsAreEnded(t *testing.T) {
	h := hierarchy{t, t.TempDir()}
	end := h.start(orchestrator.Limits{Pids: 100})
	defer end()
	h.make("docker/buildkit/at-it", "pids.max", "pids.current=100", "cgroup.kill", "memory.max")
	h.make("docker/buildkit/quick", "pids.max", "pids.current=101", "cgroup.kill", "memory.max")
	h.await("docker/buildkit/quick/cgroup.kill", "1")
	if got := h.read("docker/buildkit/at-it/cgroup.kill"); got != "max" {
		t.Errorf("a step that is only at its limit was ended at once: %q", got)
	}
}

// TestOnlyItsOwnProcessesAreKilled: version 1 has them killed by number, and the
// number must be one of the step's.
func TestOnlyItsOwnProcessesAreKilled(t *testing.T) {
	h := hierarchy{t, t.TempDir()}
	stranger := exec.Command("sleep", "60")
	if err := stranger.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = stranger.Process.Kill()
		_ = stranger.Wait()
	}()
	end := h.start(orchestrator.Limits{Pids: 100})
	h.make("pids/docker/buildkit/bomb", "pids.max", "pids.current", "cgroup.procs")
	h.await("pids/docker/buildkit/bomb/pids.max", "100")
	for name, text := range map[string]string{"cgroup.procs": "0\n1\n" + strconv.Itoa(stranger.Process.Pid) + "\n", "pids.current": "100\n"} {
		if err := os.WriteFile(filepath.Join(h.root, "pids/docker/buildkit/bomb", name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	h.await("pids/docker/buildkit/bomb/pids.max", "0") // what kill begins with
	end()                                              // it has come to its end
	state, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(stranger.Process.Pid), "stat"))
	if err != nil || strings.Contains(string(state), ") Z ") {
		t.Errorf("a process that is not the step's was killed: %s, %v", state, err)
	}
}

// TestUsable: where there is no cgroup file system of an engine, nothing can be
// limited.
func TestUsable(t *testing.T) {
	h := hierarchy{t, t.TempDir()}
	builder := cage.New(building{}, h.root, orchestrator.Limits{}, nil)
	if builder.Usable() {
		t.Error("an empty folder can be used")
	}
	h.make("pids/docker", "cgroup.procs")
	if !builder.Usable() {
		t.Error("version 1 cannot be used")
	}
}
