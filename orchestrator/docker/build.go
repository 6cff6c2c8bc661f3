package docker

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/build"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/versions"
	"github.com/google/uuid"

	"github.com/kilnfaas/kiln/orchestrator"
)

// BuilderMode says which of an engine's builders makes the images.
type BuilderMode string

// The builders.
const (
	BuilderAuto     BuilderMode = "auto"     // BuildKit where the engine has it
	BuilderBuildKit BuilderMode = "buildkit" // in parallel, with cache mounts
	BuilderClassic  BuilderMode = "classic"  // one step after the other, without RUN --mount
)

func (m BuilderMode) validate() error {
	switch m {
	case "", BuilderAuto, BuilderBuildKit, BuilderClassic:
		return nil
	}
	return invalid("builder-unknown", "there is no builder %q", string(m)).WithHint("use auto, buildkit or classic")
}

const (
	// buildTimeout bounds a build whose caller set no deadline: compiling a large
	// dependency tree on two cores takes minutes, not more.
	buildTimeout = 30 * time.Minute
	// cancelEvery is how often a build is told to stop until it does: the order
	// is lost when it comes before the engine has registered the build.
	cancelEvery = 200 * time.Millisecond
	// cancelPatience is how long a build may take to stop before its connection
	// is cut. Stopping one takes 10 to 100 ms.
	cancelPatience = 10 * time.Second
	// buildKitSince is the API of engine 20.10, the first whose BuildKit reads
	// RUN --mount without a syntax line. A ping does not tell: it names the
	// builder that the engine's command line should prefer, or nothing.
	buildKitSince = "1.41"
	// buildIDLength is how much of a build's id begins the ids of its steps.
	buildIDLength = 8
)

// BuilderKind returns the builder in use, BuilderBuildKit or BuilderClassic, so
// that whoever composes a context knows whether it may use RUN --mount.
func (c *Client) BuilderKind(ctx context.Context) (BuilderMode, error) {
	if mode := c.options.Builder; mode == BuilderBuildKit || mode == BuilderClassic {
		return mode, nil
	}
	callCtx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	ping, err := c.api.Ping(callCtx) // not remembered: an engine may be upgraded, and this takes 1 ms
	if err != nil {
		return "", translate(ctx, "ask for the engine's builder", err)
	}
	if ping.OSType != "windows" && versions.GreaterThanOrEqualTo(ping.APIVersion, buildKitSince) {
		return BuilderBuildKit, nil
	}
	return BuilderClassic, nil
}

// Build turns a context into an image. When ctx ends the build is cancelled,
// and Build returns once it has stopped.
func (c *Client) Build(ctx context.Context, request orchestrator.BuildRequest) (orchestrator.Image, error) {
	mode, err := c.BuilderKind(ctx)
	if err != nil {
		return orchestrator.Image{}, err
	}
	bounded, cancel := context.WithTimeout(ctx, buildTimeout)
	defer cancel()
	bounded, stop := context.WithCancelCause(bounded)
	defer stop(nil)
	b := newBuild(mode, request)
	b.log.flooded = func() { stop(errFlood) }
	b.classic.runs = func(id string) {
		if err := c.limitStep(bounded, id, request.Limits); err != nil {
			stop(unlimited{err})
		}
	}
	if err := c.runBuild(bounded, b, buildOptions(b.id, mode, request)); err != nil {
		cause := context.Cause(bounded)
		if cause == errFlood {
			return orchestrator.Image{}, floodError(request.Output, b.log)
		}
		if step, ok := cause.(unlimited); ok {
			return orchestrator.Image{}, step.error
		}
		if bounded.Err() != nil && ctx.Err() == nil {
			return orchestrator.Image{}, orchestrator.Errorf(orchestrator.ErrFunction, "build-timeout", "the build took longer than %s", buildTimeout)
		}
		return orchestrator.Image{}, translate(ctx, "build the image", err)
	}
	return c.Image(ctx, b.image)
}

