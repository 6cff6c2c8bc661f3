package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/docker/go-units"
	"github.com/kilnfaas/kiln/gateway/api"
	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/docker"
)

// Thresholds of the checks.
const (
	maxSkew     = 5 * time.Second // the Date header counts in seconds
	oldestAPI   = 41              // API 1.41: engine 20.10, the oldest that is tested
	diskWarning = 5 * orchestrator.GiB
	diskFailure = 1 * orchestrator.GiB // less than one image of a compiled language
	dialTimeout = time.Second
	ipForward   = "/proc/sys/net/ipv4/ip_forward"
	baseOfAll   = "debian:trixie-slim"
)

// checkGateway asks the gateway whether it is ready, and what time it is there.
func checkGateway(ctx context.Context, client *api.Client) []finding {
	ctx, cancel := context.WithTimeout(ctx, quickTimeout)
	defer cancel()
	clock := &clockTransport{}
	asked := &api.Client{BaseURL: client.BaseURL, Token: client.Token, UserAgent: client.UserAgent, HTTP: &http.Client{Transport: clock}}
	if err := asked.Ready(ctx); err != nil {
		return []finding{bad("gateway", err, "")}
	}
	findings := []finding{{"gateway", verdictGood, client.BaseURL + " is ready", ""}}
	if _, err := asked.Version(ctx); errors.Is(err, orchestrator.ErrDenied) {
		findings = append(findings, bad("token", err, ""))
	}
	skew, ok := clock.skew()
	switch {
	case !ok:
		return append(findings, finding{"clock", verdictSkipped, "the gateway does not tell its time", ""})
	case skew > maxSkew || skew < -maxSkew:
		return append(findings, finding{"clock", verdictDoubt, fmt.Sprintf("the gateway's clock differs by %s", skew.Abs().Round(time.Second)),
			"synchronise both machines, for example with systemd-timesyncd or chrony"})
	}
	return append(findings, finding{"clock", verdictGood, "agrees with the gateway's", ""})
}

// clockTransport remembers by how much the clock of the answering machine
// differs from this one's.
type clockTransport struct {
	mu    sync.Mutex
	delta time.Duration // guarded by mu
	known bool          // guarded by mu
}

// RoundTrip sends the request.
func (c *clockTransport) RoundTrip(request *http.Request) (*http.Response, error) {
	response, err := http.DefaultTransport.RoundTrip(request)
	if err != nil {
		return nil, err
	}
	if there, err := http.ParseTime(response.Header.Get("Date")); err == nil {
		c.mu.Lock()
		c.delta, c.known = time.Since(there), true
		c.mu.Unlock()
	}
	return response, nil
}

func (c *clockTransport) skew() (time.Duration, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.delta, c.known
}

// checkEngine looks at the engine, its API, its builder and its disk.
func checkEngine(ctx context.Context, engine *docker.Client) []finding {
	info, err := engine.Info(ctx)
	if err != nil {
		return []finding{bad("engine", err, "restart the engine: sudo systemctl restart docker")}
	}
	findings := []finding{{"engine", verdictGood, fmt.Sprintf("Docker %s, %s, cgroup v%s (%s), %d CPUs, %s memory",
		info.Version, info.StorageDriver, info.CgroupVersion, info.CgroupDriver, info.CPUs, units.BytesSize(float64(info.Memory))), ""}}
	if info.Rootless {
		findings = append(findings, finding{"rootless", verdictDoubt, "the engine is rootless; the gateway may not reach instances' addresses",
			"run the gateway inside the engine's network namespace, or use a rootful engine"})
	}
	findings = append(findings, checkAPI(info.APIVersion), checkConfinement(info), checkBuilder(ctx, engine.BuilderKind))
	return append(findings, checkDisk(info.RootDir))
}

func checkAPI(version string) finding {
	minor, err := strconv.Atoi(strings.TrimPrefix(version, "1."))
	if err != nil || minor < oldestAPI {
		return finding{"api", verdictBad, fmt.Sprintf("API version %s is older than 1.%d", version, oldestAPI), "install Docker 20.10 or newer"}
	}
	return finding{"api", verdictGood, "API version " + version, ""}
}

// checkConfinement looks at what the engine itself does to hold containers.
func checkConfinement(info orchestrator.EngineInfo) finding {
	users := "root in a container is root on the machine, and no function is root"
	if info.Remapped || info.Rootless {
		users = "users in containers are other users on the machine"
	}
	f := finding{"containers", verdictGood, fmt.Sprintf("seccomp profile %s; %s; runtimes %s, %s by default",
		info.Seccomp, users, strings.Join(info.Runtimes, ", "), info.Runtime), ""}
	switch {
	case info.Seccomp == "":
		f.Verdict, f.Detail = verdictBad, "the engine runs containers without a seccomp profile: functions may make every system call"
		f.Remedy = "remove seccomp-profile from /etc/docker/daemon.json, or use a kernel and an engine with seccomp"
	case !info.SwapCounted:
		f.Verdict, f.Detail = verdictDoubt, "the kernel does not count swap: a function may fill it beside its memory"
		f.Remedy = "turn swap off, or boot with swapaccount=1"
	}
	return f
}

