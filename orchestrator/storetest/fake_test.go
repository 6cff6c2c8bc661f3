package storetest_test

import (
	"testing"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/storetest"
)

func TestFakeConforms(t *testing.T) {
	storetest.Run(t, func(*testing.T) orchestrator.Store { return storetest.NewFake() })
}
