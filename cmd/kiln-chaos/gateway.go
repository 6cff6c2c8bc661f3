package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/kilnfaas/kiln/gateway/api"
)

const (
	// gatewayUp is the promise: so long after its start the gateway answers.
	gatewayUp = 5 * time.Second
	// gatewayPatience is how long it is waited for before the run is given up.
	gatewayPatience = 60 * time.Second
	// gatewayDown is 30 s for requests in flight, and then some.
	gatewayDown = 45 * time.Second
	// controlTimeout bounds a call of the control API that is not a deploy.
	controlTimeout = 30 * time.Second
)

// gateway is the kiln under test.
type gateway struct {
	kiln     string
	dir      string // its data is below
	settings []string
	address  string
	network  string
	process  *process // nil while it does not run
}

// newGateway returns a gateway that does not run yet.
func newGateway(kiln, dir, dockerHost string) (*gateway, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	defer listener.Close() // only the number was wanted
	g := &gateway{kiln: kiln, dir: dir, address: listener.Addr().String(), network: "kiln-chaos-" + strings.ToLower(rand.Text()[:8])}
	g.settings = []string{"KILN_LISTEN=" + g.address, "KILN_DATA=" + g.data(), "KILN_NETWORK=" + g.network, "KILN_DOCKER_HOST=" + dockerHost}
	return g, nil
}

func (g *gateway) data() string { return filepath.Join(g.dir, "data") }

// launch starts the process with settings KEY=VALUE, and does not wait.
func (g *gateway) launch(kiln string, settings ...string) (err error) {
	cmd := exec.Command(kiln, "serve")
	cmd.Env = append(append(os.Environ(), g.settings...), settings...)
	g.process, err = startProcess(cmd, filepath.Join(g.dir, "gateway.log"))
	return err
}

// start launches the gateway, waits until it answers and returns how long that
// took.
func (g *gateway) start(ctx context.Context) (time.Duration, error) {
	return g.startAs(ctx, g.kiln)
}

func (g *gateway) startAs(ctx context.Context, kiln string, settings ...string) (time.Duration, error) {
	began := time.Now()
	if err := g.launch(kiln, settings...); err != nil {
		return 0, err
	}
	err := waitFor(ctx, "the gateway", gatewayPatience, func() error {
		if err := g.process.ended(); err != nil {
			return fmt.Errorf("the gateway: %w; see %s", err, filepath.Join(g.dir, "gateway.log"))
		}
		return g.healthy(ctx)
	})
	return time.Since(began), err
}

// healthy asks the gateway whether it answers.
func (g *gateway) healthy(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+g.address+"/healthz", nil)
	if err != nil {
		return err
	}
	request.Close = true // a connection of an earlier gateway would be dead
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("healthz: %s", response.Status)
	}
	return nil
}

// kill ends the process without a warning.
func (g *gateway) kill() error { return g.finish(syscall.SIGKILL) }

// stop ends it in an orderly way.
func (g *gateway) stop() error { return g.finish(syscall.SIGTERM) }

func (g *gateway) finish(signal syscall.Signal) error {
	if g.process == nil {
		return nil
	}
	err := g.process.end(signal, gatewayDown)
	g.process = nil
	return err
}

// client returns a client with the administrator's token, where there is one.
func (g *gateway) client() (*api.Client, error) {
	token, err := os.ReadFile(filepath.Join(g.data(), "admin.token"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	return &api.Client{
		BaseURL: "http://" + g.address, Token: strings.TrimSpace(string(token)),
		// A connection each: those to a gateway that was killed are dead.
		HTTP: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}},
	}, nil
}

// measure returns a figure of the gateway's own metrics.
func (g *gateway) measure(ctx context.Context, name string) (value float64, err error) {
	ctx, cancel := context.WithTimeout(ctx, controlTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+g.address+"/metrics", nil)
	if err != nil {
		return 0, err
	}
	client, err := g.client()
	if err != nil {
		return 0, err
	}
	if client.Token != "" {
		request.Header.Set("Authorization", "Bearer "+client.Token)
	}
	response, err := client.HTTP.Do(request)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	var text bytes.Buffer
	if _, err := text.ReadFrom(http.MaxBytesReader(nil, response.Body, maxAnswer)); err != nil {
		return 0, err
	}
	for line := range strings.Lines(text.String()) {
		if rest, ok := strings.CutPrefix(line, name+" "); ok {
			_, err := fmt.Sscan(rest, &value)
			return value, err
		}
	}
	return 0, fmt.Errorf("the gateway measures no %s (%s)", name, response.Status)
}
