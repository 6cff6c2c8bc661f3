package docker_test

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/docker"
	"github.com/kilnfaas/kiln/orchestrator/enginetest"
)

// testTimeout bounds a test on the real engine, whose machine may be busy.
const testTimeout = 2 * time.Minute

// served runs an image of the probe and returns a way to ask it.
func served(t *testing.T, client *docker.Client, config orchestrator.ContainerConfig) (orchestrator.Container, func(path string, query url.Values) (string, error)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	t.Cleanup(cancel)
	config.Name = session + "-" + strconv.FormatInt(time.Now().UnixNano(), 36)
	config.Env = map[string]string{"PORT": strconv.Itoa(orchestrator.InstancePort)}
	config.Labels = owned(t)
	if config.Network == "" {
		config.Network = probe.network()
	}
	c, err := client.Run(ctx, config)
	if err != nil {
		t.Fatalf("Run: %v", err)
	}
	t.Cleanup(func() {
		if err := client.Stop(context.Background(), c.ID, 0); err != nil {
			t.Errorf("Stop: %v", err)
		}
	})
	base := "http://" + net.JoinHostPort(c.Addr, strconv.Itoa(orchestrator.InstancePort))
	ask := func(path string, query url.Values) (string, error) {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, base+path+"?"+query.Encode(), nil)
		if err != nil {
			return "", err
		}
		response, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(request)
		if err != nil {
			return "", err
		}
		defer response.Body.Close()
		body, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
		if err == nil && response.StatusCode != http.StatusOK {
			err = fmt.Errorf("%s: %s", response.Status, body)
		}
		return string(body), err
	}
	for {
		if _, err := ask("/_kiln/ready", nil); err == nil {
			return c, ask
		}
		select {
		case <-ctx.Done():
			t.Fatal("the probe does not answer")
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// status reads a line of /proc/self/status in the container.
func status(t *testing.T, ask func(string, url.Values) (string, error), name string) string {
	t.Helper()
	text, err := ask("/file", url.Values{"path": {"/proc/self/status"}})
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.Join(strings.Fields(rest), " ")
		}
	}
	t.Fatalf("no %s in %s", name, text)
	return ""
}

func TestHardening(t *testing.T) {
	client := open(t, docker.Options{})
	c, ask := served(t, client, orchestrator.ContainerConfig{
		Image:  probe.require(t, client),
		Limits: orchestrator.Limits{Memory: 64 * orchestrator.MiB, CPU: 0.5, Pids: 40},
		Tmpfs:  []orchestrator.Tmpfs{{Path: "/tmp", Size: orchestrator.MiB}, {Path: "/exec", Size: 2 * orchestrator.MiB, Exec: true}},
	})
	for name, want := range map[string]string{
		"Uid": "65532 65532 65532 65532", "Gid": "65532 65532 65532 65532", "NoNewPrivs": "1", "Seccomp": "2",
		"CapEff": "0000000000000000", "CapPrm": "0000000000000000", "CapBnd": "0000000000000000",
	} {
		if got := status(t, ask, name); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
	for path, allowed := range map[string]bool{"/x": false, "/etc/x": false, "/tmp/x": true, "/exec/x": true} {
		if _, err := ask("/write", url.Values{"path": {path}}); (err == nil) != allowed {
			t.Errorf("write %s: got %v, want it allowed: %t", path, err, allowed)
		}
	}
	mounts, err := ask("/file", url.Values{"path": {"/proc/self/mounts"}})
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"/tmp":  "tmpfs rw,nosuid,nodev,noexec,relatime,size=1024k",
		"/exec": "tmpfs rw,nosuid,nodev,relatime,size=2048k",
	} {
		if !strings.Contains(mounts, path+" "+want) {
			t.Errorf("%s is not mounted as %q:\n%s", path, want, mounts)
		}
	}
	details, err := client.API().ContainerInspect(t.Context(), c.ID)
	if err != nil {
		t.Fatal(err)
	}
	host := details.HostConfig
	got := fmt.Sprintln(host.Memory, host.MemorySwap, host.NanoCPUs, *host.PidsLimit, host.ReadonlyRootfs, host.CapDrop, host.SecurityOpt,
		host.Privileged, host.RestartPolicy.Name, host.AutoRemove, host.LogConfig)
	want := fmt.Sprintln(64<<20, 64<<20, 500_000_000, 40, true, "[ALL]", "[no-new-privileges]",
		false, "no", false, "{json-file map[max-file:3 max-size:10m]}")
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("configuration (-want +got):\n%s", diff)
	}
	if err := client.Limit(t.Context(), c.ID, orchestrator.Limits{Memory: 96 * orchestrator.MiB, CPU: 1.5, Pids: 50}); err != nil {
		t.Fatal(err)
	}
	if details, err = client.API().ContainerInspect(t.Context(), c.ID); err != nil {
		t.Fatal(err)
	}
	host = details.HostConfig
	if host.Memory != 96<<20 || host.MemorySwap != 96<<20 || host.NanoCPUs != 1_500_000_000 || *host.PidsLimit != 50 {
		t.Errorf("after Limit: memory %d, swap %d, CPU %d, pids %d", host.Memory, host.MemorySwap, host.NanoCPUs, *host.PidsLimit)
	}
}

