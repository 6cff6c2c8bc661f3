package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/kilnfaas/kiln/templates/shared/host"
)

// pipeDrain is how long output is still read after the process has ended: only
// a descendant that left the process group can hold the pipe open.
const pipeDrain = time.Second

// feedTimeout is how long a body may still come after the program has ended.
const feedTimeout = 5 * time.Second

// program runs an executable once a request.
type program struct {
	path  string
	slots chan struct{} // held by a running process
}

// ServeHTTP implements http.Handler.
func (p *program) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	select {
	case p.slots <- struct{}{}:
		defer func() { <-p.slots }()
	case <-r.Context().Done():
		panic(http.ErrAbortHandler)
	}
	run, err := start(r.Context(), p.path, environ(r))
	if err != nil {
		fmt.Fprintln(os.Stderr, "kiln:", err)
		host.Problem(w, r, http.StatusInternalServerError, "handler-failed", err.Error())
		return
	}
	fed := make(chan struct{})
	go func() {
		defer close(fed)
		feed(run.stdin, r.Body)
	}()
	respond(w, r, run)
	awaitFeed(w, fed)
}

// feed copies the body to the program. One that leaves its input unread breaks
// the pipe; the rest of the body is then read for nobody, because the next
// request on the connection comes behind it.
func feed(stdin *os.File, body io.Reader) {
	_, err := io.Copy(stdin, body)
	stdin.Close()
	if err != nil {
		io.Copy(io.Discard, body)
	}
}

// awaitFeed keeps the handler, whose body is being read, until the body has
// come. A caller that does not send it loses the connection.
func awaitFeed(w http.ResponseWriter, fed <-chan struct{}) {
	select {
	case <-fed:
		return
	default:
	}
	http.NewResponseController(w).Flush()
	late := time.NewTimer(feedTimeout)
	defer late.Stop()
	select {
	case <-fed:
	case <-late.C:
		panic(http.ErrAbortHandler)
	}
}

// process is one run of the program.
type process struct {
	stdin  *os.File
	stdout *os.File
	ended  chan struct{} // closed once the process is gone
	err    error         // of the process; read after ended
}

// start runs the program in a process group of its own, which is killed when the
// process ends or ctx does.
func start(ctx context.Context, path string, env []string) (*process, error) {
	inRead, inWrite, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	outRead, outWrite, err := os.Pipe()
	if err != nil {
		inRead.Close()
		inWrite.Close()
		return nil, err
	}
	cmd := exec.CommandContext(ctx, path)
	cmd.Dir, cmd.Env = host.Code, env
	cmd.Stdin, cmd.Stdout, cmd.Stderr = inRead, outWrite, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	err = children.start(cmd)
	inRead.Close()
	outWrite.Close()
	if err != nil {
		inWrite.Close()
		outRead.Close()
		return nil, fmt.Errorf("the handler cannot be executed: %w", err)
	}
	run := &process{stdin: inWrite, stdout: outRead, ended: make(chan struct{})}
	go func() {
		run.err = children.wait(cmd)
		// What it left running belongs to this request; there may be nothing.
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		outRead.SetReadDeadline(time.Now().Add(pipeDrain))
		close(run.ended)
	}()
	return run, nil
}

// environ is the environment of one run: the function's own and what RFC 3875
// says of the request.
func environ(r *http.Request) []string {
	name, port, err := net.SplitHostPort(r.Host)
	if err != nil {
		name, port = r.Host, "80"
	}
	remote, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		remote = r.RemoteAddr
	}
	env := append(os.Environ(),
		"GATEWAY_INTERFACE=CGI/1.1",
		"SERVER_SOFTWARE=kiln",
		"SERVER_PROTOCOL="+r.Proto,
		"SERVER_NAME="+name,
		"SERVER_PORT="+port,
		"REMOTE_ADDR="+remote,
		"REMOTE_HOST="+remote,
		"REQUEST_METHOD="+r.Method,
		"REQUEST_URI="+r.RequestURI,
		"SCRIPT_NAME=",
		"PATH_INFO="+r.URL.Path,
		"QUERY_STRING="+r.URL.RawQuery,
		"HTTP_HOST="+r.Host,
	)
	if r.ContentLength > 0 {
		env = append(env, "CONTENT_LENGTH="+strconv.FormatInt(r.ContentLength, 10))
	}
	for field, values := range r.Header {
		separator := ", "
		switch field {
		case "Content-Type":
			env = append(env, "CONTENT_TYPE="+values[0])
			continue
		case "Content-Length", "Proxy": // HTTP_PROXY means something else to programs
			continue
		case "Cookie":
			separator = "; "
		}
		variable := strings.ToUpper(strings.ReplaceAll(field, "-", "_"))
		env = append(env, "HTTP_"+variable+"="+strings.Join(values, separator))
	}
	return env
}
