// Package host serves one handler inside a function's container, as the runtime
// contract says (docs/templates.md): the Go, exec and cdylib templates are built
// on it. It becomes part of users' images and imports the standard library only.
package host

import (
	"context"
	"crypto/subtle"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"runtime/debug"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
)

// Code is where the function's files are.
const Code = "/function"

const (
	defaultPort    = "8080"
	maxHeaderBytes = 64 << 10
	controlPrefix  = "/_kiln/"

	// Descriptors that a cell's shim leaves open for the program it becomes.
	listenFDVariable = "KILN_LISTEN_FD" // the listening socket
	loadFDVariable   = "KILN_LOAD_FD"   // the connection that waits for the load's answer

	tokenVariable = "KILN_INSTANCE_TOKEN"
	tokenField    = "Kiln-Instance-Token"
)

// Loader makes the handler once the function's files are at Code and its
// environment is set.
type Loader func() (http.Handler, error)

// Static is a Loader for a handler that is part of the program.
func Static(handle http.HandlerFunc) Loader {
	return func() (http.Handler, error) { return handle, nil }
}

// Main serves what load returns, at once or, in a cell, when the code has come,
// until SIGTERM and the last response. It ends the process.
func Main(load Loader) {
	log.SetFlags(0)
	if err := run(load); err != nil {
		fmt.Fprintln(os.Stderr, "kiln:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func run(load Loader) error {
	cell, err := waitingCell()
	if err != nil {
		return err
	}
	server := newServer(cell)
	if cell == nil {
		if err := server.load(load); err != nil {
			return fmt.Errorf("the handler could not be loaded: %w", err)
		}
	}
	listener, err := listen()
	if err != nil {
		return err
	}
	answerInheritedLoad()
	if cell != nil {
		cell.load = func(*http.Request) error { return server.load(load) }
	}
	return server.serve(listener)
}

// server answers the contract's own paths and hands over the rest.
type server struct {
	cell    *cell
	token   []byte                       // that requests must show; nil = any will do. Set before handler
	handler atomic.Pointer[http.Handler] // nil until loaded
	http    *http.Server
}

func newServer(c *cell) *server {
	s := &server{cell: c}
	// No timeouts: the gateway decides how long a request may take.
	s.http = &http.Server{Handler: s, MaxHeaderBytes: maxHeaderBytes}
	return s
}

// load makes the handler, once the environment is the function's. What is for the
// runtime alone the handler does not find there.
func (s *server) load(load Loader) error {
	if token, ok := os.LookupEnv(tokenVariable); ok {
		os.Unsetenv(tokenVariable)
		s.token = []byte(token)
	}
	handler, err := load()
	if err == nil {
		s.handler.Store(&handler)
	}
	return err
}

// admits says whether a request shows the instance's token, which it then loses.
func (s *server) admits(r *http.Request) bool {
	if s.token == nil {
		return true
	}
	shown := r.Header[tokenField]
	delete(r.Header, tokenField)
	return len(shown) == 1 && subtle.ConstantTimeCompare([]byte(shown[0]), s.token) == 1
}

// serve returns after SIGTERM, once every response has been sent.
func (s *server) serve(listener net.Listener) error {
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	failed := make(chan error, 1)
	go func() { failed <- s.http.Serve(listener) }()
	select {
	case err := <-failed:
		return err
	case <-stop:
		// Without a deadline: whoever sent the signal kills when it is over.
		return s.http.Shutdown(context.Background())
	}
}

// ServeHTTP implements http.Handler.
func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if strings.HasPrefix(r.URL.Path, controlPrefix) {
		s.control(w, r)
		return
	}
	handler := s.handler.Load()
	if handler == nil {
		Problem(w, r, http.StatusServiceUnavailable, "cell-empty", "no function is loaded yet")
		return
	}
	if !s.admits(r) {
		Problem(w, r, http.StatusForbidden, "instance-token", "the call does not show this instance's token; calls come through the gateway")
		return
	}
	if r.Body != http.NoBody {
		// A handler that copies the body to the response is the plainest there is.
		http.NewResponseController(w).EnableFullDuplex()
	}
	t := &tracked{ResponseWriter: w}
	defer recovered(t, r)
	(*handler).ServeHTTP(t, r)
}

func (s *server) control(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.URL.Path == controlPrefix+"ready":
		if s.cell != nil {
			state := "loaded"
			if s.handler.Load() == nil {
				state = "empty"
			}
			w.Header().Set("Kiln-Cell", state)
		}
	case r.URL.Path == controlPrefix+"load" && r.Method == http.MethodPost && s.cell != nil:
		s.cell.serveLoad(w, r)
	case r.URL.Path == controlPrefix+"load" && r.Method == http.MethodPost:
		Problem(w, r, http.StatusConflict, "not-a-cell", "this is no cell")
	default:
		Problem(w, r, http.StatusNotFound, "route-unknown", "nothing answers at "+r.URL.Path)
	}
}

// recovered turns a handler's panic into a 500, or into a broken connection when
// the response has begun.
func recovered(w *tracked, r *http.Request) {
	cause := recover()
	if cause == nil {
		return
	}
	if cause == http.ErrAbortHandler {
		panic(cause)
	}
	fmt.Fprintf(os.Stderr, "panic: %v\n\n%s", cause, debug.Stack())
	if w.begun {
		panic(http.ErrAbortHandler)
	}
	detail := fmt.Sprintf("the handler panicked with %T; its stack is in the function's log", cause)
	Problem(w.ResponseWriter, r, http.StatusInternalServerError, "handler-failed", detail)
}

// listen opens the port, or takes over the socket that a cell's shim left.
func listen() (net.Listener, error) {
	if text, ok := os.LookupEnv(listenFDVariable); ok {
		os.Unsetenv(listenFDVariable)
		fd, err := strconv.Atoi(text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", listenFDVariable, err)
		}
		file := os.NewFile(uintptr(fd), "listener")
		defer file.Close()
		return net.FileListener(file)
	}
	port := os.Getenv("PORT")
	if port == "" {
		port = defaultPort
	}
	return net.Listen("tcp4", ":"+port)
}

// answerInheritedLoad tells the gateway, on the connection that the shim left,
// that the program it sent is running.
func answerInheritedLoad() {
	text, ok := os.LookupEnv(loadFDVariable)
	if !ok {
		return
	}
	os.Unsetenv(loadFDVariable)
	fd, err := strconv.Atoi(text)
	if err != nil {
		return
	}
	file := os.NewFile(uintptr(fd), "load")
	defer file.Close()
	if _, err := file.WriteString("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"); err != nil {
		fmt.Fprintln(os.Stderr, "kiln: answer the load:", err)
	}
}
