// Package natstest runs a NATS server of its own for tests: the real one, from the
// distribution's package, with JetStream and its data in a folder of the test's,
// listening on loopback. It can be restarted and killed.
package natstest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kilnfaas/kiln/orchestrator/porttest"
)

const (
	// patience bounds a start and a stop; they take a moment when the machine is not
	// busy.
	patience = 60 * time.Second
	// pollPause is how often a server is asked whether it is there.
	pollPause = 10 * time.Millisecond
	// User is who all servers know, and Password is the user's.
	User     = "tester"
	Password = "a-password-of-tests"
	// setupPath is where the tests' set-up puts the program, in Kiln's folder.
	setupPath = ".kiln/test/nats-server"
)

// Find finds the server's program.
func Find() (path string, err error) {
	if dir, err := os.Getwd(); err == nil {
		for ; dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
			path := filepath.Join(dir, setupPath)
			if _, err := os.Stat(path); err == nil {
				return path, nil
			}
		}
	}
	for _, name := range []string{"nats-server", "/usr/sbin/nats-server"} { // the latter is not in everybody's PATH
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", errors.New("no NATS server is installed (Debian's package nats-server)")
}

// Require skips a test where there is no NATS server, or fails it where that must
// not happen.
func Require(t testing.TB) {
	t.Helper()
	if _, err := Find(); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("%v; deploy/test-setup gets it", err)
		}
		t.Skipf("SKIPPED: %v; deploy/test-setup gets it", err)
	}
}

// Server is a NATS server and its data.
type Server struct {
	Port int

	port                 *porttest.Port
	program, dir, config string
	process              *exec.Cmd     // nil while it does not run
	ended                chan struct{} // closed when the process has ended
	log                  *os.File
}

// New makes a server below dir, with more lines of configuration if wanted, and
// starts it. Without such lines it knows User alone. Close ends it.
func New(dir string, config ...string) (*Server, error) {
	program, err := Find()
	if err != nil {
		return nil, err
	}
	s := &Server{program: program, dir: filepath.Join(dir, "nats")}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return nil, err
	}
	if s.log, err = os.Create(filepath.Join(s.dir, "log")); err != nil {
		return nil, err
	}
	if s.port, err = porttest.Reserve(); err != nil {
		return nil, errors.Join(err, s.log.Close())
	}
	s.Port = s.port.Number
	if len(config) == 0 {
		config = []string{fmt.Sprintf("authorization { user: %s, password: %s }", User, Password)}
	}
	s.config = filepath.Join(s.dir, "server.conf")
	lines := append([]string{fmt.Sprintf("listen: 127.0.0.1:%d", s.Port), fmt.Sprintf("jetstream { store_dir: %q }", s.dir)}, config...)
	if err = os.WriteFile(s.config, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err == nil {
		err = s.Start()
	}
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// URL is where the server is, without credentials.
func (s *Server) URL() string { return fmt.Sprintf("nats://127.0.0.1:%d", s.Port) }

// Start starts the server and waits until it says that it is ready.
func (s *Server) Start() error {
	before := strings.Count(s.Log(), ready)
	cmd := exec.Command(s.program, "-c", s.config)
	cmd.Stdout, cmd.Stderr = s.log, s.log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is for the tests
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the NATS server: %w", err)
	}
	ended := make(chan struct{})
	s.process, s.ended = cmd, ended
	go func() {
		defer close(ended)
		_ = cmd.Wait() // its log tells more than its status
	}()
	for deadline := time.Now().Add(patience); strings.Count(s.Log(), ready) == before; time.Sleep(pollPause) { // another process has no clock of ours
		select {
		case <-ended:
			return fmt.Errorf("the NATS server does not start:\n%s", s.Log())
		default:
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the NATS server is not ready after %s:\n%s", patience, s.Log())
		}
	}
	return nil
}

// ready is what the server logs when it is.
const ready = "Server is ready"

// Log returns what the server has logged.
func (s *Server) Log() string {
	data, err := os.ReadFile(filepath.Join(s.dir, "log"))
	if err != nil {
		return err.Error()
	}
	return string(data)
}

// Stop ends the server as an administrator would.
func (s *Server) Stop() error { return s.end(syscall.SIGTERM) }

// Kill ends the server at once, as a crash does.
func (s *Server) Kill() error { return s.end(syscall.SIGKILL) }

// Close ends the server; its data stays where it is.
func (s *Server) Close() error {
	return errors.Join(s.end(syscall.SIGKILL), s.log.Close(), s.port.Close())
}

func (s *Server) end(signal syscall.Signal) error {
	if s.process == nil {
		return nil
	}
	if err := s.process.Process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("end the NATS server: %w", err)
	}
	select {
	case <-s.ended:
	case <-time.After(patience):
		_ = s.process.Process.Kill()
		<-s.ended
		return fmt.Errorf("the NATS server does not end within %s of %s:\n%s", patience, signal, s.Log())
	}
	s.process = nil
	return nil
}
