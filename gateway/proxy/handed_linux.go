package proxy

import (
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
)

// handed is a client's connection of which something was read.
type handed struct {
	*net.TCPConn
	prefix []byte
	s      *Listener
	once   sync.Once
}

func (h *handed) Read(p []byte) (int, error) {
	if len(h.prefix) > 0 {
		n := copy(p, h.prefix)
		if h.prefix = h.prefix[n:]; len(h.prefix) == 0 {
			h.prefix = nil
		}
		return n, nil
	}
	return h.TCPConn.Read(p)
}

// WriteTo hides the connection's own, which knows nothing of the prefix.
func (h *handed) WriteTo(w io.Writer) (int64, error) {
	var total int64
	if len(h.prefix) > 0 {
		n, err := w.Write(h.prefix)
		if total = int64(n); err != nil {
			return total, err
		}
		h.prefix = nil
	}
	n, err := h.TCPConn.WriteTo(w)
	return total + n, err
}

// SyscallConn is not offered: what reads the descriptor would miss the prefix.
func (h *handed) SyscallConn() (syscall.RawConn, error) { return nil, errors.ErrUnsupported }

func (h *handed) Close() error {
	h.once.Do(h.s.released)
	return h.TCPConn.Close()
}