var errFlood = errors.New("the build prints more than it may")

func floodError(allowed orchestrator.Bytes, log *buildLog) error {
	err := orchestrator.Errorf(orchestrator.ErrFunction, "build-output-limit", "the build printed more than %s", allowed).
		WithHint("have its steps print less, for example with the quiet option of what they run")
	err.Output = log.output()
	return err
}

// unlimited stops a build that has a step without the limits it should have.
type unlimited struct{ error }

// limitStep bounds what the classic builder has no option for. It comes right
// after the container was made, before or just when it is started. A step that
// has ended needs no limit.
func (c *Client) limitStep(ctx context.Context, id string, limits orchestrator.Limits) error {
	if limits.Pids == 0 {
		return nil
	}
	err := c.Limit(ctx, id, orchestrator.Limits{Pids: limits.Pids})
	if err == nil || errors.Is(err, orchestrator.ErrNotFound) {
		return nil
	}
	callCtx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	// The engine gives no reason of its own when the step ended meanwhile.
	found, inspectErr := c.api.ContainerInspect(callCtx, id)
	if cerrdefs.IsNotFound(inspectErr) {
		return nil
	}
	if inspectErr == nil && found.ContainerJSONBase != nil && found.State != nil {
		switch found.State.Status {
		case container.StateExited, container.StateRemoving, container.StateDead:
			return nil
		}
	}
	return err
}

func buildOptions(id string, mode BuilderMode, request orchestrator.BuildRequest) build.ImageBuildOptions {
	options := build.ImageBuildOptions{
		Tags:        request.Tags,
		Dockerfile:  request.Dockerfile,
		Target:      request.Target,
		BuildArgs:   make(map[string]*string, len(request.Args)),
		Labels:      request.Labels,
		NetworkMode: request.Network,
		Remove:      true,
		ForceRemove: true,
		BuildID:     id,
	}
	for name, value := range request.Args {
		options.BuildArgs[name] = &value
	}
	if mode == BuilderBuildKit {
		options.Version = build.BuilderBuildKit
		return options
	}
	options.Version = build.BuilderV1
	options.Memory, options.MemorySwap = int64(request.Limits.Memory), int64(request.Limits.Memory)
	return options
}

// runBuild lets the engine work and stops it when ctx ends. The request itself
// is not cancelled, because the answer tells when the build has stopped.
func (c *Client) runBuild(ctx context.Context, b *building, options build.ImageBuildOptions) error {
	request, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	done := make(chan error, 1)
	go func() { done <- b.run(request, c, options) }()
	defer b.context.close()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	b.context.cancelled.Store(true)
	if b.mode == BuilderBuildKit {
		c.cancelBuildKit(context.WithoutCancel(ctx), b.id, done, cut)
		return ctx.Err()
	}
	cut() // the classic builder stops with its connection
	<-done
	if container := b.classic.container; container != "" {
		return errors.Join(ctx.Err(), c.remove(context.WithoutCancel(ctx), container))
	}
	return ctx.Err()
}

// cancelBuildKit returns when the build has stopped.
func (c *Client) cancelBuildKit(ctx context.Context, id string, done <-chan error, cut func()) {
	patience := time.NewTimer(cancelPatience)
	defer patience.Stop()
	again := time.NewTicker(cancelEvery)
	defer again.Stop()
	for {
		callCtx, cancel := context.WithTimeout(ctx, cancelPatience)
		// Whether it worked is seen from the build, which ends or does not.
		_ = c.api.BuildCancel(callCtx, id)
		cancel()
		select {
		case <-done:
			return
		case <-again.C:
		case <-patience.C:
			cut()
			<-done
			return
		}
	}
}

// building is one build in progress.
type building struct {
	id       string
	mode     BuilderMode
	context  *contextReader
	log      *buildLog
	buildkit buildkitProgress
	classic  classicProgress
	image    string // id, of the last stage once complete
	complete bool   // the engine said that it is done
	failure  string // what the engine gave as the reason
	broken   error  // of decoding the progress; does not fail the build
}

