package main

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// Environment variables of the tests, as in cmd/kiln.
const (
	envBinary        = "KILN_BIN"
	envRequireDocker = "KILN_REQUIRE_DOCKER"
)

// testTime bounds the short run on a machine that is busy with all else.
const testTime = 12 * time.Minute

// TestChaos is the short form, one to three minutes on the machine's engine: the table's
// last columns are zero.
func TestChaos(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes minutes")
	}
	if os.Geteuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("CI=true and not root: it mounts a small file system and kills processes of containers")
		}
		t.Skip("SKIPPED, not root: it mounts a small file system and kills processes of containers")
	}
	ctx, cancel := context.WithTimeout(t.Context(), testTime)
	defer cancel()
	if out, err := exec.CommandContext(ctx, "docker", "version", "--format", "{{.Server.Version}}").CombinedOutput(); err != nil {
		if os.Getenv("CI") == "true" || os.Getenv(envRequireDocker) == "1" {
			t.Fatalf("no container engine: %v\n%s", err, out)
		}
		t.Skipf("SKIPPED, no container engine: %v\n%s", err, out)
	}
	chaos := exec.CommandContext(ctx, program(t, "kiln-chaos"), "-short", "-kiln", program(t, "kiln"))
	chaos.Cancel = func() error { return chaos.Process.Signal(os.Interrupt) }
	chaos.WaitDelay = leaveTimeout
	var table, progress bytes.Buffer
	chaos.Stdout, chaos.Stderr = &table, &progress
	err := chaos.Run()
	t.Logf("\n%s", table.Bytes())
	if err != nil {
		t.Errorf("%v\n%s", err, progress.Bytes())
	}
}

// program returns a program of this repository: beside KILN_BIN, or built.
func program(t *testing.T, name string) string {
	t.Helper()
	if kiln := os.Getenv(envBinary); kiln != "" {
		return filepath.Join(filepath.Dir(kiln), name)
	}
	path := filepath.Join(t.TempDir(), name)
	if out, err := exec.Command("go", "build", "-o", path, "github.com/kilnfaas/kiln/cmd/"+name).CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", name, err, out)
	}
	return path
}
