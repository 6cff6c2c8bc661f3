// Package pgtest runs a PostgreSQL of its own for tests: the real one, from
// the distribution's package, with its data in a folder of the test's, listening on
// loopback. It can be restarted and killed.
package pgtest

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kilnfaas/kiln/orchestrator/porttest"
)

const (
	// patience bounds a start, a stop and a statement; they take a second when the
	// machine is not busy.
	patience = 60 * time.Second
	// pollPause is how often a server is asked whether it is there.
	pollPause = 20 * time.Millisecond
	// Superuser is the role that all clusters have, and Password its password.
	Superuser = "postgres"
	Password  = "a password of tests"
)

// binaries returns the folder of the server's programs; the distribution keeps
// them out of the PATH.
func binaries() (string, error) {
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if err != nil {
		return "", err
	}
	if len(found) > 0 {
		return filepath.Dir(slices.MaxFunc(found, func(a, b string) int { return major(a) - major(b) })), nil
	}
	path, err := exec.LookPath("initdb")
	if err != nil {
		return "", errors.New("no PostgreSQL is installed (Debian: apt-get install postgresql)")
	}
	return filepath.Dir(path), nil
}

func major(path string) int {
	n, err := strconv.Atoi(strings.Split(path, "/")[4])
	if err != nil {
		return 0
	}
	return n
}

// Require skips a test where there is no PostgreSQL, or fails it where that must
// not happen.
func Require(t testing.TB) {
	t.Helper()
	if _, err := binaries(); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("%v; deploy/test-setup installs it", err)
		}
		t.Skipf("SKIPPED: %v; deploy/test-setup installs it", err)
	}
}

// Cluster is a PostgreSQL server and its data.
type Cluster struct {
	Port int

	port     *porttest.Port
	bin, dir string
	account  *syscall.Credential // who runs it; nil = whoever runs the tests
	settings []string
	process  *exec.Cmd
	ended    chan struct{} // closed when the process has ended
	log      *os.File
}

// New makes a cluster below dir, with settings such as "wal_level=logical", and
// starts it. Close ends it.
func New(dir string, settings ...string) (*Cluster, error) {
	bin, err := binaries()
	if err != nil {
		return nil, err
	}
	c := &Cluster{bin: bin, dir: filepath.Join(dir, "postgres"), settings: settings}
	if err := c.own(); err != nil {
		return nil, err
	}
	password := filepath.Join(c.dir, "password")
	if err := os.WriteFile(password, []byte(Password), 0o644); err != nil {
		return nil, err
	}
	// The cluster is thrown away; a crash of the machine may take it.
	if err := c.run("initdb", "--no-sync", "--no-instructions", "--auth=scram-sha-256", "--pwfile="+password, "--username="+Superuser, "--encoding=UTF8", "--locale=C", c.data()); err != nil {
		return nil, err
	}
	if c.log, err = os.Create(filepath.Join(c.dir, "log")); err != nil {
		return nil, err
	}
	if c.port, err = porttest.Reserve(); err != nil {
		return nil, errors.Join(err, c.log.Close())
	}
	c.Port = c.port.Number
	if err := c.Start(); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// own makes the folder, and finds somebody to run the server, which refuses to be
// root's.
func (c *Cluster) own() error {
	if err := os.MkdirAll(c.dir, 0o755); err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return nil
	}
	account, err := user.Lookup("postgres")
	if err != nil {
		if account, err = user.Lookup("nobody"); err != nil {
			return err
		}
	}
	uid, err := strconv.Atoi(account.Uid)
	if err != nil {
		return err
	}
	gid, err := strconv.Atoi(account.Gid)
	if err != nil {
		return err
	}
	c.account = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	return os.Chown(c.dir, uid, gid)
}

func (c *Cluster) data() string { return filepath.Join(c.dir, "data") }

func (c *Cluster) command(program string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(c.bin, program), args...)
	cmd.Dir = c.dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: c.account, Setpgid: true} // Ctrl-C is for the tests
	cmd.Env = append(os.Environ(), "PGPASSWORD="+Password, "LC_ALL=C")
	return cmd
}