// checkBuilder takes what asks for the builder: docker.Client.BuilderKind.
func checkBuilder(ctx context.Context, builder func(context.Context) (docker.BuilderMode, error)) finding {
	kind, err := builder(ctx)
	switch {
	case err != nil:
		return bad("builder", err, "")
	case kind == docker.BuilderClassic:
		return finding{"builder", verdictDoubt, "the classic builder: builds have no cache mounts and are slower", "install Docker 20.10 or newer for BuildKit"}
	}
	return finding{"builder", verdictGood, string(kind), ""}
}

// checkDisk looks at the space where the engine keeps images.
func checkDisk(root string) finding {
	free, err := freeSpace(root)
	if err != nil {
		return finding{"disk", verdictSkipped, fmt.Sprintf("%s cannot be looked at from here: %v", root, err), ""}
	}
	return checkFree(root, free)
}

func checkFree(root string, free orchestrator.Bytes) finding {
	f := finding{"disk", verdictGood, fmt.Sprintf("%s free in %s", units.BytesSize(float64(free)), root), ""}
	const remedy = "remove functions (kiln rm), or images that nothing uses (docker image prune)"
	switch {
	case free < diskFailure:
		f.Verdict, f.Remedy = verdictBad, remedy
	case free < diskWarning:
		f.Verdict, f.Remedy = verdictDoubt, remedy
	}
	return f
}

// checkNetwork sees whether this machine reaches instances' addresses. forwarding
// is the kernel's switch, ipForward.
func checkNetwork(ctx context.Context, engine ownedEngine, forwarding string) finding {
	forward, err := os.ReadFile(forwarding)
	if err == nil && strings.TrimSpace(string(forward)) == "0" {
		return finding{"network", verdictBad, "IP forwarding is off, so instances do not reach the outside", "sudo sysctl -w net.ipv4.ip_forward=1"}
	}
	instances, err := engine.List(ctx, map[string]string{orchestrator.LabelKind: orchestrator.KindInstance})
	if err != nil {
		return bad("network", err, "")
	}
	for _, instance := range instances {
		if instance.State != orchestrator.ContainerRunning || instance.Addr == "" {
			continue
		}
		address := net.JoinHostPort(instance.Addr, strconv.Itoa(orchestrator.InstancePort))
		dialer := net.Dialer{Timeout: dialTimeout}
		connection, err := dialer.DialContext(ctx, "tcp", address)
		if err != nil {
			return finding{"network", verdictBad, fmt.Sprintf("the instance %s does not accept connections: %v", instance.Name, err),
				"look for a firewall between this machine and Docker's bridges (iptables -S DOCKER-USER)"}
		}
		// The connection was the question.
		_ = connection.Close()
		return finding{"network", verdictGood, "an instance at " + address + " accepts connections", ""}
	}
	return finding{"network", verdictGood, "IP forwarding is on; no instance runs to connect to", ""}
}

// checkBases says where each language's base image is.
func checkBases(ctx context.Context, images orchestrator.Images, catalogue []orchestrator.Template) []finding {
	var findings []finding
	if _, err := images.Image(ctx, baseOfAll); err != nil {
		f := finding{"base", verdictDoubt, baseOfAll + " is not here; the first deploy pulls it", "without a registry: sudo deploy/bootstrap builds it from packages"}
		if !errors.Is(err, orchestrator.ErrNotFound) {
			f = bad("base", err, "")
		}
		findings = append(findings, f)
	} else {
		findings = append(findings, finding{"base", verdictGood, baseOfAll + " is here", ""})
	}
	var here, later []string
	for _, template := range catalogue {
		if hasBases(ctx, images, template) {
			here = append(here, template.Name)
		} else {
			later = append(later, template.Name)
		}
	}
	if len(here) > 0 {
		findings = append(findings, finding{"languages", verdictGood, "ready to build: " + strings.Join(here, ", "), ""})
	}
	if len(later) > 0 {
		findings = append(findings, finding{"languages", verdictGood, "base images are fetched or built with the first deploy: " + strings.Join(later, ", "), ""})
	}
	return findings
}

// hasBases says whether every base of a template, or its fallback, is here.
func hasBases(ctx context.Context, images orchestrator.Images, template orchestrator.Template) bool {
	for _, base := range template.Bases {
		_, err := images.Image(ctx, base.Image)
		if err != nil && base.Fallback != "" {
			_, err = images.Image(ctx, base.Fallback)
		}
		if err != nil {
			return false
		}
	}
	return true
}
