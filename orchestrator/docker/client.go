// Package docker runs Kiln on a Docker engine: it implements the orchestrator's
// Engine, Images and Builder with the Docker client, which nothing else in Kiln
// imports.
//
// The API version is negotiated, engines 20.10 to 29 are supported. Every call
// has a deadline of its own beside the caller's context, and every error is
// translated to one of the orchestrator's classes here (errors.go), so that no
// Docker type or error leaves the package.
package docker

import (
	"context"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/docker/docker/client"

	"github.com/kilnfaas/kiln/orchestrator"
)

// Deadlines of single calls. They are for an engine that hangs: on a 2-core
// machine that starts 11 containers a second the slowest healthy call waits for
// the ones before it.
const (
	// callTimeout bounds calls that look something up or flip a state; they take
	// 1 to 10 ms on an idle engine.
	callTimeout = 15 * time.Second
	// startTimeout bounds creating or starting one container: 190 ms alone, and
	// 20 s as the last of 200.
	startTimeout = 60 * time.Second
	// stopMargin is what Stop may take beside the grace: kill, unmount, remove.
	stopMargin = 30 * time.Second
	// pingTimeout bounds the first contact in Open.
	pingTimeout = 5 * time.Second
)

// maxIdleConns is how many connections to the engine are kept for reuse. The
// Docker client's default of two would make a burst of starts and freezes dial
// for nearly every call.
const maxIdleConns = 64

// idleConnTimeout closes connections that a burst left behind.
const idleConnTimeout = 60 * time.Second

// Options say how to reach an engine and how to use it. The zero value is an
// engine found through the environment.
type Options struct {
	// Host is the engine's address, such as unix:///var/run/docker.sock. Empty
	// means DOCKER_HOST (with DOCKER_CERT_PATH and DOCKER_TLS_VERIFY), else the
	// platform's socket.
	Host string
	// Builder says which builder to use; empty is BuilderAuto.
	Builder BuilderMode
	// Labels are put on the containers that are created on the side and never
	// started (CopyFrom), so that whoever reaps by label finds what a crash left.
	Labels map[string]string
	// Program is the path of a static program that runs entry.Main when its first
	// argument is entry.Verb. Empty = containers cannot have secrets.
	Program string
}

// Client is a Docker engine. It implements orchestrator.Engine, Images and
// Builder, and is safe for concurrent use.
type Client struct {
	api     *client.Client
	options Options
	users   userCache
	frozen  frozenSet
	entries entryVolume
	// openFiles is what containers are given, 0 once the engine has refused it: then
	// they have its own.
	openFiles atomic.Int64
	// pullStall is a field for the tests' sake.
	pullStall time.Duration

	work sync.WaitGroup // goroutines that outlive the call that started them
}

var (
	_ orchestrator.Engine  = (*Client)(nil)
	_ orchestrator.Images  = (*Client)(nil)
	_ orchestrator.Builder = (*Client)(nil)
)

// Open connects to an engine and negotiates the API version. ErrUnavailable
// means that it does not answer, ErrInvalid that the options make no sense.
func Open(ctx context.Context, options Options) (*Client, error) {
	if err := options.Builder.validate(); err != nil {
		return nil, err
	}
	ops := []client.Opt{client.WithTLSClientConfigFromEnv(), client.WithHostFromEnv()}
	if options.Host != "" {
		ops = []client.Opt{client.WithHost(options.Host)}
	}
	ops = append(ops, client.WithAPIVersionNegotiation(), pooled)
	api, err := client.NewClientWithOpts(ops...)
	if err != nil {
		return nil, orchestrator.Errorf(orchestrator.ErrInvalid, "engine-address-invalid", "the engine's address: %w", err).
			WithHint("give an address such as unix:///var/run/docker.sock")
	}
	c := &Client{api: api, options: options, entries: newEntryVolume(), pullStall: pullStall}
	c.openFiles.Store(openFiles)
	pingCtx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	ping, err := api.Ping(pingCtx)
	if err != nil {
		api.Close()
		return nil, translate(ctx, "connect to the engine", err)
	}
	api.NegotiateAPIVersionPing(ping)
	return c, nil
}

// pooled sizes the connection pool of a client that is being made.
func pooled(c *client.Client) error {
	if transport, ok := c.HTTPClient().Transport.(*http.Transport); ok {
		transport.MaxIdleConns = maxIdleConns
		transport.MaxIdleConnsPerHost = maxIdleConns
		transport.IdleConnTimeout = idleConnTimeout
	}
	return nil
}

// Close waits for what calls that were given up left to tidy, and closes the
// connections. Containers go on running. It may be called more than once.
func (c *Client) Close() error {
	c.work.Wait()
	return c.api.Close()
}
