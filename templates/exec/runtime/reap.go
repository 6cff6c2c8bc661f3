package main

import (
	"bytes"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// reapInterval bounds how often orphans are looked for.
const reapInterval = time.Second

// family knows which children somebody waits for.
type family struct {
	mu   sync.Mutex // guards pids; held while a child is started
	pids map[int]bool
}

var children = family{pids: map[int]bool{}}

func (f *family) start(cmd *exec.Cmd) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	err := cmd.Start()
	if err == nil {
		f.pids[cmd.Process.Pid] = true
	}
	return err
}

func (f *family) wait(cmd *exec.Cmd) error {
	err := cmd.Wait()
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.pids, cmd.Process.Pid)
	return err
}

// reapOrphans collects the dead that were left to this process, which is the
// container's first. It runs as long as the process.
func reapOrphans() {
	if os.Getpid() != 1 {
		return
	}
	died := make(chan os.Signal, 1)
	signal.Notify(died, syscall.SIGCHLD)
	for range died {
		children.reap()
		time.Sleep(reapInterval)
	}
}

func (f *family) reap() {
	f.mu.Lock()
	defer f.mu.Unlock()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return
	}
	for _, name := range stats {
		data, err := os.ReadFile(name)
		if err != nil {
			continue // ended meanwhile
		}
		// "PID (NAME) STATE PPID …", and NAME may contain anything.
		fields := bytes.Fields(data[bytes.LastIndexByte(data, ')')+1:])
		if len(fields) < 2 || string(fields[0]) != "Z" || string(fields[1]) != "1" {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(name)))
		if err == nil && !f.pids[pid] {
			syscall.Wait4(pid, nil, syscall.WNOHANG, nil)
		}
	}
}
