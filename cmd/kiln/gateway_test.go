package main_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kilnfaas/kiln/gateway/api"
	"github.com/kilnfaas/kiln/orchestrator/nft"
	"github.com/kilnfaas/kiln/orchestrator/porttest"
)

// Time that the outside gets. A first build fetches packages; the rest is for a
// machine that is busy with the other tests.
const (
	readyTimeout = 60 * time.Second
	stopTimeout  = 45 * time.Second // 30 s for requests in flight, and then some
	probeTimeout = 10 * time.Second
	// leftoversTimeout is for cells to end after the last function is removed.
	leftoversTimeout = 60 * time.Second
)

// requireEngine skips a test where no container engine answers, or fails it
// where that must not happen.
func requireEngine(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), probeTimeout)
	defer cancel()
	if out, err := exec.CommandContext(ctx, "docker", "version", "--format", "{{.Server.Version}}").CombinedOutput(); err != nil {
		if os.Getenv("CI") == "true" || os.Getenv(envRequireDocker) == "1" {
			t.Fatalf("no container engine: %v\n%s", err, out)
		}
		t.Skipf("SKIPPED, no container engine: %v\n%s", err, out)
	}
}

// gateway is a `kiln serve` with state, address and network of its own.
type gateway struct {
	bin     string // folder of the binary
	work    string // folder for data and log
	port    *porttest.Port
	address string
	network string
	extra   []string // environment besides the usual

	process *exec.Cmd // nil while it does not run
	waited  chan error
}

// newGateway prepares a gateway without starting it.
func newGateway(bin, work string, extra ...string) (*gateway, error) {
	port, err := porttest.Reserve()
	if err != nil {
		return nil, err
	}
	return &gateway{
		bin:     bin,
		work:    work,
		port:    port,
		address: port.Address(),
		network: "kiln-test-" + strings.ToLower(rand.Text()[:8]),
		extra:   extra,
	}, nil
}

func (g *gateway) url() string { return "http://" + g.address }

func (g *gateway) data() string { return filepath.Join(g.work, "data") }

func (g *gateway) logFile() string { return filepath.Join(g.work, "gateway.log") }

// start runs `kiln serve` and waits until it is ready.
func (g *gateway) start() error {
	log, err := os.OpenFile(g.logFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close() // the process has its own descriptor
	cmd := exec.Command(filepath.Join(g.bin, "kiln"), "serve")
	cmd.Env = append(os.Environ(),
		"KILN_LISTEN="+g.address,
		"KILN_DATA="+g.data(),
		"KILN_NETWORK="+g.network,
		"KILN_EXTRA_CA_FILE="+hostBundle(),
	)
	cmd.Env = append(cmd.Env, g.extra...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the gateway: %w", err)
	}
	g.process, g.waited = cmd, make(chan error, 1)
	go func(waited chan error) { waited <- cmd.Wait() }(g.waited)
	return g.waitReady()
}

func (g *gateway) waitReady() error {
	ctx, cancel := context.WithTimeout(context.Background(), readyTimeout)
	defer cancel()
	client := &api.Client{BaseURL: g.url()}
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for {
		err := client.Ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case exit := <-g.waited:
			g.process = nil
			return fmt.Errorf("the gateway ended (%w):\n%s", errors.Join(exit, err), g.logTail())
		case <-ctx.Done():
			return fmt.Errorf("the gateway does not get ready: %w\n%s", err, g.logTail())
		case <-ticker.C:
		}
	}
}

// signal sends a signal and waits until the gateway has ended.
func (g *gateway) signal(s syscall.Signal) error {
	if g.process == nil {
		return nil
	}
	if err := g.process.Process.Signal(s); err != nil {
		return fmt.Errorf("signal the gateway: %w", err)
	}
	select {
	case err := <-g.waited:
		g.process = nil
		if s == syscall.SIGTERM && err != nil {
			return fmt.Errorf("the gateway ended with %w:\n%s", err, g.logTail())
		}
		return nil
	case <-time.After(stopTimeout):
		err := g.process.Process.Kill()
		<-g.waited
		g.process = nil
		return errors.Join(fmt.Errorf("the gateway did not end %s after %s:\n%s", stopTimeout, s, g.logTail()), err)
	}
}

