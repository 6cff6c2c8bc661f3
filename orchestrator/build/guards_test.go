package build_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/build"
	"github.com/kilnfaas/kiln/orchestrator/cage"
	"github.com/kilnfaas/kiln/orchestrator/docker"
	"github.com/kilnfaas/kiln/orchestrator/enginetest"
)

// Small doses: enough for a step that behaves, and nothing to the machine.
const (
	stepMemory = 48 * orchestrator.MiB
	stepPids   = 32
	diskDose   = 64 * orchestrator.MiB
	outputDose = 64 * orchestrator.KiB
	// promptly is far below the build's own time, and what a guard needs on a busy
	// machine.
	promptly = 30 * time.Second
)

// guarded is a pipeline on the real engine whose builds have small limits.
func guarded(t *testing.T, mode docker.BuilderMode, change func(*build.Config)) *rig {
	t.Helper()
	engine := openDocker(t, mode)
	id := "guards-test-" + uuid.NewString()[:8]
	limits := orchestrator.Limits{Memory: stepMemory, Pids: stepPids}
	caged := cage.New(engine, "", limits, nil)
	if mode == docker.BuilderBuildKit && !caged.Usable() {
		if os.Getenv("CI") == "true" {
			t.Fatal("CI=true and the cgroup file system cannot be written to")
		}
		t.Skip("SKIPPED, NOT TESTED: the cgroup file system cannot be written to")
	}
	r := newRig(t, func(c *build.Config) {
		c.Builder, c.Images, c.Owner = caged, engine, id
		c.Step, c.Output = limits, outputDose
		c.Classic = func(context.Context) (bool, error) { return mode == docker.BuilderClassic, nil }
		if change != nil {
			change(c)
		}
	})
	t.Cleanup(func() { removeImages(t, engine, id) })
	r.builder = build.New(r.config)
	return r
}

// eachBuilder runs a test on every builder of the engine.
func eachBuilder(t *testing.T, f func(t *testing.T, mode docker.BuilderMode)) {
	for _, mode := range []docker.BuilderMode{docker.BuilderBuildKit, docker.BuilderClassic} {
		t.Run(string(mode), func(t *testing.T) { f(t, mode) })
	}
}

// attempt builds a Dockerfile of lines on Debian, new to every cache. Its label is on what the classic
// builder leaves of a build that fails, too, for removeImages to find.
func (r *rig) attempt(t *testing.T, network orchestrator.BuildNetwork, lines ...string) (*recorder, error) {
	t.Helper()
	mark := uuid.NewString()
	rev := r.revision(t, map[string]string{"Dockerfile": "FROM " + debian + "\nLABEL " + orchestrator.LabelOwner + "=" + r.config.Owner + "\nENV MARK=" + mark + "\n" + strings.Join(lines, "\n") + "\n"})
	rev.Function, rev.Image = r.config.Owner, "kiln/"+r.config.Owner+":"+mark[:8]
	rev.BuildDigest = "sha256:" + mark
	rev.Spec.Build.Network = network
	_, got, err := r.build(t, rev, "dockerfile")
	return got, err
}

