// Package porttest reserves ports of this machine for tests that start servers in
// other processes, or again and again, and for those that need a place where nobody
// listens.
package porttest

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"syscall"
	"testing"
)

// Port is a TCP port on loopback. The kernel gives it to nobody who asks for any
// port, until Close: a socket is bound to it that never listens. Whoever asks for
// this one can listen on it all the same, as servers do (with SO_REUSEADDR), end,
// and come back. While nobody does, connections are refused.
//
// A number that is merely looked up and let go is somebody else's a moment later, on
// a machine where other tests open hundreds a second.
type Port struct {
	Number int
	socket int
}

// Reserve takes a port. Close lets it go.
func Reserve() (*Port, error) {
	syscall.ForkLock.RLock() // no child inherits it
	socket, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err == nil {
		syscall.CloseOnExec(socket)
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return nil, fmt.Errorf("reserve a port: %w", err)
	}
	p := &Port{socket: socket}
	err = errors.Join(
		syscall.SetsockoptInt(socket, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1),
		syscall.Bind(socket, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}),
	)
	var name syscall.Sockaddr
	if err == nil {
		name, err = syscall.Getsockname(socket)
	}
	if err != nil {
		return nil, fmt.Errorf("reserve a port: %w", errors.Join(err, p.Close()))
	}
	p.Number = name.(*syscall.SockaddrInet4).Port
	return p, nil
}

// Address is where the port is.
func (p *Port) Address() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(p.Number)) }

// Close lets the port go; what listens on it goes on.
func (p *Port) Close() error { return syscall.Close(p.socket) }

// Address reserves a port for as long as a test runs.
func Address(t testing.TB) string {
	t.Helper()
	p, err := Reserve()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Errorf("let a port go: %v", err)
		}
	})
	return p.Address()
}
