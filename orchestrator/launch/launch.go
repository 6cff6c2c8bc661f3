// Package launch starts instances on an Engine: it runs the container, waits
// until the function answers ready, and when it does not, says why with the
// last lines the container wrote.
package launch

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/capacity"
	"github.com/kilnfaas/kiln/orchestrator/pool"
)

const (
	// DefaultStartTimeout is how long an instance may take from its container's
	// start to its first ready answer: time for a large model or a JVM.
	DefaultStartTimeout = 60 * time.Second
	// cleanupTimeout bounds what is done about a failed start: its logs, its
	// removal.
	cleanupTimeout = 15 * time.Second
	// inspectInterval is how often a container that is not ready yet is looked
	// at, in case the event of its end was missed.
	inspectInterval = time.Second
	// outputLines is how much of a failed instance's output an error carries.
	outputLines = 50
)

// Config sets a Launcher up.
type Config struct {
	Engine       orchestrator.Engine // required
	Capacity     *capacity.Budget    // gives turns to start; nil = at once
	Owner        string              // id of the installation
	Network      string              // base of the instances' networks
	Runtime      string              // of containers that name none; empty = the engine's default
	StartTimeout time.Duration       // 0 = DefaultStartTimeout
	Logger       *slog.Logger        // nil = discard
	// Placed hears at which address, "IP:port", a container was started, before
	// it is ready; may be nil.
	Placed func(id, addr string)
	// Restore makes the image of a revision again that somebody deleted; nil =
	// starts fail until the function is deployed again.
	Restore func(ctx context.Context, release orchestrator.Release) error
	// Secrets opens the secrets of a function; nil = none can be had.
	Secrets Secrets
	Key     orchestrator.InstanceKey // of instances' tokens
}

// Secrets opens the secrets of a function by their names. The error is
// ErrFunction when one is not there, or not for it.
type Secrets func(function string, names []string) (map[string][]byte, error)

// Of opens the secrets of a release's instances: nil when there are none.
func (s Secrets) Of(release orchestrator.Release) (map[string][]byte, error) {
	switch names := release.Spec.Secrets; {
	case len(names) == 0:
		return nil, nil
	case s == nil:
		return nil, orchestrator.Errorf(orchestrator.ErrUnavailable, "secrets-unavailable", "this gateway keeps no secrets")
	default:
		return s(release.Spec.Name, names)
	}
}

// Launcher is the pool.Launcher on containers. It is safe for concurrent use and
// has no goroutine of its own.
type Launcher struct {
	config Config
	dialer net.Dialer

	mu      sync.Mutex
	inHand  map[string]*watch // by id, or by name while the engine has not told the id
	running int               // Engine.Run calls under way
	early   map[string]exit   // ends told while running > 0, of unknown containers
}

var _ pool.Launcher = (*Launcher)(nil)

// watch waits for a container's end.
type watch struct {
	cancel context.CancelCauseFunc // nil while being created
}

// exit is how a container ended.
type exit struct {
	code int
	oom  bool
}

func (e exit) Error() string {
	if e.oom {
		return "was killed for using more memory than it may"
	}
	return "ended with exit code " + strconv.Itoa(e.code)
}

// New returns a Launcher.
func New(config Config) *Launcher {
	if config.StartTimeout <= 0 {
		config.StartTimeout = DefaultStartTimeout
	}
	if config.Logger == nil {
		config.Logger = slog.New(slog.DiscardHandler)
	}
	return &Launcher{config: config, inHand: map[string]*watch{}, early: map[string]exit{}}
}

