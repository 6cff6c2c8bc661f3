package queuetest_test

import (
	"testing"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/queuetest"
)

func TestFakeConforms(t *testing.T) {
	queuetest.Run(t, func(*testing.T) (orchestrator.Journal, func() orchestrator.Journal) {
		fake := queuetest.NewFake()
		return fake, func() orchestrator.Journal { return fake }
	})
}
