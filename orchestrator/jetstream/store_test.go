package jetstream_test

import (
	"log/slog"
	"testing"

	"go.uber.org/goleak"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/jetstream"
	"github.com/kilnfaas/kiln/orchestrator/storetest"
)

func open(t *testing.T, options jetstream.Options) *jetstream.Store {
	t.Helper()
	options.Logger = slog.New(slog.NewTextHandler(t.Output(), nil))
	store, err := jetstream.Open(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return store
}

func TestStoreConformsEmbedded(t *testing.T) {
	storetest.Run(t, func(t *testing.T) orchestrator.Store {
		t.Cleanup(func() { goleak.VerifyNone(t) })
		return open(t, jetstream.Options{Dir: t.TempDir()})
	})
}

func TestSecretsConformEmbedded(t *testing.T) {
	storetest.RunSecrets(t, func(t *testing.T) orchestrator.SecretStore {
		secrets, err := jetstream.NewSecrets(t.Context(), open(t, jetstream.Options{Dir: t.TempDir()}).Server())
		if err != nil {
			t.Fatal(err)
		}
		return secrets
	})
}

func TestTokensConformEmbedded(t *testing.T) {
	storetest.RunTokens(t, func(t *testing.T) orchestrator.TokenStore {
		tokens, err := jetstream.NewTokens(t.Context(), open(t, jetstream.Options{Dir: t.TempDir()}).Server())
		if err != nil {
			t.Fatal(err)
		}
		return tokens
	})
}

func TestTriggersConformEmbedded(t *testing.T) {
	storetest.RunTriggers(t, func(t *testing.T) orchestrator.TriggerStore {
		triggers, err := jetstream.NewTriggers(t.Context(), open(t, jetstream.Options{Dir: t.TempDir()}).Server())
		if err != nil {
			t.Fatal(err)
		}
		return triggers
	})
}

func openBuckets(t *testing.T, store *jetstream.Store) *jetstream.Buckets {
	t.Helper()
	buckets, err := jetstream.NewBuckets(t.Context(), store.Server())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { buckets.Close() })
	return buckets
}

func TestBucketsConformEmbedded(t *testing.T) {
	storetest.RunBuckets(t, func(t *testing.T) orchestrator.Buckets {
		t.Cleanup(func() { goleak.VerifyNone(t) })
		return openBuckets(t, open(t, jetstream.Options{Dir: t.TempDir()}))
	})
}
