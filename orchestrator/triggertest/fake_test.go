package triggertest_test

import (
	"testing"

	"github.com/kilnfaas/kiln/orchestrator/triggertest"
)

func TestFakeConforms(t *testing.T) {
	triggertest.Run(t, func(*testing.T) triggertest.World { return triggertest.FakeWorld() })
}

func TestFakeConformsInBubbles(t *testing.T) {
	triggertest.RunBubbles(t, func(*testing.T) triggertest.World { return triggertest.FakeWorld() })
}
