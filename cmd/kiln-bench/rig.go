package main

import (
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/kilnfaas/kiln/gateway/api"
	"github.com/kilnfaas/kiln/gateway/auth"
	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/archive"
	"github.com/kilnfaas/kiln/orchestrator/docker"
)

//go:embed all:functions
var functions embed.FS

// Time that set-up steps get on a busy machine; they are not measured.
const (
	readyTimeout  = 60 * time.Second
	stopTimeout   = 45 * time.Second
	deployTimeout = 10 * time.Minute
	idleTimeout   = 60 * time.Second
	clearTimeout  = 10 * time.Minute // of a thousand functions
)

// gateway is a `kiln serve` of the benchmark's own, with its own state, owner
// and network.
type gateway struct {
	addr    string
	client  *api.Client
	process *exec.Cmd
	network string
	dir     string // of its log and data
}

// startGateway runs bin/kiln with settings KEY=VALUE.
func startGateway(ctx context.Context, dir, name string, settings ...string) (*gateway, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	addr, err := freeAddr()
	if err != nil {
		return nil, err
	}
	dir = filepath.Join(dir, name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	g := &gateway{addr: addr, client: &api.Client{BaseURL: "http://" + addr}, network: "kiln-bench-" + name, dir: dir}
	program := exec.Command(filepath.Join(filepath.Dir(self), "kiln"), "serve")
	program.Env = append(append(os.Environ(), "KILN_LISTEN="+addr, "KILN_DATA="+filepath.Join(dir, "data"), "KILN_NETWORK="+g.network), settings...)
	if err := g.start(ctx, program); err != nil {
		return nil, err
	}
	g.client.Token = auth.ReadAdmin(filepath.Join(dir, "data"))
	return g, nil
}

// start runs the gateway and waits until it is ready.
func (g *gateway) start(ctx context.Context, program *exec.Cmd) error {
	log, err := os.OpenFile(filepath.Join(g.dir, "gateway.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close() // the process has its own
	g.process = program
	program.Stdout, program.Stderr = log, log
	if err := program.Start(); err != nil {
		return err
	}
	if err := waitFor("the gateway", readyTimeout, func() error { return g.client.Ready(ctx) }); err != nil {
		program.Process.Kill()
		program.Wait()
		return fmt.Errorf("%w; its log is %s", err, log.Name())
	}
	return nil
}

// crash kills the gateway and starts it again.
func (g *gateway) crash(ctx context.Context) error {
	if err := g.process.Process.Kill(); err != nil {
		return err
	}
	_ = g.process.Wait() // it says that it was killed
	again := exec.Command(g.process.Path, g.process.Args[1:]...)
	again.Env = g.process.Env
	return g.start(ctx, again)
}

// stop removes every function, ends the gateway and waits for it, also after the
// end of ctx.
func (g *gateway) stop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), clearTimeout)
	defer cancel()
	var errs []error
	deployed, err := g.client.Functions(ctx)
	errs = append(errs, err)
	names := make(chan string)
	var wait sync.WaitGroup
	var mu sync.Mutex
	for range 4 {
		wait.Go(func() {
			for name := range names {
				if err := g.client.Remove(ctx, name); err != nil {
					mu.Lock()
					errs = append(errs, err)
					mu.Unlock()
				}
			}
		})
	}
	for _, f := range deployed {
		names <- f.Name
	}
	close(names)
	wait.Wait()
	errs = append(errs, g.process.Process.Signal(syscall.SIGTERM))
	timer := time.AfterFunc(stopTimeout, func() { g.process.Process.Kill() })
	defer timer.Stop()
	errs = append(errs, g.process.Wait())
	errs = append(errs, g.clear(ctx))
	return errors.Join(errs...)
}

