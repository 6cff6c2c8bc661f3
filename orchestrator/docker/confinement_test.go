package docker_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/docker"
)

// TestSystemCalls: what the kernel would let an unprivileged user do on most
// machines is refused by the engine's profile.
func TestSystemCalls(t *testing.T) {
	client := open(t, docker.Options{})
	info, err := client.Info(t.Context())
	if err != nil || info.Seccomp == "" {
		t.Fatalf("the engine has no seccomp profile: %+v, %v", info, err)
	}
	_, ask := served(t, client, orchestrator.ContainerConfig{Image: probe.require(t, client)})
	if _, err := ask("/syscall", url.Values{"name": {"getpid"}}); err != nil {
		t.Errorf("getpid: %v", err)
	}
	for _, name := range []string{"unshare", "keyctl", "add_key", "mount", "bpf", "userfaultfd", "perf_event_open", "open_by_handle_at", "init_module"} {
		if _, err := ask("/syscall", url.Values{"name": {name}}); err == nil || !strings.Contains(err.Error(), "operation not permitted") {
			t.Errorf("%s: got %v, want operation not permitted", name, err)
		}
	}
}

// TestSetuidGivesNothing: a program in the image that belongs to root and has
// the setuid bit runs as whoever starts it.
func TestSetuidGivesNothing(t *testing.T) {
	client := open(t, docker.Options{})
	ref := session + "/setuid:1"
	base := probe.require(t, client)
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	defer cancel()
	content, err := client.CopyFrom(ctx, base, "/probe")
	if err != nil {
		t.Fatal(err)
	}
	defer content.Close()
	archive := tar.NewReader(content)
	if _, err := archive.Next(); err != nil {
		t.Fatal(err)
	}
	program, err := io.ReadAll(archive)
	if err != nil {
		t.Fatal(err)
	}
	_, err = client.Build(ctx, orchestrator.BuildRequest{
		Tags: []string{ref}, Dockerfile: "Dockerfile", Labels: owned(t),
		Context: setuid("sneaky", program, "FROM "+base+"\nCOPY sneaky /sneaky\n"),
	})
	if err != nil {
		t.Fatalf("Build: %v", err)
	}
	t.Cleanup(func() {
		if err := client.RemoveImage(context.Background(), ref); err != nil {
			t.Errorf("RemoveImage: %v", err)
		}
	})
	_, ask := served(t, client, orchestrator.ContainerConfig{Image: ref})
	got, err := ask("/run", url.Values{"path": {"/sneaky"}})
	if want := "urwxr-xr-x\n65532 65532\n"; err != nil || got != want {
		t.Errorf("mode, user and effective user: got %q, %v; want %q", got, err, want)
	}
}

// setuid is a build context with a program that has the setuid bit.
func setuid(name string, program []byte, dockerfile string) io.Reader {
	var buffer bytes.Buffer
	w := tar.NewWriter(&buffer)
	for _, file := range []struct {
		name    string
		mode    int64
		content []byte
	}{{"Dockerfile", 0o644, []byte(dockerfile)}, {name, 0o4755, program}} {
		if err := w.WriteHeader(&tar.Header{Name: file.name, Mode: file.mode, Size: int64(len(file.content)), ModTime: time.Unix(1_700_000_000, 0)}); err != nil {
			panic(err) // a bytes.Buffer does not fail
		}
		if _, err := w.Write(file.content); err != nil {
			panic(err)
		}
	}
	if err := w.Close(); err != nil {
		panic(err)
	}
	return &buffer
}

