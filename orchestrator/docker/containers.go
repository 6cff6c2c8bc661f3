package docker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"

	"github.com/kilnfaas/kiln/orchestrator"
)

// Rotation of the logs of a container: enough to see what led to a failure, and
// a bound for a function that prints in a loop.
const (
	logMaxSize  = "10m"
	logMaxFiles = "3"
)

// abandonPatience is how long Run stays once its context ended, so that what
// was made is normally gone when it returns. After that the tidying goes on by
// itself.
const abandonPatience = 2 * time.Second

// Run creates and starts a container with the hardening all of them share.
//
// The engine carries a create or start through even when the request is
// cancelled, so they are not: once the caller's context ends, the container is
// removed as soon as the engine has answered.
func (c *Client) Run(ctx context.Context, config orchestrator.ContainerConfig) (orchestrator.Container, error) {
	if err := ctx.Err(); err != nil {
		return orchestrator.Container{}, translate(ctx, "run "+config.Name, err)
	}
	type outcome struct {
		container orchestrator.Container
		err       error
	}
	done := make(chan outcome, 1)
	c.work.Go(func() {
		ran, err := c.run(ctx, config)
		done <- outcome{ran, err}
	})
	select {
	case o := <-done:
		return o.container, o.err
	case <-ctx.Done():
	}
	patience := time.NewTimer(abandonPatience)
	defer patience.Stop()
	select {
	case o := <-done:
		return o.container, o.err
	case <-patience.C:
		return orchestrator.Container{}, translate(ctx, "run "+config.Name, ctx.Err())
	}
}

func (c *Client) run(caller context.Context, config orchestrator.ContainerConfig) (orchestrator.Container, error) {
	ctx := context.WithoutCancel(caller)
	image, err := c.imageDefaults(caller, config.Image)
	if err != nil {
		return orchestrator.Container{}, err
	}
	var volume string
	if len(config.Secrets) > 0 {
		if volume, err = c.entry(caller, config.Image); err != nil {
			return orchestrator.Container{}, fmt.Errorf("prepare to hand secrets to %s: %w", config.Name, err)
		}
	}
	for {
		files := c.openFiles.Load()
		ran, err := c.attempt(ctx, caller, config, image, volume, files)
		if files == 0 || !refusedFiles(err) {
			return ran, err
		}
		c.openFiles.Store(0)
	}
}

// attempt creates and starts a container, or leaves none behind.
func (c *Client) attempt(ctx, caller context.Context, config orchestrator.ContainerConfig, image imageDefaults, volume string, files int64) (orchestrator.Container, error) {
	created, err := c.create(ctx, config, image, volume, files)
	if err != nil {
		return orchestrator.Container{}, translate(caller, "create "+config.Name, err)
	}
	ran, err := c.start(ctx, caller, created, config)
	if err == nil {
		return ran, nil
	}
	if removeErr := c.remove(ctx, created); removeErr != nil {
		err = errors.Join(err, removeErr)
	}
	return orchestrator.Container{}, err
}

// create makes a container. volume is the one with the entry program, if it is
// to have secrets.
func (c *Client) create(ctx context.Context, config orchestrator.ContainerConfig, image imageDefaults, volume string, files int64) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	host := hostConfig(config)
	host.Ulimits = ulimits(files)
	for _, path := range image.volumes {
		if _, given := host.Tmpfs[path]; !given {
			host.Tmpfs[path] = tmpfsOptions(orchestrator.Tmpfs{Size: orchestrator.DefaultTmp})
		}
	}
	var mac string
	if config.Marked {
		mac = hardwareAddress()
	}
	settings := &container.Config{
		Image:  config.Image,
		Cmd:    config.Command,
		Env:    environment(config.Env),
		Labels: config.Labels,
		User:   image.user,
		// Readiness is the gateway's business; an image's own check would run a
		// process every few seconds, and hang in a frozen container.
		Healthcheck: &container.HealthConfig{Test: []string{"NONE"}},
	}
	//lint:ignore SA1019 engines before API 1.44 know no other field; the client drops it for newer ones
	settings.MacAddress = mac
	if volume != "" {
		withEntry(settings, host, image, volume)
	}
	created, err := c.api.ContainerCreate(ctx, settings, host, c.endpoints(config.Network, mac), nil, config.Name)
	return created.ID, err
}