func (g *gateway) logTail() string {
	const shown = 8 << 10
	data, err := os.ReadFile(g.logFile())
	if err != nil {
		return err.Error()
	}
	return string(data[max(0, len(data)-shown):])
}

// owner returns the id of the installation, which the network carries.
func (g *gateway) owner() (string, error) {
	out, err := dockerOutput("network", "inspect", "--format", `{{index .Labels "dev.kiln.owner"}}`, g.network)
	if err == nil && out == "" {
		err = fmt.Errorf("the network %s has no owner", g.network)
	}
	return out, err
}

// leftovers lists the containers and images that the gateway made. Base images
// are shared by all installations and not its own.
func (g *gateway) leftovers() ([]string, error) {
	owner, err := g.owner()
	if err != nil {
		return nil, err
	}
	filter := "label=dev.kiln.owner=" + owner
	containers, err := dockerOutput("ps", "-a", "--filter", filter, "--format", "container {{.Names}} {{.Status}}")
	if err != nil {
		return nil, err
	}
	images, err := dockerOutput("images", "--filter", filter, "--filter", "label=dev.kiln.kind=image", "--format", "image {{.Repository}}:{{.Tag}}")
	return append(lines(containers), lines(images)...), err
}

// destroy ends the gateway and removes all that it made.
func (g *gateway) destroy() error {
	errs := []error{g.signal(syscall.SIGTERM), g.port.Close()}
	owner, err := g.owner()
	if err != nil {
		return errors.Join(errs...) // no network: it never got as far as making anything
	}
	filter := "label=dev.kiln.owner=" + owner
	errs = append(errs, razeWalls(owner, filter))
	for _, kind := range []struct{ list, remove []string }{
		{[]string{"images", "-q", "--filter", filter, "kiln-rules"}, []string{"rmi", "-f"}},
		{[]string{"ps", "-aq", "--filter", filter}, []string{"rm", "-f", "-v"}},
		{[]string{"images", "-q", "--filter", filter, "--filter", "label=dev.kiln.kind=image"}, []string{"rmi", "-f"}},
		{[]string{"images", "-q", "--filter", filter, "--filter", "label=dev.kiln.kind=cell"}, []string{"rmi", "-f"}},
		{[]string{"volume", "ls", "-q", "--filter", filter}, []string{"volume", "rm"}},
		{[]string{"network", "ls", "-q", "--filter", filter}, []string{"network", "rm"}},
	} {
		ids, err := dockerOutput(kind.list...)
		if err == nil && ids != "" {
			_, err = dockerOutput(append(kind.remove, unique(lines(ids))...)...)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// razeWalls takes the rules of an installation down, the way they were put up.
func razeWalls(owner, filter string) error {
	ctx, cancel := context.WithTimeout(context.Background(), probeTimeout)
	defer cancel()
	err := nft.Firewall{}.Raze(ctx, owner)
	if err == nil {
		return nil
	}
	image, listErr := dockerOutput("images", "-q", "--filter", filter, "kiln-rules")
	if listErr != nil || image == "" {
		return listErr // neither this process nor the gateway may make rules, so there are none
	}
	_, err = dockerOutput("run", "--rm", "--network", "host", "--cap-drop", "ALL", "--cap-add", "NET_ADMIN", "--user", "0", image, "rules", "raze", owner)
	return err
}

// dockerOutput runs the docker client and returns what it prints.
func dockerOutput(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), readyTimeout)
	defer cancel()
	var stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, "docker", args...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("docker %s: %w: %s", strings.Join(args, " "), err, stderr.String())
	}
	return strings.TrimSpace(string(out)), nil
}

func lines(text string) []string {
	if text == "" {
		return nil
	}
	return strings.Split(text, "\n")
}

func unique(all []string) []string {
	seen := map[string]bool{}
	var kept []string
	for _, s := range all {
		if !seen[s] {
			seen[s] = true
			kept = append(kept, s)
		}
	}
	return kept
}

// hostBundle returns the file of certificate authorities that this machine
// trusts, which builds need behind a proxy that re-signs TLS.
func hostBundle() string {
	for _, file := range []string{os.Getenv("KILN_EXTRA_CA_FILE"), os.Getenv("SSL_CERT_FILE"), "/etc/ssl/certs/ca-certificates.crt"} {
		if info, err := os.Stat(file); file != "" && err == nil && info.Mode().IsRegular() {
			return file
		}
	}
	return ""
}
