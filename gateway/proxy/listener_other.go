//go:build !linux

package proxy

import (
	"context"
	"errors"
	"net"
)

// Listener is a net.Listener. On Linux it serves common invocations by itself;
// elsewhere the complete path, behind Accept, serves them all.
type Listener struct{ *net.TCPListener }

// Listen takes inner over. The Listener closes it.
func Listen(inner *net.TCPListener, _ Config) (*Listener, error) { return &Listener{inner}, nil }

// Close stops accepting.
func (l *Listener) Close() error {
	if err := l.TCPListener.Close(); !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil // a second time
}

// Shutdown closes the listener; there is nothing to wait for.
func (l *Listener) Shutdown(context.Context) error { return l.Close() }