// start starts a created container and looks up its address.
func (c *Client) start(ctx, caller context.Context, id string, config orchestrator.ContainerConfig) (orchestrator.Container, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if err := caller.Err(); err != nil {
		return orchestrator.Container{}, translate(caller, "start "+config.Name, err)
	}
	var stdin *input
	if len(config.Secrets) > 0 {
		var err error
		if stdin, err = c.attach(ctx, id); err != nil {
			return orchestrator.Container{}, translate(caller, "attach to "+config.Name, err)
		}
		defer stdin.conn.Close()
	}
	if err := c.api.ContainerStart(ctx, id, container.StartOptions{}); err != nil {
		return orchestrator.Container{}, startError(translate(caller, "start "+config.Name, err), config)
	}
	if stdin != nil {
		// One that has ended says why in its log.
		if err := stdin.deliver(config.Secrets); err != nil && !errors.Is(err, syscall.EPIPE) && !errors.Is(err, syscall.ECONNRESET) {
			return orchestrator.Container{}, translate(caller, "hand secrets to "+config.Name, err)
		}
	}
	if err := caller.Err(); err != nil {
		return orchestrator.Container{}, translate(caller, "start "+config.Name, err)
	}
	details, err := c.api.ContainerInspect(ctx, id)
	if err != nil {
		return orchestrator.Container{}, translate(caller, "inspect "+config.Name, err)
	}
	if err := caller.Err(); err != nil {
		return orchestrator.Container{}, translate(caller, "start "+config.Name, err)
	}
	return inspected(details), nil
}

// startError tells a configuration that the engine refuses to start from one it
// refuses for now: what an image's command cannot do, it will never do.
func startError(err error, config orchestrator.ContainerConfig) error {
	var known *orchestrator.Error
	if !errors.As(err, &known) {
		return err
	}
	text := err.Error()
	switch {
	case strings.Contains(text, "network") && strings.Contains(text, "not found"):
		return orchestrator.Errorf(orchestrator.ErrNotFound, "network-not-found", "cannot start %s: %w", config.Name, err)
	case strings.Contains(text, "executable file not found"), strings.Contains(text, "no such file or directory"),
		strings.Contains(text, "permission denied"), strings.Contains(text, "exec format error"):
		return orchestrator.Errorf(orchestrator.ErrInvalid, "command-not-runnable", "the image %s cannot be started: %w", config.Image, err).
			WithHint("check the command and entrypoint of the image, and that its user may execute them")
	}
	return err
}

// hostConfig is the hardening and the limits.
func hostConfig(config orchestrator.ContainerConfig) *container.HostConfig {
	init := true
	host := &container.HostConfig{
		NetworkMode:    container.NetworkMode(config.Network),
		ReadonlyRootfs: true,
		CapDrop:        []string{"ALL"},
		SecurityOpt:    []string{"no-new-privileges"},
		Init:           &init,
		Runtime:        config.Runtime,
		RestartPolicy:  container.RestartPolicy{Name: container.RestartPolicyDisabled},
		LogConfig: container.LogConfig{Type: "json-file", Config: map[string]string{
			"max-size": logMaxSize, "max-file": logMaxFiles,
		}},
		Tmpfs:     make(map[string]string, len(config.Tmpfs)),
		Resources: resources(config.Limits),
	}
	for _, t := range config.Tmpfs {
		host.Tmpfs[t.Path] = tmpfsOptions(t)
	}
	if config.Sealed {
		host.DNS, host.DNSOptions = []string{nowhereResolver}, hastyLookups
	}
	return host
}

// resources translates limits; 0 is no limit.
func resources(limits orchestrator.Limits) container.Resources {
	r := container.Resources{
		Memory:     int64(limits.Memory),
		MemorySwap: int64(limits.Memory), // memory and swap together: so no swap
		NanoCPUs:   int64(math.Round(limits.CPU * 1e9)),
	}
	if limits.Pids > 0 {
		r.PidsLimit = &limits.Pids
	}
	return r
}

func tmpfsOptions(t orchestrator.Tmpfs) string {
	options := "rw,nosuid,nodev,mode=1777"
	if t.Exec {
		options += ",exec"
	} else {
		options += ",noexec"
	}
	if t.Size > 0 {
		options += ",size=" + strconv.FormatInt(int64(t.Size), 10)
	}
	return options
}

// environment is env in the engine's form, sorted so that equal configurations
// are equal requests.
func environment(env map[string]string) []string {
	list := make([]string, 0, len(env))
	for _, name := range slices.Sorted(maps.Keys(env)) {
		list = append(list, name+"="+env[name])
	}
	return list
}

// Stop ends and removes a container. With a grace of 0 it is killed at once.
func (c *Client) Stop(ctx context.Context, id string, grace time.Duration) error {
	defer c.frozen.remove(id)
	callCtx, cancel := context.WithTimeout(ctx, grace+stopMargin)
	defer cancel()
	if grace > 0 {
		seconds := int(math.Ceil(grace.Seconds())) // the engine's unit
		err := translate(ctx, "stop "+short(id), c.api.ContainerStop(callCtx, id, container.StopOptions{Timeout: &seconds}))
		switch {
		case errors.Is(err, orchestrator.ErrNotFound):
			return nil
		case errors.Is(err, orchestrator.ErrConflict): // not running any more
		case err != nil:
			return err
		}
	}
	return translate(ctx, "remove "+short(id), c.remove(callCtx, id))
}

