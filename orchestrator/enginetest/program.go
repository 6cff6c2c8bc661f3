package enginetest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/enginetest/probe"
)

// Program is what runs in a fake container. It returns the exit code. It must
// return soon after ctx ends, which is SIGKILL; SIGTERM is Process.Term.
type Program func(ctx context.Context, p *Process) int

// Process is a program's view of its container.
type Process struct {
	Config         orchestrator.ContainerConfig
	Addr           string // the container's IP address, on the loopback
	Stdout, Stderr io.Writer
	Term           <-chan struct{} // closed on SIGTERM

	fake      *Fake
	container *fakeContainer
}

// Exit codes of a process that a signal ended, as a shell counts them.
const (
	exitKilled     = 128 + 9
	exitTerminated = 128 + 15
)

// Listen opens the port that every instance listens on.
func (p *Process) Listen() (net.Listener, error) {
	return net.Listen("tcp", net.JoinHostPort(p.Addr, strconv.Itoa(orchestrator.InstancePort)))
}

// Allocate makes the process use that much memory: over the container's limit
// it is killed for it, and Allocate returns once it is dead.
func (p *Process) Allocate(bytes int64) {
	p.fake.mu.Lock()
	limit := p.container.config.Limits.Memory
	p.fake.mu.Unlock()
	if limit > 0 && orchestrator.Bytes(bytes) > limit {
		p.fake.OOM(p.container.id)
		<-p.container.ended
	}
}

// AwaitThaw returns once the container is not frozen, or ctx ends. A program
// that shall stand still while frozen calls it before each thing it does.
func (p *Process) AwaitThaw(ctx context.Context) {
	for {
		p.fake.mu.Lock()
		frozen, thawed := p.container.state == orchestrator.ContainerFrozen, p.container.thawed
		p.fake.mu.Unlock()
		if !frozen {
			return
		}
		select {
		case <-thawed:
		case <-ctx.Done():
			return
		}
	}
}

// Idle waits for SIGTERM and listens to nothing. It suits tests on a fake clock,
// where real connections are in the way.
func Idle() Program {
	return func(ctx context.Context, p *Process) int {
		select {
		case <-ctx.Done():
			return exitKilled
		case <-p.Term:
			return 0
		}
	}
}

// Serve answers HTTP on the container's address until SIGTERM, then lets what is
// in flight finish. Requests that arrive at a frozen container wait until it is
// thawed, and are counted by Fake.FrozenRequests.
func Serve(handler http.Handler) Program {
	return func(ctx context.Context, p *Process) int {
		listener, err := p.Listen()
		if err != nil {
			fmt.Fprintln(p.Stderr, err)
			return 1
		}
		server := &http.Server{Handler: p.standingStill(handler), ReadHeaderTimeout: time.Minute}
		failed := make(chan error, 1)
		go func() { failed <- server.Serve(listener) }()
		select {
		case <-ctx.Done():
			err = server.Close()
		case <-p.Term:
			err = server.Shutdown(ctx)
			if errors.Is(err, context.Canceled) {
				err = server.Close()
			}
		}
		<-failed
		if err != nil {
			fmt.Fprintln(p.Stderr, err)
		}
		if ctx.Err() != nil {
			return exitKilled
		}
		return 0
	}
}

// standingStill makes requests wait while the container is frozen.
func (p *Process) standingStill(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.fake.mu.Lock()
		if p.container.state == orchestrator.ContainerFrozen {
			p.fake.frozenRequests++
		}
		p.fake.mu.Unlock()
		p.AwaitThaw(r.Context())
		next.ServeHTTP(w, r)
	})
}

// NeverReady runs, and listens to nothing, and ignores SIGTERM.
func NeverReady() Program {
	return func(ctx context.Context, p *Process) int {
		<-ctx.Done()
		return exitKilled
	}
}

// ExitAtOnce writes lines to stderr and ends.
func ExitAtOnce(code int, lines ...string) Program {
	return func(ctx context.Context, p *Process) int {
		for _, line := range lines {
			fmt.Fprintln(p.Stderr, line)
		}
		return code
	}
}

// After starts a program late, as a slow runtime does.
func After(d time.Duration, program Program) Program {
	return func(ctx context.Context, p *Process) int {
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-timer.C:
			return program(ctx, p)
		case <-ctx.Done():
			return exitKilled
		case <-p.Term:
			return exitTerminated
		}
	}
}

// Probe is the program that the suite talks to.
func Probe() Program {
	return func(ctx context.Context, p *Process) int {
		return probe.Main(ctx, probe.Machine{
			Env:      func(name string) string { return p.Config.Env[name] },
			Stdout:   p.Stdout,
			Stderr:   p.Stderr,
			Term:     p.Term,
			ReadFile: p.readFile,
			Allocate: p.Allocate,
			Listen: func() (net.Listener, error) {
				listener, err := p.Listen()
				return frozenListener{listener, p, ctx}, err
			},
		}, p.Config.Command)
	}
}

// readFile finds secrets in the container, and all else on the machine.
func (p *Process) readFile(name string) ([]byte, error) {
	if secret, ok := strings.CutPrefix(name, orchestrator.SecretsPath+"/"); ok {
		if value, ok := p.Config.Secrets[secret]; ok {
			return value, nil
		}
		return nil, fs.ErrNotExist
	}
	return os.ReadFile(name)
}

// frozenListener makes the connections of a listener stand still while the
// container is frozen: the kernel accepts them, nobody reads.
type frozenListener struct {
	net.Listener
	process *Process
	ctx     context.Context
}

// Accept waits for a connection.
func (l frozenListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return frozenConn{conn, l.process, l.ctx}, nil
}

type frozenConn struct {
	net.Conn
	process *Process
	ctx     context.Context
}

// Read holds back what arrives while frozen.
func (c frozenConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.process.AwaitThaw(c.ctx)
	return n, err
}
