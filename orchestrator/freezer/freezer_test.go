package freezer_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/enginetest"
	"github.com/kilnfaas/kiln/orchestrator/freezer"
)

// rig is a fake engine with one container whose cgroup is in a folder.
type rig struct {
	*freezer.Engine
	fake *enginetest.Fake
	id   string
	file string // that freezes
	halt func() // ends the kernel
}

// layouts are where engines put a container's cgroup.
var layouts = map[string]func(id string) string{
	"v1 cgroupfs": func(id string) string { return "freezer/docker/" + id + "/freezer.state" },
	"v1 systemd":  func(id string) string { return "freezer/system.slice/docker-" + id + ".scope/freezer.state" },
	"v2 systemd":  func(id string) string { return "system.slice/docker-" + id + ".scope/cgroup.freeze" },
	"v2 cgroupfs": func(id string) string { return "docker/" + id + "/cgroup.freeze" },
}

func newRig(t *testing.T, layout func(id string) string) *rig {
	t.Helper()
	fake := enginetest.NewFake()
	t.Cleanup(func() { fake.Close() })
	fake.AddImage("idle:1", enginetest.Idle(), nil)
	c, err := fake.Run(t.Context(), orchestrator.ContainerConfig{Name: "c", Image: "idle:1", Network: "bridge", Labels: map[string]string{"a": "b"}})
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	r := &rig{Engine: freezer.New(fake, root), fake: fake, id: c.ID}
	if layout == nil {
		return r
	}
	r.file = filepath.Join(root, layout(c.ID))
	if err := os.MkdirAll(filepath.Dir(r.file), 0o755); err != nil {
		t.Fatal(err)
	}
	r.write(t, r.file, map[bool]string{true: "0", false: "THAWED"}[filepath.Base(r.file) == "cgroup.freeze"])
	if filepath.Base(r.file) == "cgroup.freeze" {
		r.kernel(t)
	}
	return r
}

func (r *rig) write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func (r *rig) read(t *testing.T) string {
	t.Helper()
	data, err := os.ReadFile(r.file)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// kernel does what the kernel does for version 2: cgroup.events follows
// cgroup.freeze a little later.
func (r *rig) kernel(t *testing.T) {
	events := filepath.Join(filepath.Dir(r.file), "cgroup.events")
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			data, err := os.ReadFile(r.file)
			if err == nil {
				temporary := events + ".new"
				if os.WriteFile(temporary, []byte("populated 1\nfrozen "+string(data)+"\n"), 0o644) == nil {
					os.Rename(temporary, events)
				}
			}
			time.Sleep(time.Millisecond)
		}
	}()
	r.halt = func() { cancel(); <-done }
	t.Cleanup(r.halt)
}

func (r *rig) state(t *testing.T) orchestrator.ContainerState {
	t.Helper()
	c, err := r.Inspect(t.Context(), r.id)
	if err != nil {
		t.Fatal(err)
	}
	return c.State
}

func TestFreezeByCgroup(t *testing.T) {
	for name, layout := range layouts {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, layout)
			for range 2 { // idempotent
				if err := r.Freeze(t.Context(), r.id); err != nil {
					t.Fatal(err)
				}
			}
			if got := r.read(t); got != "1" && got != "FROZEN" {
				t.Errorf("the file says %q", got)
			}
			if r.fake.Calls(enginetest.OpFreeze) != 0 {
				t.Error("the engine was asked")
			}
			if got := r.state(t); got != orchestrator.ContainerFrozen {
				t.Errorf("inspected as %s", got)
			}
			list, err := r.List(t.Context(), map[string]string{"a": "b"})
			if err != nil || len(list) != 1 || list[0].State != orchestrator.ContainerFrozen {
				t.Errorf("listed as %+v, %v", list, err)
			}
			for range 2 {
				if err := r.Thaw(t.Context(), r.id); err != nil {
					t.Fatal(err)
				}
			}
			if got := r.state(t); got != orchestrator.ContainerRunning {
				t.Errorf("thawed, inspected as %s", got)
			}
			if r.fake.Calls(enginetest.OpThaw) != 0 {
				t.Error("the engine was asked to thaw")
			}
		})
	}
}

func TestWithoutCgroupTheEngineDoesIt(t *testing.T) {
	r := newRig(t, nil)
	if r.Usable() {
		t.Error("an empty folder is said to be usable")
	}
	if err := r.Freeze(t.Context(), r.id); err != nil {
		t.Fatal(err)
	}
	if got := r.state(t); got != orchestrator.ContainerFrozen {
		t.Errorf("inspected as %s", got)
	}
	if err := r.Thaw(t.Context(), r.id); err != nil {
		t.Fatal(err)
	}
	if got := r.state(t); got != orchestrator.ContainerRunning {
		t.Errorf("inspected as %s", got)
	}
}

// TestThawWhatAnotherGatewayFroze: after a restart it is not known how.
func TestThawWhatAnotherGatewayFroze(t *testing.T) {
	t.Run("by cgroup", func(t *testing.T) {
		r := newRig(t, layouts["v1 cgroupfs"])
		r.write(t, r.file, "FROZEN")
		if got := r.state(t); got != orchestrator.ContainerFrozen {
			t.Errorf("inspected as %s", got)
		}
		if err := r.Thaw(t.Context(), r.id); err != nil || r.read(t) != "THAWED" {
			t.Errorf("%v, the file says %q", err, r.read(t))
		}
	})
	t.Run("by the engine", func(t *testing.T) {
		r := newRig(t, layouts["v1 cgroupfs"])
		if err := r.fake.Freeze(t.Context(), r.id); err != nil {
			t.Fatal(err)
		}
		if err := r.Thaw(t.Context(), r.id); err != nil {
			t.Fatal(err)
		}
		if c, err := r.fake.Inspect(t.Context(), r.id); err != nil || c.State != orchestrator.ContainerRunning {
			t.Errorf("the engine says %s, %v", c.State, err)
		}
	})
}

func TestStopThawsFirst(t *testing.T) {
	r := newRig(t, layouts["v1 cgroupfs"])
	if err := r.Freeze(t.Context(), r.id); err != nil {
		t.Fatal(err)
	}
	if err := r.Stop(t.Context(), r.id, time.Second); err != nil {
		t.Fatal(err)
	}
	if got := r.read(t); got != "THAWED" {
		t.Errorf("stopped while %s: it cannot end by itself", got)
	}
	if _, err := r.Inspect(t.Context(), r.id); !errors.Is(err, orchestrator.ErrNotFound) {
		t.Errorf("got %v", err)
	}
	if err := r.Freeze(t.Context(), "../../etc"); err == nil {
		t.Error("froze by a path")
	}
}

func TestFreezeThatNeverHappensIsUndone(t *testing.T) {
	r := newRig(t, layouts["v2 cgroupfs"])
	r.halt() // a kernel that does not follow
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := r.Freeze(ctx, r.id); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	if got := r.read(t); got != "0" {
		t.Errorf("the file says %q", got)
	}
}
