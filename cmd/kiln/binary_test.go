package main_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

// Environment variables of the tests.
const (
	envBinary        = "KILN_BIN"            // test this binary instead of building one
	envRace          = "KILN_TEST_RACE"      // "1" builds the binary with the race detector
	envRequireDocker = "KILN_REQUIRE_DOCKER" // "1" makes a missing engine a failure, as CI=true does
)

// scratch is the folder of the binary; TestMain removes it.
var scratch string

func TestMain(m *testing.M) {
	os.Exit(testMain(m))
}

func testMain(m *testing.M) int {
	var err error
	if scratch, err = os.MkdirTemp("", "kiln-test-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(scratch)
	return m.Run()
}

// binary returns the folder with the kiln under test.
func binary(t testing.TB) string {
	t.Helper()
	folder, err := buildBinary()
	if err != nil {
		t.Fatal(err)
	}
	return folder
}

var buildBinary = sync.OnceValues(func() (string, error) {
	if path := os.Getenv(envBinary); path != "" {
		path, err := filepath.Abs(path)
		if err != nil {
			return "", err
		}
		_, err = os.Stat(path)
		return filepath.Dir(path), err
	}
	args, cgo := []string{"build", "-o", filepath.Join(scratch, "kiln")}, "CGO_ENABLED=0" // static, as it runs in containers, too
	if os.Getenv(envRace) == "1" {
		args, cgo = append(args, "-race"), "CGO_ENABLED=1"
	}
	build := exec.Command("go", append(args, ".")...)
	build.Env = append(os.Environ(), cgo)
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return scratch, nil
})