// TestProcessLimits reads the limits from inside.
func TestProcessLimits(t *testing.T) {
	client := open(t, docker.Options{})
	_, ask := served(t, client, orchestrator.ContainerConfig{
		Image: probe.require(t, client), Limits: orchestrator.Limits{Memory: 64 * orchestrator.MiB, Pids: 40},
	})
	text, err := ask("/file", url.Values{"path": {"/proc/self/limits"}})
	if err != nil {
		t.Fatal(err)
	}
	limits := strings.Join(strings.Fields(text), " ")
	for _, want := range []string{"Max core file size 0 0 bytes", "Max open files 16384 16384 files"} {
		if !strings.Contains(limits, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	// Without swap: version 1 counts memory and swap together, 2 apart.
	for file, want := range map[string]string{
		"/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes": strconv.Itoa(64 << 20),
		"/sys/fs/cgroup/memory.swap.max":                    "0",
	} {
		got, err := ask("/file", url.Values{"path": {file}})
		if err == nil && strings.TrimSpace(got) != want {
			t.Errorf("%s: got %q, want %s", file, got, want)
		}
	}
}

// TestEngineThatRefusesOpenFiles: containers start all the same, with its own
// limit. More than nr_open is refused everywhere.
func TestEngineThatRefusesOpenFiles(t *testing.T) {
	client := open(t, docker.Options{})
	client.SetOpenFiles(1 << 31)
	for range 2 { // the first is refused
		served(t, client, orchestrator.ContainerConfig{Image: probe.require(t, client)})
		if got := client.OpenFiles(); got != 0 {
			t.Errorf("containers are given %d files after a refusal, want the engine's own limit", got)
		}
	}
	if left, err := client.List(t.Context(), owned(t)); err != nil || len(left) != 2 {
		t.Errorf("got %+v, %v; want the two that run", left, err)
	}
}

// TestTmpIsCounted: a file system in memory ends where it was said to, and what
// is on it is the container's memory.
func TestTmpIsCounted(t *testing.T) {
	client := open(t, docker.Options{})
	c, ask := served(t, client, orchestrator.ContainerConfig{
		Image:  probe.require(t, client),
		Limits: orchestrator.Limits{Memory: 32 * orchestrator.MiB},
		Tmpfs:  []orchestrator.Tmpfs{{Path: "/tmp", Size: orchestrator.MiB}, {Path: "/large", Size: 64 * orchestrator.MiB}},
	})
	if _, err := ask("/fill", url.Values{"path": {"/tmp/x"}, "bytes": {strconv.Itoa(2 << 20)}}); err == nil || !strings.Contains(err.Error(), "no space left") {
		t.Errorf("2 MiB on a tmpfs of 1 MiB: got %v, want no space left", err)
	}
	if _, err := ask("/fill", url.Values{"path": {"/large/x"}, "bytes": {strconv.Itoa(48 << 20)}}); err == nil {
		t.Error("48 MiB were written to memory by a container of 32 MiB")
	}
	for deadline := time.Now().Add(testTimeout); ; {
		got, err := client.Inspect(t.Context(), c.ID)
		if err != nil {
			t.Fatal(err)
		}
		if got.State == orchestrator.ContainerExited {
			if !got.OOMKilled {
				t.Errorf("got %+v, want it killed for its memory", got)
			}
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("the container goes on")
		}
	}
}

// TestLogIsBounded floods a log with more than is kept.
func TestLogIsBounded(t *testing.T) {
	client := open(t, docker.Options{})
	c, ask := served(t, client, orchestrator.ContainerConfig{Image: probe.require(t, client)})
	details, err := client.API().ContainerInspect(t.Context(), c.ID)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(details.LogPath); err != nil {
		skip(t, "the engine's logs are not visible from here")
	}
	const written, kept = 40 << 20, 30 << 20 // logMaxFiles of logMaxSize
	if _, err := ask("/flood", url.Values{"bytes": {strconv.Itoa(written)}}); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(details.LogPath + "*")
	if err != nil {
		t.Fatal(err)
	}
	var size int64
	for _, file := range files {
		if info, err := os.Stat(file); err == nil {
			size += info.Size()
		}
	}
	t.Logf("of %d MiB, %d MiB in %d files", written>>20, size>>20, len(files))
	if size > kept+(1<<20) || size < kept/3 {
		t.Errorf("the log has %d bytes in %q, want at most %d", size, files, kept)
	}
}

// TestRuntime: a container runs with the runtime that it names; every engine has
// a second name for its usual one.
func TestRuntime(t *testing.T) {
	client := open(t, docker.Options{})
	info, err := client.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	const other = "io.containerd.runc.v2"
	c, _ := served(t, client, orchestrator.ContainerConfig{Image: probe.require(t, client), Runtime: other})
	details, err := client.API().ContainerInspect(t.Context(), c.ID)
	if err != nil || details.HostConfig.Runtime != other || other == info.Runtime {
		t.Errorf("got the runtime %q, %v; want %q, where %q is the default", details.HostConfig.Runtime, err, other, info.Runtime)
	}
	_, err = client.Run(t.Context(), orchestrator.ContainerConfig{
		Name: session + "-runtime", Image: probe.require(t, client), Runtime: "absent", Labels: owned(t),
	})
	if !errors.Is(err, orchestrator.ErrInvalid) {
		t.Errorf("a runtime that the engine does not have: got %v, want ErrInvalid", err)
	}
}

// TestSecurityOptions reads what engines say of themselves.
func TestSecurityOptions(t *testing.T) {
	for _, tt := range []struct {
		options            []string
		seccomp            string
		remapped, rootless bool
	}{
		{[]string{"name=apparmor", "name=seccomp,profile=default"}, "default", false, false},
		{[]string{"name=seccomp,profile=builtin", "name=userns", "name=cgroupns"}, "builtin", true, false},
		{[]string{"name=seccomp,profile=unconfined", "name=rootless"}, "", false, true},
		{nil, "", false, false},
	} {
		d := startDaemon(t)
		d.on("GET /info", answer(map[string]any{"SecurityOptions": tt.options, "SwapLimit": true, "DefaultRuntime": "runc", "Runtimes": map[string]any{"runc": struct{}{}, "runsc": struct{}{}}}))
		got, err := d.open(t, docker.Options{}).Info(t.Context())
		if err != nil || got.Seccomp != tt.seccomp || got.Remapped != tt.remapped || got.Rootless != tt.rootless || !got.SwapCounted {
			t.Errorf("%q: got %+v, %v", tt.options, got, err)
		}
		if got.CheckRuntime("runsc") != nil || got.CheckRuntime("") != nil {
			t.Errorf("runsc is not among %q", got.Runtimes)
		}
		wantError(t, got.CheckRuntime("kata"), orchestrator.ErrInvalid, "runtime-unknown")
	}
}
