package enginetest_test

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/enginetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newFake(t *testing.T) *enginetest.Fake {
	t.Helper()
	fake := enginetest.NewFake()
	t.Cleanup(func() {
		if err := fake.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return fake
}

func TestFakeConforms(t *testing.T) {
	enginetest.Run(t, func(t *testing.T) enginetest.Subject {
		fake := newFake(t)
		fake.AddImage("probe:1", enginetest.Probe(), nil)
		return enginetest.Subject{
			Engine: fake, Images: fake, Builder: fake,
			Probe: "probe:1", Prefix: "fake", Network: "bridge",
			Labels: map[string]string{orchestrator.LabelOwner: t.Name()},
		}
	})
}
