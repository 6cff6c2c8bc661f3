package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Time that the engine gets, on a machine that is busy.
const (
	engineUp   = 60 * time.Second
	engineDown = 60 * time.Second
	dockerTime = 2 * time.Minute
	// probeEvery is how often something that comes up is asked.
	probeEvery = 20 * time.Millisecond
)

// engine is a dockerd: the machine's, or one of the suite's own.
type engine struct {
	dir     string   // of its own; empty = it is the machine's
	process *process // nil while its own does not run
}

// host returns the engine's address; empty is the machine's usual one.
func (e *engine) host() string {
	if e.dir == "" {
		return ""
	}
	return "unix://" + filepath.Join(e.dir, "docker.sock")
}

// containers returns the folders of the containers, which have their logs.
func (e *engine) containers(ctx context.Context) (string, error) {
	root, err := e.docker(ctx, "info", "--format", "{{.DockerRootDir}}")
	return filepath.Join(root, "containers"), err
}

func (e *engine) start(ctx context.Context) error {
	cmd := exec.Command("dockerd",
		"--data-root", filepath.Join(e.dir, "data"), "--exec-root", filepath.Join(e.dir, "exec"),
		"--pidfile", filepath.Join(e.dir, "pid"), "--host", e.host())
	var err error
	if e.process, err = startProcess(cmd, filepath.Join(e.dir, "dockerd.log")); err != nil {
		return err
	}
	return waitFor(ctx, "the engine", engineUp, func() error {
		if err := e.process.ended(); err != nil {
			return fmt.Errorf("dockerd: %w; see %s", err, filepath.Join(e.dir, "dockerd.log"))
		}
		_, err := e.docker(ctx, "version", "--format", "{{.Server.Version}}")
		return err
	})
}

// stop ends the engine in an orderly way, and with it the containers.
func (e *engine) stop() error {
	if e.process == nil {
		return nil
	}
	err := e.process.end(syscall.SIGTERM, engineDown)
	e.process = nil
	return errors.Join(err, e.endShims(), e.unmount())
}

// endShims ends the shims of containers that the engine did not come to end: they
// outlive it, for the next engine to find, and this one's have none.
func (e *engine) endShims() error {
	processes, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return err
	}
	address := filepath.Join(e.dir, "exec", "containerd", "containerd.sock")
	var errs []error
	for _, file := range processes {
		line, err := os.ReadFile(file)
		if err != nil { // it has ended
			continue
		}
		args := strings.Split(string(line), "\x00")
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err != nil || !strings.HasPrefix(filepath.Base(args[0]), "containerd-shim") || !slices.Contains(args, address) {
			continue
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			errs = append(errs, fmt.Errorf("end the shim %d: %w", pid, err))
		}
	}
	return errors.Join(errs...)
}

// unmount takes away what an engine left mounted that ended in the middle of
// making a container: the next one does not know of it, and cannot remove the
// container. A restart of the machine does the same.
func (e *engine) unmount() error {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	var errs []error
	for line := range strings.Lines(string(mounts)) {
		const mountPoint = 4
		fields := strings.Fields(line)
		if len(fields) > mountPoint && strings.HasPrefix(fields[mountPoint], filepath.Join(e.dir, "data")+"/") {
			if err := unix.Unmount(fields[mountPoint], unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
				errs = append(errs, fmt.Errorf("unmount %s: %w", fields[mountPoint], err))
			}
		}
	}
	return errors.Join(errs...)
}

// docker runs the client against this engine and returns what it prints.
func (e *engine) docker(ctx context.Context, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, dockerTime)
	defer cancel()
	var stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, "docker", args...)
	if host := e.host(); host != "" {
		cmd.Env = append(os.Environ(), "DOCKER_HOST="+host)
	}
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("docker %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(stderr.Bytes()))
	}
	return strings.TrimSpace(string(out)), nil
}

// list is docker's output in lines.
func (e *engine) list(ctx context.Context, args ...string) ([]string, error) {
	out, err := e.docker(ctx, args...)
	if err != nil || out == "" {
		return nil, err
	}
	return strings.Split(out, "\n"), nil
}

// carry brings an image over from the machine's engine. The first one of names
// that is there will do.
func (e *engine) carry(ctx context.Context, names ...string) error {
	ctx, cancel := context.WithTimeout(ctx, dockerTime)
	defer cancel()
	for _, name := range names {
		if exec.CommandContext(ctx, "docker", "--host", "unix://"+machineSocket, "image", "inspect", name).Run() != nil {
			continue
		}
		save := exec.CommandContext(ctx, "docker", "--host", "unix://"+machineSocket, "save", name)
		load := exec.CommandContext(ctx, "docker", "--host", e.host(), "load", "-q")
		var err error
		if load.Stdin, err = save.StdoutPipe(); err != nil {
			return err
		}
		if err := save.Start(); err != nil {
			return err
		}
		out, loadErr := load.CombinedOutput()
		if err := errors.Join(loadErr, save.Wait()); err != nil {
			return fmt.Errorf("carry %s over: %w: %s", name, err, out)
		}
		return nil
	}
	return fmt.Errorf("the machine's engine has none of %s: deploy a python function once, which makes it", strings.Join(names, ", "))
}

// process is a child that is waited for.
type process struct {
	*exec.Cmd
	done chan struct{}
	err  error // set before done is closed
}

// startProcess starts a command with its output added to a file. It ends with
// this program, however that ends.
func startProcess(cmd *exec.Cmd, log string) (*process, error) {
	out, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer out.Close() // the process has its own
	cmd.Stdout, cmd.Stderr = out, out
	// Go ends no thread of its own accord, so this is the death of the process.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &process{Cmd: cmd, done: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// ended returns why the process has ended, nil while it runs.
func (p *process) ended() error {
	select {
	case <-p.done:
		return errors.Join(errors.New("ended"), p.err)
	default:
		return nil
	}
}

// end signals the process and waits until it has ended.
func (p *process) end(signal syscall.Signal, patience time.Duration) error {
	if err := p.Process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-p.done:
		return nil
	case <-time.After(patience):
		err := p.Process.Kill()
		<-p.done
		return errors.Join(fmt.Errorf("%s did not end within %s of %s", p.Path, patience, signal), err)
	}
}

// waitFor tries until check returns nil.
func waitFor(ctx context.Context, what string, patience time.Duration, check func() error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		err := check()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waited %s for %s: %w", patience, what, err)
		case <-time.After(probeEvery):
		}
	}
}
