package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"sync"
	"syscall"

	"github.com/kilnfaas/kiln/templates/shared/host"
)

const (
	abiNumber = 1 // int32_t NAME(void)
	abiBody   = 2 // int32_t NAME(const uint8_t *, size_t, kiln_write, void *)

	endOfOutput = 1<<32 - 1
	maxHello    = 64 << 10 // bytes of text in a worker's first frame
)

// worker is a process that holds the library; worker.c documents the frames. It
// serves one call at a time.
type worker struct {
	cmd         *exec.Cmd
	conn        net.Conn
	in          *bufio.Reader
	abi         int32
	contentType string
}

// call sends a body and copies the output to out; an error means that the worker
// is of no use any more.
func (w *worker) call(body []byte, out io.Writer) (int32, error) {
	frame := net.Buffers{binary.NativeEndian.AppendUint64(nil, uint64(len(body))), body}
	if _, err := frame.WriteTo(w.conn); err != nil {
		return 0, err
	}
	for {
		var size uint32
		if err := binary.Read(w.in, binary.NativeEndian, &size); err != nil {
			return 0, err
		}
		if size == endOfOutput {
			var result int32
			err := binary.Read(w.in, binary.NativeEndian, &result)
			return result, err
		}
		if _, err := io.CopyN(out, w.in, int64(size)); err != nil {
			return 0, err
		}
	}
}

// hello reads the first frame.
func (w *worker) hello() error {
	var head struct {
		ABI  int32
		Size uint32
	}
	if err := binary.Read(w.in, binary.NativeEndian, &head); err != nil {
		return err
	}
	if head.Size > maxHello {
		return fmt.Errorf("its first frame has %d bytes", head.Size)
	}
	text := make([]byte, head.Size)
	if _, err := io.ReadFull(w.in, text); err != nil {
		return err
	}
	if head.ABI == 0 {
		return errors.New(string(text))
	}
	w.abi, w.contentType = head.ABI, string(text)
	return nil
}

// kill ends the process at once; end must still be called.
func (w *worker) kill() { w.cmd.Process.Kill() }

// end ends the process and returns how it ended.
func (w *worker) end() error {
	w.conn.Close()
	return w.cmd.Wait()
}

// pool keeps idle workers and bounds how many there are.
type pool struct {
	library, symbol string
	slots           chan struct{} // held by a call

	mu   sync.Mutex // guards idle
	idle []*worker
}

// get returns a worker for one call; put or drop must follow.
func (p *pool) get(ctx context.Context) (*worker, error) {
	select {
	case p.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	p.mu.Lock()
	if n := len(p.idle); n > 0 {
		w := p.idle[n-1]
		p.idle = p.idle[:n-1]
		p.mu.Unlock()
		return w, nil
	}
	p.mu.Unlock()
	w, err := p.start()
	if err != nil {
		p.drop()
	}
	return w, err
}

// put takes a worker back.
func (p *pool) put(w *worker) {
	p.mu.Lock()
	p.idle = append(p.idle, w)
	p.mu.Unlock()
	p.drop()
}

// drop gives a call's slot back without its worker.
func (p *pool) drop() { <-p.slots }

// start runs a worker and waits until it has the library.
func (p *pool) start() (*worker, error) {
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("make a socket for a worker: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "worker"), os.NewFile(uintptr(pair[1]), "host")
	defer ours.Close() // FileConn duplicates it
	defer theirs.Close()
	conn, err := net.FileConn(ours)
	if err != nil {
		return nil, fmt.Errorf("make a socket for a worker: %w", err)
	}
	cmd := exec.Command(workerPath, p.library, p.symbol)
	cmd.Dir, cmd.Stdout, cmd.Stderr = host.Code, os.Stdout, os.Stderr
	cmd.ExtraFiles = []*os.File{theirs}
	if err := cmd.Start(); err != nil {
		conn.Close()
		return nil, fmt.Errorf("start a worker: %w", err)
	}
	w := &worker{cmd: cmd, conn: conn, in: bufio.NewReader(conn)}
	theirs.Close() // else the death of the worker would not be seen
	if err := w.hello(); err != nil {
		return nil, fmt.Errorf("the library cannot be used: %w", errors.Join(err, w.end()))
	}
	return w, nil
}
