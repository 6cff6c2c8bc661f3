package storetest

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kilnfaas/kiln/orchestrator"
)

// FakeSecrets is a SecretStore in memory.
type FakeSecrets struct {
	secrets *records[string, orchestrator.Secret] // by name

	mu   sync.Mutex
	fail error // guarded by mu; what writes return
}

var _ orchestrator.SecretStore = (*FakeSecrets)(nil)

// NewFakeSecrets returns an empty SecretStore.
func NewFakeSecrets() *FakeSecrets {
	return &FakeSecrets{secrets: newRecords("secret", strings.Compare, func(s *orchestrator.Secret) *uint64 { return &s.Version })}
}

// Fail makes every later write return err; nil ends it.
func (s *FakeSecrets) Fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail = err
}

func (s *FakeSecrets) failure() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.fail
}

// Secrets implements orchestrator.SecretStore.
func (s *FakeSecrets) Secrets(ctx context.Context) ([]orchestrator.Secret, error) {
	return s.secrets.list(ctx)
}

// PutSecret implements orchestrator.SecretStore.
func (s *FakeSecrets) PutSecret(ctx context.Context, secret orchestrator.Secret) (orchestrator.Secret, error) {
	if err := s.failure(); err != nil {
		return orchestrator.Secret{}, err
	}
	return s.secrets.put(ctx, secret.Name, secret)
}

// DeleteSecret implements orchestrator.SecretStore.
func (s *FakeSecrets) DeleteSecret(ctx context.Context, name string) error {
	if err := s.failure(); err != nil {
		return err
	}
	ok, err := s.secrets.remove(ctx, name, whatever)
	if err == nil && !ok {
		err = orchestrator.Errorf(orchestrator.ErrNotFound, "secret-unknown", "there is no secret %q", name)
	}
	return err
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