// clear removes what an ended gateway leaves for the next one: rules, cells,
// images and its network. Who may not remove rules has made none but by a helper;
// those stay until make clean.
func (g *gateway) clear(ctx context.Context) error {
	owner, err := dockerOutput(ctx, "network", "inspect", "--format", `{{index .Labels "dev.kiln.owner"}}`, g.network)
	if err != nil || len(owner) == 0 {
		return err
	}
	var errs []error
	if os.Geteuid() == 0 {
		errs = append(errs, exec.CommandContext(ctx, g.process.Path, "rules", "raze", owner[0]).Run())
	}
	for _, kind := range []struct{ list, remove []string }{
		{[]string{"ps", "--all", "--quiet"}, []string{"rm", "--force", "--volumes"}},
		{[]string{"images", "--quiet", "--filter", "label=dev.kiln.kind=image"}, []string{"rmi", "--force"}},
		{[]string{"images", "--quiet", "--filter", "label=dev.kiln.kind=cell"}, []string{"rmi", "--force"}},
	} {
		ids, err := dockerOutput(ctx, append(kind.list, "--filter", "label=dev.kiln.owner="+owner[0])...)
		if slices.Sort(ids); len(ids) > 0 {
			_, err = dockerOutput(ctx, append(kind.remove, slices.Compact(ids)...)...)
		}
		errs = append(errs, err)
	}
	_, err = dockerOutput(ctx, "network", "rm", g.network)
	return errors.Join(append(errs, err)...)
}

// dockerOutput runs the docker client and returns the words that it prints.
func dockerOutput(ctx context.Context, args ...string) ([]string, error) {
	var stderr strings.Builder
	command := exec.CommandContext(ctx, "docker", args...)
	command.Stderr = &stderr
	out, err := command.Output()
	if err != nil {
		return nil, fmt.Errorf("docker %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return strings.Fields(string(out)), nil
}

// processes is the gateway itself.
func (g *gateway) processes() []int { return []int{g.process.Process.Pid} }

// rss is the gateway's resident memory.
func (g *gateway) rss() (orchestrator.Bytes, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", g.process.Process.Pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			return orchestrator.Bytes(kib) * orchestrator.KiB, err
		}
	}
	return 0, errors.New("no VmRSS")
}

// deploy deploys the embedded function of a template under a name.
func (g *gateway) deploy(ctx context.Context, name, template, spec string) error {
	return g.deployFrom(ctx, name, template, template, spec)
}

// deployFrom deploys one of the embedded functions under a name.
func (g *gateway) deployFrom(ctx context.Context, name, folder, template, spec string) error {
	ctx, cancel := context.WithTimeout(ctx, deployTimeout)
	defer cancel()
	tree, err := fs.Sub(functions, "functions/"+folder)
	if err != nil {
		return err
	}
	var packed bytes.Buffer
	if _, err := archive.Pack(ctx, &packed, tree, archive.DefaultLimits()); err != nil {
		return err
	}
	_, err = g.client.Deploy(ctx, api.Deploy{
		Name: name, Archive: &packed, Spec: fmt.Appendf(nil, "template: %s\n%s", template, spec),
	}, nil)
	if err != nil {
		return fmt.Errorf("deploy %s: %w", name, err)
	}
	return nil
}

// deployMany deploys functions name-0 to name-(n-1), two at a time.
func (g *gateway) deployMany(ctx context.Context, n int, prefix, template, spec string) ([]string, error) {
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf("%s-%d", prefix, i)
	}
	if err := g.deploy(ctx, names[0], template, spec); err != nil { // builds; the others share its image
		return nil, err
	}
	errs := make([]error, n)
	turns := make(chan struct{}, 2)
	var wait sync.WaitGroup
	for i, name := range names[1:] {
		wait.Go(func() {
			turns <- struct{}{}
			defer func() { <-turns }()
			errs[i] = g.deploy(ctx, name, template, spec)
		})
	}
	wait.Wait()
	return names, errors.Join(errs...)
}

