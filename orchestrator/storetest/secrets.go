package storetest

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kilnfaas/kiln/orchestrator"
)

// FakeSecrets is a SecretStore in memory.
type FakeSecrets struct {
	mu       sync.Mutex
	sequence uint64                         // guarded by mu
	secrets  map[string]orchestrator.Secret // guarded by mu
	fail     error                          // guarded by mu; what writes return
}

var _ orchestrator.SecretStore = (*FakeSecrets)(nil)

// NewFakeSecrets returns an empty SecretStore.
func NewFakeSecrets() *FakeSecrets {
	return &FakeSecrets{secrets: map[string]orchestrator.Secret{}}
}

// Fail makes every later write return err; nil ends it.
func (s *FakeSecrets) Fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail = err
}

func copied(secret orchestrator.Secret) orchestrator.Secret {
	secret.Functions, secret.Sealed = slices.Clone(secret.Functions), slices.Clone(secret.Sealed)
	return secret
}

// Secrets implements orchestrator.SecretStore.
func (s *FakeSecrets) Secrets(ctx context.Context) ([]orchestrator.Secret, error) {
	if err := ended(ctx); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]orchestrator.Secret, 0, len(s.secrets))
	for _, name := range slices.Sorted(maps.Keys(s.secrets)) {
		all = append(all, copied(s.secrets[name]))
	}
	return all, nil
}

// PutSecret implements orchestrator.SecretStore.
func (s *FakeSecrets) PutSecret(ctx context.Context, secret orchestrator.Secret) (orchestrator.Secret, error) {
	if err := ended(ctx); err != nil {
		return orchestrator.Secret{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.fail != nil:
		return orchestrator.Secret{}, s.fail
	case s.secrets[secret.Name].Version != secret.Version:
		return orchestrator.Secret{}, orchestrator.Errorf(orchestrator.ErrConflict, "secret-changed", "the secret %s was changed meanwhile", secret.Name)
	}
	s.sequence++
	secret.Version = s.sequence
	s.secrets[secret.Name] = copied(secret)
	return secret, nil
}

// DeleteSecret implements orchestrator.SecretStore.
func (s *FakeSecrets) DeleteSecret(ctx context.Context, name string) error {
	if err := ended(ctx); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail != nil {
		return s.fail
	}
	if _, ok := s.secrets[name]; !ok {
		return orchestrator.Errorf(orchestrator.ErrNotFound, "secret-unknown", "there is no secret %q", name)
	}
	delete(s.secrets, name)
	return nil
}

// RunSecrets checks a SecretStore against its contract, as Run does a Store.
func RunSecrets(t *testing.T, open func(t *testing.T) orchestrator.SecretStore) {
	for _, test := range []struct {
		name string
		run  func(*testing.T, orchestrator.SecretStore)
	}{
		{"SecretIsKeptAsWritten", secretIsKeptAsWritten},
		{"SecretsAreSorted", secretsAreSorted},
		{"WritesAreByVersion", secretWritesAreByVersion},
		{"RemovedSecretStaysRemoved", removedSecretStaysRemoved},
		{"LargestSecretFits", largestSecretFits},
		{"StrangeNamesNameNothing", strangeSecretNames},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, open(t)) })
	}
}

// Secret returns a sealed secret with every field set, for tests to store.
func Secret(name string) orchestrator.Secret {
	created := time.Date(2026, 3, 1, 12, 30, 15, 123456789, time.UTC)
	return orchestrator.Secret{
		Name: name, Functions: []string{"team-a-*"}, Sealed: []byte{1, 2, 0, 255},
		CreatedAt: created, UpdatedAt: created.Add(time.Hour),
	}
}

func putSecret(t *testing.T, s orchestrator.SecretStore, secret orchestrator.Secret) orchestrator.Secret {
	t.Helper()
	put, err := s.PutSecret(t.Context(), secret)
	if err != nil {
		t.Fatalf("PutSecret(%s): %v", secret.Name, err)
	}
	return put
}