// Launch runs a container for the release and returns once it is ready. An image
// that is gone is made again first.
// Errors: ErrFunction, code "instance-start-failed", when it ended or did not
// become ready in time; those of Engine.Run; ctx's. Nothing is left behind.
func (l *Launcher) Launch(ctx context.Context, order pool.Order) (pool.Launched, error) {
	r := order.Release
	request := Request{
		Config: r.Container(l.config.Owner, l.config.Network), For: r.Spec.Name,
		Priority: order.Priority, Asks: r.Template.HTTPReady,
	}
	var err error
	if request.Config.Secrets, err = l.config.Secrets.Of(r); err != nil {
		return pool.Launched{}, fmt.Errorf("start an instance of %s: %w", r.Spec.Name, err)
	}
	var token string
	if r.Template.HTTPReady { // else there is no runtime of ours to ask for it
		if token = l.config.Key.Mark(&request.Config); token != "" {
			request.Config.Env[orchestrator.EnvInstanceToken] = token
		}
	}
	id, addr, err := l.Bring(ctx, request)
	if errors.Is(err, orchestrator.ErrNotFound) && l.config.Restore != nil {
		l.config.Logger.Warn("the image is gone and is built again", "function", r.Spec.Name, "revision", r.Revision.ID)
		if err := l.config.Restore(ctx, r); err != nil {
			return pool.Launched{}, fmt.Errorf("build the image of revision %s of %s again: %w", r.Revision.ID, r.Spec.Name, err)
		}
		id, addr, err = l.Bring(ctx, request)
	}
	if errors.Is(err, orchestrator.ErrNotFound) {
		return pool.Launched{}, orchestrator.Errorf(orchestrator.ErrUnavailable, "image-missing",
			"the image of revision %s of %s is gone: %v", r.Revision.ID, r.Spec.Name, err).
			WithHint("deploy the function again")
	}
	if err != nil {
		return pool.Launched{}, err
	}
	return pool.Launched{ID: id, Addr: addr, Origin: pool.OriginImage, Token: token}, nil
}

// Request asks for a container that is ready.
type Request struct {
	Config   orchestrator.ContainerConfig
	For      string // what it is an instance of, for messages and for turns
	Priority capacity.Priority
	Asks     bool // GET /_kiln/ready tells readiness; else the port accepting does
	// Began is called, if set, once the start has its turn and the engine is at it.
	Began func()
}

// Bring runs a container and returns its id and address once it is ready. Errors
// are those of Launch, and ErrNotFound when there is no image. Nothing is left
// behind.
func (l *Launcher) Bring(ctx context.Context, request Request) (id, addr string, err error) {
	container, ready, release, err := l.run(ctx, request)
	if err != nil {
		return "", "", err
	}
	defer release()
	addr = instanceAddr(container)
	if container.State == orchestrator.ContainerExited || container.Addr == "" {
		err = exit{code: container.ExitCode, oom: container.OOMKilled}
	} else {
		err = l.untilReady(ready, container.ID, addr, request.Asks)
	}
	if err != nil {
		err = l.failed(ctx, request, container.ID, err)
		l.remove(ctx, container.ID)
		return "", "", err
	}
	return container.ID, addr, nil
}

// run creates the container and begins to watch it. The context it returns ends
// with the start timeout, and with the container, whose exit is then the cause.
func (l *Launcher) run(ctx context.Context, request Request) (orchestrator.Container, context.Context, func(), error) {
	started := func() {}
	if l.config.Capacity != nil {
		var err error
		if started, err = l.config.Capacity.Start(ctx, request.For, request.Priority); err != nil {
			return orchestrator.Container{}, nil, nil, err
		}
	}
	l.mu.Lock()
	l.running++
	l.inHand[request.Config.Name] = &watch{}
	l.mu.Unlock()
	if request.Began != nil {
		request.Began()
	}
	container, err := l.create(ctx, request.Config)
	// Only the engine's part counts as a start: that is what it does few of at
	// one time. How long the function then takes to be ready is its own matter.
	started()
	if err == nil && container.Addr != "" && l.config.Placed != nil {
		l.config.Placed(container.ID, instanceAddr(container))
	}

	l.mu.Lock()
	defer l.mu.Unlock()
	l.running--
	delete(l.inHand, request.Config.Name)
	end, ended := l.early[container.ID]
	if l.running == 0 {
		clear(l.early)
	}
	switch {
	case err != nil && ctx.Err() != nil:
		return container, nil, nil, ctx.Err()
	case err != nil:
		return container, nil, nil, fmt.Errorf("start an instance of %s: %w", request.For, err)
	}
	ready, cancel := context.WithCancelCause(ctx)
	ready, stop := context.WithTimeoutCause(ready, l.config.StartTimeout, errNotReady)
	l.inHand[container.ID] = &watch{cancel: cancel}
	if ended {
		cancel(end)
	}
	return container, ready, func() {
		stop()
		cancel(nil)
		l.mu.Lock()
		delete(l.inHand, container.ID)
		l.mu.Unlock()
	}, nil
}