// instance returns the container of a function that has one.
func (g *gateway) instance(ctx context.Context, engine *docker.Client, name string) (orchestrator.Container, error) {
	status, err := g.client.Instances(ctx, name)
	if err != nil {
		return orchestrator.Container{}, err
	}
	for _, i := range status.Instances {
		if i.State == "ready" {
			return engine.Inspect(ctx, i.ID)
		}
	}
	return orchestrator.Container{}, fmt.Errorf("function %s has no ready instance", name)
}

// upstream says how to call a container past the gateway. It was started from its
// image, where the engine tells the token.
func (g *gateway) upstream(ctx context.Context, c orchestrator.Container) (upstream, error) {
	out, err := exec.CommandContext(ctx, "docker", "inspect", "--format", "{{range .Config.Env}}{{println .}}{{end}}", c.ID).Output()
	if err != nil {
		return upstream{}, fmt.Errorf("find the token of %s: %w", c.Name, err)
	}
	for line := range strings.Lines(string(out)) {
		if token, ok := strings.CutPrefix(line, orchestrator.EnvInstanceToken+"="); ok {
			return upstream{addr: c.Addr + ":8080", token: strings.TrimSpace(token)}, nil
		}
	}
	return upstream{}, fmt.Errorf("the container %s has no token", c.Name)
}

// waitState waits until a function's instances satisfy want.
func (g *gateway) waitState(ctx context.Context, name, what string, want func(orchestrator.FunctionStatus) bool) error {
	return waitFor(name+" to be "+what, idleTimeout, func() error {
		status, err := g.client.Instances(ctx, name)
		if err == nil && !want(status) {
			err = fmt.Errorf("%d ready, %d frozen, %d starting, %d draining", status.Ready, status.Frozen, status.Starting, status.Draining)
		}
		return err
	})
}

// awaitCells waits until at least n cells of a template wait.
func (g *gateway) awaitCells(ctx context.Context, template string, n int) error {
	gauge := fmt.Sprintf("\nkiln_cells_waiting{template=%q} ", template)
	return waitFor(fmt.Sprintf("%d cells of %s", n, template), idleTimeout, func() error {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+g.addr+"/metrics", nil)
		if err != nil {
			return err
		}
		request.Header.Set("Authorization", "Bearer "+g.client.Token)
		answer, err := http.DefaultClient.Do(request)
		if err != nil {
			return err
		}
		defer answer.Body.Close()
		text, err := io.ReadAll(answer.Body)
		if err != nil {
			return err
		}
		_, after, _ := strings.Cut(string(text), gauge)
		line, _, _ := strings.Cut(after, "\n")
		if waiting, err := strconv.ParseFloat(line, 64); err != nil || int(waiting) < n {
			return fmt.Errorf("fewer wait: %q", line)
		}
		return nil
	})
}

// origin returns where a function's one instance came from.
func (g *gateway) origin(ctx context.Context, name string) (string, error) {
	status, err := g.client.Instances(ctx, name)
	if err != nil {
		return "", err
	}
	if len(status.Instances) != 1 {
		return "", fmt.Errorf("%s has %d instances after a call", name, len(status.Instances))
	}
	return status.Instances[0].Origin, nil
}

func atZero(s orchestrator.FunctionStatus) bool { return len(s.Instances) == 0 }
func frozen(s orchestrator.FunctionStatus) bool { return s.Frozen == 1 && len(s.Instances) == 1 }

// freeAddr returns a loopback address that nobody listens on.
func freeAddr() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

func dialOnce(addr string) error {
	c, err := net.DialTimeout("tcp", addr, time.Second)
	if err != nil {
		return err
	}
	return c.Close()
}

// pollInterval is how often set-up looks whether something has come about.
const pollInterval = 50 * time.Millisecond

func waitFor(what string, limit time.Duration, check func() error) error {
	end := time.Now().Add(limit)
	for {
		err := check()
		if err == nil {
			return nil
		}
		if errors.Is(err, context.Canceled) || time.Now().After(end) { // interrupted, or in vain
			return fmt.Errorf("waited %v for %s: %w", limit, what, err)
		}
		time.Sleep(pollInterval)
	}
}