func (c *Cluster) run(program string, args ...string) error {
	cmd := c.command(program, args...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", program, err, out)
	}
	return nil
}

// Start starts the server and waits until it answers.
func (c *Cluster) Start() error {
	args := []string{"-D", c.data(), "-p", strconv.Itoa(c.Port), "-c", "listen_addresses=127.0.0.1", "-k", c.dir}
	for _, setting := range c.settings {
		args = append(args, "-c", setting)
	}
	cmd := c.command("postgres", args...)
	cmd.Stdout, cmd.Stderr = c.log, c.log
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start PostgreSQL: %w", err)
	}
	ended := make(chan struct{})
	c.process, c.ended = cmd, ended
	go func() {
		defer close(ended)
		_ = cmd.Wait() // its log tells more than its status
	}()
	for deadline := time.Now().Add(patience); ; time.Sleep(pollPause) { // another process has no clock of ours
		if c.run("pg_isready", "-q", "-h", "127.0.0.1", "-p", strconv.Itoa(c.Port), "-U", Superuser, "-d", "postgres") == nil {
			return nil
		}
		select {
		case <-ended:
			return fmt.Errorf("PostgreSQL does not start:\n%s", c.Log())
		default:
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("PostgreSQL does not answer after %s:\n%s", patience, c.Log())
		}
	}
}

// Log returns what the server has logged.
func (c *Cluster) Log() string {
	data, err := os.ReadFile(filepath.Join(c.dir, "log"))
	if err != nil {
		return err.Error()
	}
	return string(data)
}

// Stop ends the server as an administrator would, in its "fast" way.
func (c *Cluster) Stop() error { return c.end(syscall.SIGINT) }

// Kill ends the server and all its processes at once, as a crash does, and returns
// when they have ended: a server is not started beside what is left of another.
func (c *Cluster) Kill() error {
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", c.process.Process.Pid))
	if err != nil {
		return fmt.Errorf("kill PostgreSQL: %w", err)
	}
	err = c.end(syscall.SIGKILL)
	for _, child := range bytes.Fields(children) {
		if pid, convErr := strconv.Atoi(string(child)); convErr == nil {
			if killErr := syscall.Kill(pid, syscall.SIGKILL); !errors.Is(killErr, syscall.ESRCH) {
				err = errors.Join(err, killErr, awaitEnd(pid))
			}
		}
	}
	return err
}

// awaitEnd waits until a process that is no child of this one has ended. Nobody may
// have been told of it yet.
func awaitEnd(pid int) error {
	for deadline := time.Now().Add(patience); ; time.Sleep(pollPause) { // another process has no clock of ours
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) || bytes.Contains(stat, []byte(") Z ")) {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("process %d of PostgreSQL does not end within %s of SIGKILL: %s, %v", pid, patience, stat, err)
		}
	}
}

func (c *Cluster) end(signal syscall.Signal) error {
	if c.process == nil {
		return nil
	}
	if err := c.process.Process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("end PostgreSQL: %w", err)
	}
	select {
	case <-c.ended:
	case <-time.After(patience):
		_ = c.process.Process.Kill()
		<-c.ended
		return fmt.Errorf("PostgreSQL does not end within %s of %s:\n%s", patience, signal, c.Log())
	}
	c.process = nil
	return nil
}

// Close ends the server; its data stays where it is.
func (c *Cluster) Close() error {
	return errors.Join(c.end(syscall.SIGQUIT), c.log.Close(), c.port.Close())
}

// SQL runs statements in a database and returns the rows of the last one, columns
// parted by "|".
func (c *Cluster) SQL(database, statements string) (string, error) {
	cmd := c.command("psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-p", strconv.Itoa(c.Port), "-U", Superuser, "-d", database, "-f", "-")
	var out, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(statements), &out, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("psql: %w: %s", err, stderr.String())
	}
	return strings.TrimSpace(out.String()), nil
}
