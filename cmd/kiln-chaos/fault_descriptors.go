package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// descriptorsGone is how long there are none.
	descriptorsGone = 3 * time.Second
	// greedy is how many connections ask for what is left.
	greedy = 50
)

// exhaustDescriptors leaves the gateway no file descriptor to open.
var exhaustDescriptors = fault{name: "descriptors exhausted", full: 3, short: 1, inject: func(ctx context.Context, w *world) (err error) {
	pid := w.gateway.process.Process.Pid
	open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		return err
	}
	var before unix.Rlimit
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, &before); err != nil {
		return err
	}
	end := w.excuse(anything)
	defer end()
	// The soft limit alone, which can be raised again.
	none := unix.Rlimit{Cur: uint64(len(open)), Max: before.Max}
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, &none, nil); err != nil {
		return err
	}
	var held []net.Conn
	for range greedy {
		if conn, err := net.DialTimeout("tcp", w.gateway.address, time.Second); err == nil {
			held = append(held, conn)
		}
	}
	err = w.pause(ctx, descriptorsGone)
	for _, conn := range held {
		conn.Close()
	}
	if err := errors.Join(err, unix.Prlimit(pid, unix.RLIMIT_NOFILE, &before, nil)); err != nil {
		return err
	}
	return w.settle(ctx)
}}