func newBuild(mode BuilderMode, request orchestrator.BuildRequest) *building {
	id := uuid.NewString()
	log := newBuildLog(id[:buildIDLength], request.Progress)
	log.allowed = int64(request.Output)
	return &building{
		id: id, mode: mode, log: log,
		context:  &contextReader{source: request.Context},
		buildkit: buildkitProgress{log: log},
		classic:  classicProgress{log: log, now: time.Now},
	}
}

func (b *building) run(ctx context.Context, c *Client, options build.ImageBuildOptions) error {
	response, err := c.api.ImageBuild(ctx, b.context, options)
	if err != nil {
		return b.refused(ctx, err)
	}
	defer response.Body.Close()
	err = readMessages(response.Body, b.message)
	switch {
	case b.failure != "":
		b.log.finish(orchestrator.StepFailed)
		return buildError(b.failure, b.log)
	case b.context.failure() != nil:
		return b.context.failure()
	case !b.complete && err == nil:
		err = b.broken
		if err == nil {
			err = io.ErrUnexpectedEOF
		}
		fallthrough
	case err != nil:
		return orchestrator.Errorf(orchestrator.ErrUnavailable, "build-interrupted", "the engine ended the build without a result: %w", err).
			WithHint("%s", engineHint)
	}
	b.log.finish(orchestrator.StepDone)
	return nil
}

// refused is the error of a build that gave no progress.
func (b *building) refused(ctx context.Context, err error) error {
	if cause := b.context.failure(); cause != nil {
		return cause // the engine only saw that the context ended too early
	}
	translated := translate(ctx, "build the image", err)
	var known *orchestrator.Error
	if errors.As(translated, &known) && isDockerfileError(err.Error()) {
		return buildError(err.Error(), b.log)
	}
	return translated
}

// message takes one line of progress, of either builder: an engine may have been
// told to use the other one.
func (b *building) message(m message) {
	var result struct{ ID string }
	switch {
	case m.Error != "":
		b.failure = m.Error
	case m.ID == "moby.buildkit.trace":
		var trace []byte
		err := json.Unmarshal(m.Aux, &trace)
		if err == nil {
			err = b.buildkit.trace(trace)
		}
		if err != nil && b.broken == nil {
			b.broken = err
		}
	case len(m.Aux) > 0:
		if err := json.Unmarshal(m.Aux, &result); err == nil && strings.HasPrefix(result.ID, "sha256:") {
			// The classic builder names the image of each stage.
			b.image, b.complete = result.ID, m.ID == "moby.image.id"
		}
	case m.Stream != "":
		b.classic.stream(m.Stream)
		b.complete = b.complete || b.image != "" && b.classic.built
	}
}

// contextReader hands the caller's reader to the HTTP transport and takes it
// back: the transport may go on reading after it has given its answer.
type contextReader struct {
	cancelled atomic.Bool
	gate      sync.Mutex // held during a read, so that close can wait for it
	source    io.Reader  // guarded by gate; nil once closed
	err       error      // guarded by gate; of source
}

var errContextClosed = errors.New("the build is over")

// Read reads the build context.
func (r *contextReader) Read(p []byte) (int, error) {
	r.gate.Lock()
	defer r.gate.Unlock()
	if r.source == nil || r.cancelled.Load() {
		return 0, errContextClosed
	}
	n, err := r.source.Read(p)
	if err != nil && err != io.EOF {
		r.err = err
	}
	return n, err
}

// close waits for a read in progress; after it the source is not touched.
func (r *contextReader) close() {
	r.cancelled.Store(true)
	r.gate.Lock()
	defer r.gate.Unlock()
	r.source = nil
}

// failure is the error of the caller's reader, which is the caller's own.
func (r *contextReader) failure() error {
	r.gate.Lock()
	defer r.gate.Unlock()
	return r.err
}
