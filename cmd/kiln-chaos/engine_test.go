package main

import (
	"io"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestShimsEndWithTheirEngine, and those of other engines go on.
func TestShimsEndWithTheirEngine(t *testing.T) {
	ours, theirs := &engine{dir: t.TempDir()}, &engine{dir: t.TempDir()}
	shim := func(e *engine) (*exec.Cmd, io.Closer) {
		cmd := exec.Command("sh", "-c", "read forever", "-address", filepath.Join(e.dir, "exec", "containerd", "containerd.sock"))
		cmd.Args[0] = "containerd-shim-runc-v2"
		input, err := cmd.StdinPipe() // its end ends it
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
		return cmd, input
	}
	ended, _ := shim(ours)
	stays, input := shim(theirs)
	if err := ours.endShims(); err != nil {
		t.Fatal(err)
	}
	if err := ended.Wait(); err == nil || err.Error() != "signal: killed" {
		t.Errorf("the engine's own shim ended with %v, want it killed", err)
	}
	if err := input.Close(); err != nil {
		t.Fatal(err)
	}
	if err := stays.Wait(); err == nil || err.Error() != "exit status 1" {
		t.Errorf("the other engine's shim ended with %v, want it to go on until its input ends", err)
	}
}
