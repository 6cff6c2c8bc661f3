package main

import (
	"os"
	"os/exec"
	"slices"
	"syscall"
	"testing"
	"time"
)

// TestFamilyCPUTime finds a grandchild and what it used.
func TestFamilyCPUTime(t *testing.T) {
	cmd := exec.Command("sh", "-c", "(while :; do :; done) & wait")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // so that all of it ends, found or not
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		cmd.Wait()
	}()
	var pids []int
	if err := waitFor("the grandchild's work", 10*time.Second, func() error {
		if pids = family(cmd.Process.Pid); len(pids) < 2 || cpuTime(pids[1:]) < 5*clockTick {
			return os.ErrNotExist
		}
		return nil
	}); err != nil {
		t.Fatalf("%v; family %v, CPU time %v", err, pids, cpuTime(pids))
	}
	if !slices.Contains(family(os.Getpid()), pids[1]) {
		t.Errorf("family(%d) does not reach the grandchild %d", os.Getpid(), pids[1])
	}
}
