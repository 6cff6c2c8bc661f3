package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// envInside says that the process is in its own namespaces already.
const envInside = "KILN_CHAOS_INSIDE"

// leaveTimeout is what a run gets to tidy up after a signal: containers have to
// end, and the engine waits for them.
const leaveTimeout = 90 * time.Second

// enter runs this program again in a mount namespace of its own, and with an
// engine of its own in a network namespace, too, so that neither engine nor
// mounts nor addresses of the machine are touched and nothing is left when it
// ends. The process that is inside gets true.
func enter(ctx context.Context, own bool) (inside bool, err error) {
	if os.Getenv(envInside) != "" {
		if own {
			err = furnish()
		}
		return true, err
	}
	if os.Geteuid() != 0 {
		return false, errors.New("it mounts, kills and sets limits: run it as root")
	}
	tools, namespaces := []string{"docker", "iptables", "nsenter"}, unix.CLONE_NEWNS
	if own {
		tools, namespaces = append(tools, "dockerd", "containerd"), namespaces|unix.CLONE_NEWNET
	}
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			return false, err
		}
	}
	self, err := os.Executable()
	if err != nil {
		return false, err
	}
	cmd := exec.CommandContext(ctx, self, os.Args[1:]...)
	cmd.Env = append(os.Environ(), envInside+"=1")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	// Unsharing mounts makes those of the machine private first.
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: uintptr(namespaces), Pdeathsig: syscall.SIGTERM}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = leaveTimeout
	if err := cmd.Run(); err != nil {
		return false, fmt.Errorf("inside its namespaces: %w", err)
	}
	return false, nil
}

// machineSocket is where the machine's own engine is reached from inside: base
// images are read from it.
const machineSocket = "/run/kiln-chaos-machine.sock"

// furnish makes the namespaces habitable: a loopback device, and a /run of
// their own, because containerd keeps the sockets of its shims there.
func furnish() error {
	if err := loopbackUp(); err != nil {
		return fmt.Errorf("bring the loopback device up: %w", err)
	}
	socket := strings.TrimPrefix(os.Getenv("DOCKER_HOST"), "unix://")
	if socket == "" {
		socket = "/var/run/docker.sock"
	}
	socket, err := filepath.EvalSymlinks(socket)
	if err != nil {
		return fmt.Errorf("the machine's engine: %w", err)
	}
	held, err := unix.Open(socket, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("the machine's engine: %w", err)
	}
	defer unix.Close(held)
	if err := unix.Mount("tmpfs", "/run", "tmpfs", 0, "mode=755"); err != nil {
		return fmt.Errorf("mount /run: %w", err)
	}
	if err := os.WriteFile(machineSocket, nil, 0o600); err != nil {
		return err
	}
	if err := unix.Mount(fmt.Sprintf("/proc/self/fd/%d", held), machineSocket, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("reach the machine's engine: %w", err)
	}
	return nil
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	request, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	request.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, request)
}
