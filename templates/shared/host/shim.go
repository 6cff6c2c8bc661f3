package host

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"
	"syscall"
	"time"
)

// MainShim is a cell that becomes the program that was loaded: it replaces its
// own process by program and leaves it the listening socket, so that no hop is
// added and connections that wait to be accepted are kept. It ends the process.
func MainShim(program string) {
	if err := runShim(program); err != nil {
		fmt.Fprintln(os.Stderr, "kiln:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// connKey finds a request's connection in its context.
type connKey struct{}

func runShim(program string) error {
	cell, err := waitingCell()
	if err != nil {
		return err
	}
	if cell == nil {
		return errors.New("the shim runs in cells only: KILN_CELL is not 1")
	}
	opened, err := listen()
	if err != nil {
		return err
	}
	listener := &pausable{TCPListener: opened.(*net.TCPListener), resumed: make(chan struct{}, 1)}
	server := newServer(cell)
	server.http.ConnContext = func(ctx context.Context, conn net.Conn) context.Context {
		return context.WithValue(ctx, connKey{}, conn)
	}
	cell.load = func(r *http.Request) error {
		listener.pause()
		err := become(program, listener.TCPListener, r.Context().Value(connKey{}).(*net.TCPConn))
		listener.resume()
		return err
	}
	return server.serve(listener)
}

// become replaces the process; it returns only when that cannot be.
func become(program string, listener, load syscall.Conn) error {
	env := os.Environ()
	for variable, conn := range map[string]syscall.Conn{listenFDVariable: listener, loadFDVariable: load} {
		fd, err := keepOnExec(conn)
		if err != nil {
			return err
		}
		env = append(env, variable+"="+strconv.Itoa(fd))
	}
	if err := syscall.Exec(program, []string{program}, env); err != nil {
		return fmt.Errorf("execute %s: %w", program, err)
	}
	return nil
}

// keepOnExec makes a descriptor outlive the program and returns its number.
func keepOnExec(conn syscall.Conn) (int, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	var number int
	var errno syscall.Errno
	err = raw.Control(func(fd uintptr) {
		number = int(fd)
		_, _, errno = syscall.Syscall(syscall.SYS_FCNTL, fd, syscall.F_SETFD, 0)
	})
	if err == nil && errno != 0 {
		err = errno
	}
	return number, err
}

// pausable is a listener that can leave connections in the socket's queue.
type pausable struct {
	*net.TCPListener
	resumed chan struct{}
}

// Accept implements net.Listener.
func (p *pausable) Accept() (net.Conn, error) {
	for {
		conn, err := p.TCPListener.Accept()
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return conn, err
		}
		<-p.resumed
	}
}

// pause makes a running Accept wait; one call of resume must follow.
func (p *pausable) pause() { p.SetDeadline(time.Unix(1, 0)) }

func (p *pausable) resume() {
	p.SetDeadline(time.Time{})
	p.resumed <- struct{}{}
}