func secretNames(t *testing.T, s orchestrator.SecretStore) []string {
	t.Helper()
	all, err := s.Secrets(t.Context())
	if err != nil {
		t.Fatalf("Secrets: %v", err)
	}
	names := []string{}
	for _, secret := range all {
		names = append(names, secret.Name)
	}
	return names
}

func secretIsKeptAsWritten(t *testing.T, s orchestrator.SecretStore) {
	put := putSecret(t, s, Secret("db.password"))
	if put.Version == 0 {
		t.Error("PutSecret returned version 0")
	}
	all, err := s.Secrets(t.Context())
	if diff := cmp.Diff([]orchestrator.Secret{put}, all); err != nil || diff != "" {
		t.Errorf("Secrets (-put +got): %v\n%s", err, diff)
	}
	put.Sealed = []byte("other")
	again := putSecret(t, s, put)
	all, err = s.Secrets(t.Context())
	if diff := cmp.Diff([]orchestrator.Secret{again}, all); err != nil || diff != "" {
		t.Errorf("Secrets after a change (-put +got): %v\n%s", err, diff)
	}
}

func secretsAreSorted(t *testing.T, s orchestrator.SecretStore) {
	if got := secretNames(t, s); len(got) != 0 {
		t.Errorf("Secrets of an empty store = %v", got)
	}
	for _, name := range []string{"b", "A.x", "_c", "a"} {
		putSecret(t, s, Secret(name))
	}
	if diff := cmp.Diff([]string{"A.x", "_c", "a", "b"}, secretNames(t, s)); diff != "" {
		t.Errorf("Secrets (-want +got):\n%s", diff)
	}
}

func secretWritesAreByVersion(t *testing.T, s orchestrator.SecretStore) {
	old := putSecret(t, s, Secret("abc"))
	if _, err := s.PutSecret(t.Context(), Secret("abc")); !errors.Is(err, orchestrator.ErrConflict) {
		t.Errorf("PutSecret of what exists = %v, want ErrConflict", err)
	}
	putSecret(t, s, old)
	if _, err := s.PutSecret(t.Context(), old); !errors.Is(err, orchestrator.ErrConflict) {
		t.Errorf("PutSecret of an old version = %v, want ErrConflict", err)
	}
}

func removedSecretStaysRemoved(t *testing.T, s orchestrator.SecretStore) {
	put := putSecret(t, s, Secret("abc"))
	if err := s.DeleteSecret(t.Context(), "abc"); err != nil {
		t.Fatalf("DeleteSecret: %v", err)
	}
	if got := secretNames(t, s); len(got) != 0 {
		t.Errorf("Secrets after the removal = %v", got)
	}
	if err := s.DeleteSecret(t.Context(), "abc"); !errors.Is(err, orchestrator.ErrNotFound) {
		t.Errorf("DeleteSecret again = %v, want ErrNotFound", err)
	}
	if _, err := s.PutSecret(t.Context(), put); !errors.Is(err, orchestrator.ErrConflict) {
		t.Errorf("PutSecret of a removed secret = %v, want ErrConflict", err)
	}
	putSecret(t, s, Secret("abc"))
}

func largestSecretFits(t *testing.T, s orchestrator.SecretStore) {
	secret := Secret("abc")
	secret.Sealed = make([]byte, orchestrator.MaxSecret+orchestrator.KiB)
	put := putSecret(t, s, secret)
	all, err := s.Secrets(t.Context())
	if diff := cmp.Diff([]orchestrator.Secret{put}, all); err != nil || diff != "" {
		t.Errorf("Secrets (-put +got): %v\n%s", err, diff)
	}
}

func strangeSecretNames(t *testing.T, s orchestrator.SecretStore) {
	putSecret(t, s, Secret("abc"))
	for _, name := range []string{"", "*", ">", "a.b", "abc ", "ab\x00"} {
		if err := s.DeleteSecret(t.Context(), name); !errors.Is(err, orchestrator.ErrNotFound) {
			t.Errorf("DeleteSecret(%q) = %v, want ErrNotFound", name, err)
		}
	}
	if got := secretNames(t, s); len(got) != 1 {
		t.Errorf("Secrets = %v, want abc alone", got)
	}
}