// TestHogsInBuilds: each ends with an error that says what it ran into, soon,
// and the next build works as ever.
func TestHogsInBuilds(t *testing.T) {
	eachBuilder(t, func(t *testing.T, mode docker.BuilderMode) {
		r := guarded(t, mode, func(c *build.Config) {
			c.Timeout = 20 * time.Second
			c.Disk = build.DiskWatch{Limit: diskDose, Free: freeOnEngine(t, mode), Reclaim: c.Images.(*docker.Client).DropBuildCache}
		})
		for _, hog := range []struct {
			name, run, code, says string
		}{
			// tail keeps all of a line, and zeros have no line's end.
			{"memory", "head -c 128M /dev/zero | tail -n 1 >/dev/null", "build-failed", ""},
			// The limit is there some 10 ms after the step; who is quicker is ended (package cage).
			{"processes", fmt.Sprintf("sleep 1; for i in $(seq %d); do sleep 60 & done; echo all of them run", 2*stepPids), "build-failed", "fork"},
			{"disk", "cat /dev/zero >/file", "build-disk-limit", ""},
			{"output", "yes", "build-output-limit", "y"},
			{"output in one line", "cat /dev/zero | tr '\\0' x", "build-output-limit", ""},
		} {
			if mode == docker.BuilderClassic && (hog.name == "disk" || hog.name == "output") {
				continue // as with the other builder
			}
			t.Run(hog.name, func(t *testing.T) {
				if mode == docker.BuilderBuildKit && strings.HasPrefix(hog.name, "output") {
					hog.run += " | head -c 400K; sleep 60" // it cuts a step's output at a rate, too
				}
				begin := time.Now()
				_, err := r.attempt(t, "", "RUN "+hog.run)
				took := time.Since(begin).Round(100 * time.Millisecond)
				var failed *orchestrator.Error
				if !errors.As(err, &failed) || failed.Code != hog.code || !errors.Is(err, orchestrator.ErrFunction) ||
					!strings.Contains(strings.ToLower(strings.Join(failed.Output, "\n")), hog.says) || took > promptly {
					t.Fatalf("after %s: got %#v\nwant %s with %q in the output", took, err, hog.code, hog.says)
				}
				t.Logf("after %s: %v (%s)", took, err, failed.Hint)
			})
		}
		if _, err := r.attempt(t, orchestrator.BuildNetworkNone, "RUN true"); err != nil {
			t.Errorf("the next build: %v", err)
		}
	})
}

// freeOnEngine looks at the disk of the engine's machine.
func freeOnEngine(t *testing.T, mode docker.BuilderMode) func() (orchestrator.Bytes, error) {
	info, err := openDocker(t, mode).Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return func() (orchestrator.Bytes, error) {
		var stat unix.Statfs_t
		err := unix.Statfs(info.RootDir, &stat)
		return orchestrator.Bytes(stat.Bavail) * orchestrator.Bytes(stat.Bsize), err
	}
}

// TestBombsInBuilds: what goes on though it gets no more processes, or none.
// BuildKit's bombs are ended long before their build's time is over; the classic
// builder's, and what never ends, by it.
func TestBombsInBuilds(t *testing.T) {
	const short, long = 4 * time.Second, 2 * time.Minute
	eachBuilder(t, func(t *testing.T, mode docker.BuilderMode) {
		limit, want := long, "build-failed"
		if mode == docker.BuilderClassic {
			limit, want = short, "build-timeout"
		}
		r := guarded(t, mode, func(c *build.Config) { c.Timeout = limit })
		mark := uuid.NewString()
		// This shell tries again, for minutes, when it cannot fork.
		_, err := r.attempt(t, "", fmt.Sprintf(`RUN ["bash", "-c", "b() { : %s; b | b & }; b; sleep 600"]`, mark))
		var failed *orchestrator.Error
		if !errors.As(err, &failed) || failed.Code != want || failed.Hint == "" {
			t.Fatalf("a fork bomb: got %#v, want %s", err, want)
		}
		t.Logf("a fork bomb: %v (%s)", err, failed.Hint)
		if mode == docker.BuilderBuildKit {
			r.config.Timeout = short
			r.builder = build.New(r.config)
			_, err = r.attempt(t, "", fmt.Sprintf("RUN : %s; while :; do :; done", mark))
			if !errors.As(err, &failed) || failed.Code != "build-timeout" || !strings.Contains(failed.Hint, "build_timeout") {
				t.Errorf("a loop without end: got %#v, want build-timeout", err)
			}
		}
		if n := enginetest.Processes(mark); n != 0 {
			t.Errorf("%d processes are left", n)
		}
	})
}