// built builds an image on the probe and removes it after the test.
func built(t *testing.T, client *docker.Client, lines ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	defer cancel()
	ref := session + "/" + strconv.FormatInt(time.Now().UnixNano(), 36) + ":1"
	dockerfile := "FROM " + probe.require(t, client) + "\n" + strings.Join(lines, "\n") + "\n"
	_, err := client.Build(ctx, orchestrator.BuildRequest{
		Tags: []string{ref}, Dockerfile: "Dockerfile", Labels: owned(t),
		Context: tarOf(map[string]string{"Dockerfile": dockerfile}),
	})
	if err != nil {
		t.Fatalf("Build: %v", err)
	}
	t.Cleanup(func() {
		if err := client.RemoveImage(context.Background(), ref); err != nil {
			t.Errorf("RemoveImage: %v", err)
		}
	})
	return ref
}

func TestNobodyIsRoot(t *testing.T) {
	client := open(t, docker.Options{})
	for user, want := range map[string]string{
		"root": "65532", "0": "65532", "0:1000": "65532", "00": "65532",
		"sneaky":    "65532", // another name of root
		"function":  "1234",
		"1234:1234": "1234",
	} {
		t.Run(user, func(t *testing.T) {
			_, ask := served(t, client, orchestrator.ContainerConfig{Image: built(t, client, "USER "+user)})
			if got := status(t, ask, "Uid"); got != strings.Join([]string{want, want, want, want}, " ") {
				t.Errorf("USER %s runs as %s, want %s", user, got, want)
			}
		})
	}
	t.Run("unknown", func(t *testing.T) {
		ref := built(t, client, "USER nobody-knows")
		_, err := client.Run(t.Context(), orchestrator.ContainerConfig{Name: session + "-unknown", Image: ref, Labels: owned(t)})
		wantError(t, err, orchestrator.ErrInvalid, "image-user-unknown")
	})
}

// TestVolumesOfImages: an image cannot ask for space on the engine's disk.
func TestVolumesOfImages(t *testing.T) {
	client := open(t, docker.Options{})
	c, ask := served(t, client, orchestrator.ContainerConfig{Image: built(t, client, "VOLUME /data")})
	if _, err := ask("/write", url.Values{"path": {"/data/x"}}); err != nil {
		t.Errorf("the volume cannot be written to: %v", err)
	}
	mounts, err := ask("/file", url.Values{"path": {"/proc/self/mounts"}})
	if err != nil || !strings.Contains(mounts, "tmpfs /data tmpfs") {
		t.Errorf("the volume is no memory file system: %v\n%s", err, mounts)
	}
	details, err := client.API().ContainerInspect(t.Context(), c.ID)
	if err != nil || len(details.Mounts) != 0 {
		t.Errorf("the engine mounts %+v, %v; want no volume", details.Mounts, err)
	}
}

func TestCopyFrom(t *testing.T) {
	client := open(t, docker.Options{Labels: owned(t)})
	ref := probe.require(t, client)
	content, err := client.CopyFrom(t.Context(), ref, "/etc/passwd")
	if err != nil {
		t.Fatalf("CopyFrom: %v", err)
	}
	archive := tar.NewReader(content)
	header, err := archive.Next()
	if err != nil || header.Name != "passwd" {
		t.Errorf("first entry: got %+v, %v; want passwd", header, err)
	}
	if text, err := io.ReadAll(archive); err != nil || !strings.HasPrefix(string(text), "root:x:0:0:") {
		t.Errorf("content: got %q, %v", text, err)
	}
	if err := content.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	if _, err := client.CopyFrom(t.Context(), ref, "/absent"); !errors.Is(err, orchestrator.ErrNotFound) {
		t.Errorf("a path that is not there: got %v, want ErrNotFound", err)
	}
	if _, err := client.CopyFrom(t.Context(), session+"/absent", "/"); !errors.Is(err, orchestrator.ErrNotFound) {
		t.Errorf("an image that is not there: got %v, want ErrNotFound", err)
	}
	if left, err := client.List(t.Context(), owned(t)); err != nil || len(left) != 0 {
		t.Errorf("left behind: %+v, %v", left, err)
	}
}

// TestCancelledBuildStops looks for the process of the step on the machine.
func TestCancelledBuildStops(t *testing.T) {
	for _, builder := range []docker.BuilderMode{docker.BuilderBuildKit, docker.BuilderClassic} {
		t.Run(string(builder), func(t *testing.T) {
			client := open(t, docker.Options{Builder: builder})
			base := probe.require(t, client)
			marker := "echo " + session + "-" + string(builder)
			ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
			defer cancel()
			ran := false
			var told time.Time
			_, err := client.Build(ctx, orchestrator.BuildRequest{
				Dockerfile: "Dockerfile",
				Context:    tarOf(map[string]string{"Dockerfile": fmt.Sprintf("FROM %s\nRUN [\"/probe\", \"script\", %q, \"sleep 10m\"]\n", base, marker)}),
				Progress: func(e orchestrator.BuildEvent) {
					if e.Kind == orchestrator.BuildLog {
						ran, told = enginetest.Processes(marker) > 0, time.Now()
						cancel()
					}
				},
			})
			if !errors.Is(err, context.Canceled) {
				t.Errorf("Build: got %v, want context.Canceled", err)
			}
			if took := time.Since(told); took > promptly {
				t.Errorf("it took %s to stop: the engine was not told, only left", took)
			}
			if !ran {
				skip(t, "the engine's processes are not visible from here")
			}
			if n := enginetest.Processes(marker); n != 0 {
				t.Errorf("%d processes of the step still run", n)
			}
		})
	}
}

// promptly is below the time after which Build cuts the connection of a build
// that does not stop when it is told to.
const promptly = 8 * time.Second

// TestCacheMounts: BuildKit keeps them between builds, without a session.
func TestCacheMounts(t *testing.T) {
	client := open(t, docker.Options{Builder: docker.BuilderBuildKit})
	built(t, client, `RUN --mount=type=cache,target=/cache ["/probe", "script", "echo `+session+`"]`)
}