// create runs the container, and makes the network when it is not there: most
// installations never need some, and somebody may have removed one.
func (l *Launcher) create(ctx context.Context, config orchestrator.ContainerConfig) (orchestrator.Container, error) {
	if config.Runtime == "" {
		config.Runtime = l.config.Runtime
	}
	container, err := l.config.Engine.Run(ctx, config)
	var known *orchestrator.Error
	if !errors.As(err, &known) || known.Code != codeNoNetwork {
		return container, err
	}
	for _, network := range orchestrator.InstanceNetworks(l.config.Owner, l.config.Network) {
		if network.Name != config.Network {
			continue
		}
		if _, err := l.config.Engine.EnsureNetwork(ctx, network); err != nil {
			return container, fmt.Errorf("make the network %s: %w", config.Network, err)
		}
		return l.config.Engine.Run(ctx, config)
	}
	return container, err
}

// codeNoNetwork is the engine's code for a network that does not exist.
const codeNoNetwork = "network-not-found"

var errNotReady = errors.New("not ready in time")

func instanceAddr(c orchestrator.Container) string {
	return net.JoinHostPort(c.Addr, strconv.Itoa(orchestrator.InstancePort))
}

// failed makes the error of a start that did not come to a ready instance.
func (l *Launcher) failed(ctx context.Context, request Request, id string, cause error) error {
	if ctx.Err() != nil { // nobody wants it any more
		return ctx.Err()
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
	defer cancel()
	name := request.For
	e := &orchestrator.Error{Class: orchestrator.ErrFunction, Code: "instance-start-failed", Output: l.output(ctx, id)}
	var end exit
	// The event of the end says less than the engine's record, and may be missing.
	died := errors.As(cause, &end)
	if c, err := l.config.Engine.Inspect(ctx, id); err == nil && c.State == orchestrator.ContainerExited {
		died, end = true, exit{code: c.ExitCode, oom: c.OOMKilled || end.oom}
	}
	switch {
	case !died:
		e.Detail = fmt.Sprintf("an instance of %s was not ready within %s", name, l.config.StartTimeout)
		e.Hint = fmt.Sprintf("it has to listen on port %d ($PORT) on all interfaces", orchestrator.InstancePort)
		var notReady *notReadyError
		if errors.As(cause, &notReady) {
			e.Detail += ": " + notReady.Error()
			e.Hint = "its output may tell what it waits for"
		}
	case end.oom:
		e.Detail = fmt.Sprintf("an instance of %s needed more than its %s of memory to start", name, request.Config.Limits.Memory)
		e.Hint = "raise resources.memory"
	default:
		e.Detail = fmt.Sprintf("an instance of %s ended with exit code %d before it was ready", name, end.code)
		e.Hint = "its last lines are in the output; run the function's code locally to see it fail"
	}
	return e
}

// output returns the last lines of a container.
func (l *Launcher) output(ctx context.Context, id string) []string {
	var lines []string
	for line, err := range l.config.Engine.Logs(ctx, id, orchestrator.LogOptions{Tail: outputLines}) {
		if err != nil {
			l.config.Logger.Warn("read the output of a failed instance", "container_id", id, "error", err)
			break
		}
		lines = append(lines, line.Text)
	}
	return lines
}

// remove ends a container that no pool will have.
func (l *Launcher) remove(ctx context.Context, id string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
	defer cancel()
	if err := l.config.Engine.Stop(ctx, id, 0); err != nil {
		l.config.Logger.Warn("remove an instance that did not start", "container_id", id, "error", err)
	}
}

// Owns says whether a container, given by id or name, is being created, starting,
// or being removed after a start that failed.
func (l *Launcher) Owns(id string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.inHand[id] != nil
}

// maxEarly bounds the ends that are remembered while containers are created.
const maxEarly = 256

// Died tells that a container ended: a start that waits for it fails at once.
func (l *Launcher) Died(id string, exitCode int, oom bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	end := exit{code: exitCode, oom: oom}
	if w := l.inHand[id]; w != nil && w.cancel != nil {
		w.cancel(end)
	} else if l.running > 0 && len(l.early) < maxEarly {
		l.early[id] = end
	}
}

// Freeze suspends an instance.
func (l *Launcher) Freeze(ctx context.Context, id string) error {
	return l.config.Engine.Freeze(ctx, id)
}

// Thaw resumes an instance.
func (l *Launcher) Thaw(ctx context.Context, id string) error {
	return l.config.Engine.Thaw(ctx, id)
}

// Stop ends and removes an instance.
func (l *Launcher) Stop(ctx context.Context, id string, grace time.Duration) error {
	return l.config.Engine.Stop(ctx, id, grace)
}
