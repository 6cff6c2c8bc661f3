package storetest_test

import (
	"testing"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/storetest"
)

func TestFakeConforms(t *testing.T) {
	storetest.Run(t, func(*testing.T) orchestrator.Store { return storetest.NewFake() })
}

func TestFakeTokensConform(t *testing.T) {
	storetest.RunTokens(t, func(*testing.T) orchestrator.TokenStore { return storetest.NewFakeTokens() })
}

func TestFakeTriggersConform(t *testing.T) {
	storetest.RunTriggers(t, func(*testing.T) orchestrator.TriggerStore { return storetest.NewFakeTriggers() })
}

func TestFakeSecretsConform(t *testing.T) {
	storetest.RunSecrets(t, func(*testing.T) orchestrator.SecretStore { return storetest.NewFakeSecrets() })
}

func TestFakeBucketsConform(t *testing.T) {
	storetest.RunBuckets(t, func(*testing.T) orchestrator.Buckets { return storetest.NewFakeBuckets() })
}