// remove kills and removes a container and waits until it is gone. Absent is no
// error.
func (c *Client) remove(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, stopMargin)
	defer cancel()
	err := translate(ctx, "remove "+short(id), c.api.ContainerRemove(ctx, id, container.RemoveOptions{Force: true, RemoveVolumes: true}))
	switch {
	case errors.Is(err, orchestrator.ErrNotFound):
		return nil
	case errors.Is(err, orchestrator.ErrConflict): // somebody else is removing it
		return c.awaitRemoved(ctx, id)
	}
	return err
}

func (c *Client) awaitRemoved(ctx context.Context, id string) error {
	gone, errs := c.api.ContainerWait(ctx, id, container.WaitConditionRemoved)
	select {
	case <-gone:
		return nil
	case err := <-errs:
		if err = translate(ctx, "wait for the removal of "+short(id), err); errors.Is(err, orchestrator.ErrNotFound) {
			return nil
		}
		return err
	}
}

// Limit changes the limits of a running container. Limits of 0 stay as they are.
func (c *Client) Limit(ctx context.Context, id string, limits orchestrator.Limits) error {
	callCtx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err := c.api.ContainerUpdate(callCtx, id, container.UpdateConfig{Resources: resources(limits)})
	return translate(ctx, "limit "+short(id), err)
}

// Inspect returns one container.
func (c *Client) Inspect(ctx context.Context, id string) (orchestrator.Container, error) {
	callCtx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	details, err := c.api.ContainerInspect(callCtx, id)
	if err != nil {
		return orchestrator.Container{}, translate(ctx, "inspect "+short(id), err)
	}
	return inspected(details), nil
}

// List returns the containers that carry all of labels. PID and OOMKilled are
// not in the engine's list.
func (c *Client) List(ctx context.Context, labels map[string]string) ([]orchestrator.Container, error) {
	callCtx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	summaries, err := c.api.ContainerList(callCtx, container.ListOptions{All: true, Filters: labelFilter(labels)})
	if err != nil {
		return nil, translate(ctx, "list containers", err)
	}
	list := make([]orchestrator.Container, 0, len(summaries))
	for _, s := range summaries {
		list = append(list, summarised(s))
	}
	return list, nil
}

func labelFilter(labels map[string]string) filters.Args {
	args := filters.NewArgs()
	for name, value := range labels {
		args.Add("label", name+"="+value)
	}
	return args
}

func inspected(d container.InspectResponse) orchestrator.Container {
	out := orchestrator.Container{
		ID:      d.ID,
		Name:    strings.TrimPrefix(d.Name, "/"),
		ImageID: d.ContainerJSONBase.Image,
		State:   orchestrator.ContainerExited,
	}
	if d.Config != nil {
		out.Image = d.Config.Image
		out.Labels = d.Config.Labels
	}
	if created, err := time.Parse(time.RFC3339Nano, d.Created); err == nil {
		out.CreatedAt = created
	}
	if d.State != nil {
		out.State = state(d.State.Status)
		out.ExitCode = d.State.ExitCode
		out.OOMKilled = d.State.OOMKilled
		out.PID = d.State.Pid
	}
	if out.State == orchestrator.ContainerExited || d.NetworkSettings == nil {
		return out
	}
	for _, endpoint := range d.NetworkSettings.Networks {
		if endpoint != nil && endpoint.IPAddress != "" {
			out.Addr = endpoint.IPAddress
		}
	}
	return out
}

func summarised(s container.Summary) orchestrator.Container {
	out := orchestrator.Container{
		ID:        s.ID,
		Image:     s.Image,
		ImageID:   s.ImageID,
		Labels:    s.Labels,
		State:     state(s.State),
		CreatedAt: time.Unix(s.Created, 0),
	}
	if len(s.Names) > 0 {
		out.Name = strings.TrimPrefix(s.Names[0], "/")
	}
	if out.State == orchestrator.ContainerExited {
		// The list has the exit code in words only: "Exited (3) 2 minutes ago".
		if _, err := fmt.Sscanf(s.Status, "Exited (%d)", &out.ExitCode); err != nil {
			out.ExitCode = 0 // created and never started, or being removed
		}
		return out
	}
	if s.NetworkSettings == nil {
		return out
	}
	for _, endpoint := range s.NetworkSettings.Networks {
		if endpoint != nil && endpoint.IPAddress != "" {
			out.Addr = endpoint.IPAddress
		}
	}
	return out
}

func state(engine string) orchestrator.ContainerState {
	switch engine {
	case container.StateRunning:
		return orchestrator.ContainerRunning
	case container.StatePaused:
		return orchestrator.ContainerFrozen
	}
	return orchestrator.ContainerExited
}

// shortID is how many characters of an id engines print.
const shortID = 12

func short(id string) string {
	if len(id) > shortID {
		return id[:shortID]
	}
	return id
}
