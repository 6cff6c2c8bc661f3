package main_test

import (
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestEngine runs the scripts that share one gateway on the real engine: what
// each language's functions can do, from their first file to their removal.
func TestEngine(t *testing.T) {
	t.Parallel()
	requireEngine(t)
	bin := binary(t)
	shared, err := newGateway(bin, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the gateway's log:\n%s", shared.logTail())
		}
		// Cells wait until the gateway sees that no function needs them any more.
		left, err := shared.leftovers()
		for end := time.Now().Add(leftoversTimeout); err == nil && !t.Failed() && len(left) > 0 && time.Now().Before(end); {
			time.Sleep(pollInterval)
			left, err = shared.leftovers()
		}
		if err != nil || !t.Failed() && len(left) > 0 {
			t.Errorf("the scripts removed their functions and left behind: %v, %v", left, err)
		}
		if err := shared.destroy(); err != nil {
			t.Error(err)
		}
	})
	if err := shared.start(); err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir:                "testdata/engine",
		Setup:              setup(bin, shared, false),
		Cmds:               commands,
		Condition:          condition,
		RequireUniqueNames: true,
	})
}

// TestGateway runs the scripts that have a gateway each, because they stop,
// kill and restart it. Beside those of TestEngine: some of either do little but wait.
func TestGateway(t *testing.T) {
	t.Parallel()
	requireEngine(t)
	bin := binary(t)
	testscript.Run(t, testscript.Params{
		Dir:                "testdata/gateway",
		Setup:              setup(bin, nil, true),
		Cmds:               commands,
		Condition:          condition,
		RequireUniqueNames: true,
	})
}