// TestBuildsAreSealed looks around from inside a step: no network unless there
// is to be one, nothing of the machine, nothing of the gateway's.
func TestBuildsAreSealed(t *testing.T) {
	t.Setenv("KILN_TOKEN", "kiln_secret")
	t.Setenv("KILN_TEST_SECRET", "secret")
	eachBuilder(t, func(t *testing.T, mode docker.BuilderMode) {
		r := guarded(t, mode, nil)
		got, err := r.attempt(t, orchestrator.BuildNetworkNone,
			"RUN "+strings.Join([]string{
				"tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' ' | sort | tr '\\n' ' ' | sed 's/^/interfaces: /; s/$/\\n/'",
				"env | sed 's/^/env: /'",
				"ls -A /run /var/run/ /run/secrets 2>/dev/null | sed 's/^/run: /'",
				"grep -E '^(/dev/[a-z]|overlay|.* /host)' /proc/mounts | grep -vE '^overlay / ' | cut -d' ' -f2 | sort -u | sed 's/^/mount: /'",
				"find / -xdev -name '*.token' -o -name '*.age' -o -name 'docker.sock' 2>/dev/null | sed 's/^/found: /'",
			}, "; "))
		if err != nil {
			t.Fatalf("%v\n%s", err, strings.Join(got.lines(), "\n"))
		}
		for _, line := range got.lines() {
			name, rest, _ := strings.Cut(line, ": ")
			switch {
			case name == "interfaces" && strings.TrimSpace(rest) != "lo":
				t.Errorf("there is a network: %s", line)
			case name == "found", strings.Contains(line, "secret"), strings.Contains(line, "KILN"), strings.Contains(line, "docker.sock"):
				t.Errorf("a step finds %s", line)
			case name == "mount" && rest != "/etc/resolv.conf" && rest != "/etc/hosts" && rest != "/etc/hostname" && rest != "/dev" && rest != "/dev/shm":
				t.Errorf("a step has a mount of the machine: %s", line)
			}
		}
		if !strings.Contains(strings.Join(got.lines(), "\n"), "interfaces: lo") || !strings.Contains(strings.Join(got.lines(), "\n"), "env: PATH=") {
			t.Errorf("the steps did not look: %q", got.lines())
		}
		for what, line := range map[string]string{
			"a secret":             "RUN --mount=type=secret,id=x,required=true cat /run/secrets/x",
			"an agent":             "RUN --mount=type=ssh,required=true true",
			"the machine's":        "RUN --network=host true",
			"all rights":           "RUN --security=insecure true",
			"more than it needs":   "RUN mount -t tmpfs none /mnt",
			"another's user space": "RUN unshare --user true",
		} {
			if got, err := r.attempt(t, "", line); err == nil {
				t.Errorf("%s: %s was built\n%s", what, line, strings.Join(got.lines(), "\n"))
			}
		}
	})
}

// TestCachesOfFunctions: what one leaves in a cache mount, another with the same
// id does not find; the next build of the same does.
func TestCachesOfFunctions(t *testing.T) {
	r := guarded(t, docker.BuilderBuildKit, nil)
	id := uuid.NewString()
	build := func(function string) string {
		mark := uuid.NewString()
		rev := r.revision(t, map[string]string{"Dockerfile": "FROM " + debian + "\nENV MARK=" + mark + "\nRUN --mount=type=cache,id=" + id + ",target=/cache ls /cache | sed 's/^/found: /'; touch /cache/" + function + "\n"})
		rev.Function, rev.BuildDigest, rev.Image = function, "sha256:"+mark, "kiln/"+r.config.Owner+":"+mark[:8]
		_, got, err := r.build(t, rev, "dockerfile")
		if err != nil {
			t.Fatal(err)
		}
		return strings.Join(got.lines(), "\n")
	}
	if got := build("one"); strings.Contains(got, "found") {
		t.Errorf("a new cache is not empty: %s", got)
	}
	if got := build("two"); strings.Contains(got, "found") {
		t.Errorf("another function finds %s", got)
	}
	if got := build("one"); !strings.Contains(got, "found: one") {
		t.Errorf("the same function finds %q, want what it left", got)
	}
}
