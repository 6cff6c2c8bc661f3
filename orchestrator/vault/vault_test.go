package vault_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/storetest"
	"github.com/kilnfaas/kiln/orchestrator/vault"
)

const value = "v4lue"

func open(t *testing.T, store orchestrator.SecretStore, key string) *vault.Vault {
	t.Helper()
	v, err := vault.Open(t.Context(), vault.Config{Store: store, KeyFile: key})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func put(t *testing.T, v *vault.Vault, name, value string, functions ...string) orchestrator.Secret {
	t.Helper()
	s, err := v.Put(t.Context(), name, functions, []byte(value))
	if err != nil {
		t.Fatalf("Put(%s): %v", name, err)
	}
	return s
}

func keyFile(t *testing.T) string { return filepath.Join(t.TempDir(), vault.KeyFile) }

// TestSecretsOutliveTheVault opens again what was put, also what was changed.
func TestSecretsOutliveTheVault(t *testing.T) {
	store, key := storetest.NewFakeSecrets(), keyFile(t)
	v := open(t, store, key)
	put(t, v, "A", "first")
	put(t, v, "A", value)
	binary := string([]byte{0, 10, 255, 10})
	put(t, v, "b.c", binary)
	derived := v.Derive("x")
	for range 2 {
		got, err := v.Values("f", []string{"b.c", "A"})
		want := map[string][]byte{"A": []byte(value), "b.c": []byte(binary)}
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("Values (-want +got): %v\n%s", err, diff)
		}
		v = open(t, store, key)
	}
	if !bytes.Equal(v.Derive("x"), derived) || bytes.Equal(v.Derive("y"), derived) || len(derived) != 32 {
		t.Error("a derived key is not one's own, or not the same again")
	}
	if err := v.Remove(t.Context(), "A"); err != nil {
		t.Error(err)
	}
	if err := v.Remove(t.Context(), "A"); !errors.Is(err, orchestrator.ErrNotFound) {
		t.Errorf("Remove again = %v", err)
	}
	if all := open(t, store, key).Secrets(); len(all) != 1 || all[0].Name != "b.c" || all[0].Sealed != nil {
		t.Errorf("Secrets = %+v, want b.c, without what it holds", all)
	}
}

// TestNothingStoredTells looks for a value in what the store gets.
func TestNothingStoredTells(t *testing.T) {
	store := storetest.NewFakeSecrets()
	v := open(t, store, keyFile(t))
	put(t, v, "A", value)
	first := sealed(t, store)
	put(t, v, "A", value)
	again := sealed(t, store)
	if bytes.Contains(first, []byte(value)) || bytes.Equal(first, again) {
		t.Error("the store has the value, or can tell that it is the same again")
	}
}

func sealed(t *testing.T, store orchestrator.SecretStore) []byte {
	t.Helper()
	all, err := store.Secrets(t.Context())
	if err != nil || len(all) != 1 {
		t.Fatal(all, err)
	}
	return all[0].Sealed
}

func TestVersions(t *testing.T) {
	key := keyFile(t)
	seen := map[uint64]bool{}
	for range 2 { // stores, whose own versions begin with the same
		store := storetest.NewFakeSecrets()
		v := open(t, store, key)
		for range 2 {
			put(t, v, "A", value)
			got := v.Versions([]string{"A", "B"})
			if got["A"] == 0 || seen[got["A"]] || got["B"] != 0 {
				t.Errorf("Versions = %v, want another of A, and 0 for B", got)
			}
			seen[got["A"]] = true
			if again := open(t, store, key).Versions([]string{"A"}); again["A"] != got["A"] {
				t.Errorf("opened again: Versions = %v, want %v", again, got)
			}
		}
	}
}

// TestTheKey makes every mistake that there is with a key file.
func TestTheKey(t *testing.T) {
	store, key := storetest.NewFakeSecrets(), keyFile(t)
	v := open(t, store, key)
	info, err := os.Stat(key)
	if err != nil || info.Mode() != 0o600 {
		t.Fatalf("the key file has the mode %v, %v", info.Mode(), err)
	}
	put(t, v, "A", value)
	whole, err := os.ReadFile(key)
	if err != nil {
		t.Fatal(err)
	}
	other := keyFile(t)
	open(t, storetest.NewFakeSecrets(), other)
	for _, tt := range []struct {
		name   string
		change func() error
		code   string
		hint   string
	}{
		{"missing", func() error { return nil }, "secrets-key-missing", "restore the file"},
		{"open to the group", func() error { return os.WriteFile(key, whole, 0o640) }, "secrets-key-unusable", "chmod 600 "},
		{"empty", func() error { return os.WriteFile(key, nil, 0o600) }, "secrets-key-unusable", "backup"},
		{"twice", func() error { return os.WriteFile(key, append(whole, whole...), 0o600) }, "secrets-key-unusable", "backup"},
		{"damaged", func() error { return os.WriteFile(key, whole[:len(whole)-5], 0o600) }, "secrets-key-unusable", "backup"},
		{"another", func() error {
			data, err := os.ReadFile(other)
			return errors.Join(err, os.WriteFile(key, data, 0o600))
		}, "secrets-key-wrong", "use the key file"},
	} {
		if err := os.Remove(key); err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		if err := tt.change(); err != nil {
			t.Fatal(err)
		}
		_, err := vault.Open(t.Context(), vault.Config{Store: store, KeyFile: key})
		var known *orchestrator.Error
		if !errors.As(err, &known) || known.Code != tt.code || !strings.Contains(known.Hint, tt.hint) {
			t.Errorf("%s: got %v, want %s with %q", tt.name, err, tt.code, tt.hint)
		}
		if strings.Contains(fmt.Sprint(err), "SECRET-KEY") {
			t.Errorf("%s: the error has the key: %v", tt.name, err)
		}
	}
	if _, err := os.Stat(key); err != nil {
		t.Fatal(err)
	}
	os.Remove(key)
	if _, err := vault.Open(t.Context(), vault.Config{Store: store, KeyFile: key}); err == nil {
		t.Fatal("opened without its key")
	}
	if _, err := os.Stat(key); err == nil {
		t.Error("a new key was made, over secrets that it does not open")
	}
	if err := os.WriteFile(key, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	open(t, store, key)
	_, err = vault.Open(t.Context(), vault.Config{Store: storetest.NewFakeSecrets(), KeyFile: filepath.Join(t.TempDir(), "absent", "key")})
	wantError(t, err, orchestrator.ErrInvalid, "secrets-key-unusable")
}

// TestSwappedSecrets: who can write to the store cannot give a function another's
// secret.
func TestSwappedSecrets(t *testing.T) {
	store, key := storetest.NewFakeSecrets(), keyFile(t)
	v := open(t, store, key)
	put(t, v, "A", "of a")
	put(t, v, "B", "of b")
	all, err := store.Secrets(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	all[0].Sealed = all[1].Sealed
	if _, err := store.PutSecret(t.Context(), all[0]); err != nil {
		t.Fatal(err)
	}
	if _, err := vault.Open(t.Context(), vault.Config{Store: store, KeyFile: key}); err == nil || strings.Contains(err.Error(), "of b") {
		t.Errorf("got %v, want an error", err)
	}
}

func TestRefusals(t *testing.T) {
	v := open(t, storetest.NewFakeSecrets(), keyFile(t))
	put(t, v, "ours", value, "shop-*")
	put(t, v, "all", value)
	for _, tt := range []struct {
		name, value string
		functions   []string
		class       error
		code        string
	}{
		{"../x", value, nil, orchestrator.ErrInvalid, "secret-invalid"},
		{".x", value, nil, orchestrator.ErrInvalid, "secret-invalid"},
		{"a b", value, nil, orchestrator.ErrInvalid, "secret-invalid"},
		{"", value, nil, orchestrator.ErrInvalid, "secret-invalid"},
		{strings.Repeat("x", 64), value, nil, orchestrator.ErrInvalid, "secret-invalid"},
		{"x", "", nil, orchestrator.ErrInvalid, "secret-empty"},
		{"x", strings.Repeat("x", int(orchestrator.MaxSecret)+1), nil, orchestrator.ErrTooLarge, "secret-too-large"},
		{"x", value, []string{"A_"}, orchestrator.ErrInvalid, "secret-settings-invalid"},
		{"x", value, make([]string, 33), orchestrator.ErrInvalid, "secret-settings-invalid"},
	} {
		_, err := v.Put(t.Context(), tt.name, tt.functions, []byte(tt.value))
		wantError(t, err, tt.class, tt.code)
		if err != nil && strings.Contains(err.Error(), value) {
			t.Errorf("the error has the value: %v", err)
		}
	}
	wantError(t, v.Check("shop-a", []string{"ours", "absent"}), orchestrator.ErrInvalid, "secret-unknown")
	wantError(t, v.Check("mail", []string{"all", "ours"}), orchestrator.ErrInvalid, "secret-denied")
	if err := v.Check("shop-a", []string{"ours", "all"}); err != nil {
		t.Error(err)
	}
	_, err := v.Values("mail", []string{"ours"})
	wantError(t, err, orchestrator.ErrFunction, "secret-denied")
	_, err = v.Values("mail", []string{"absent"})
	wantError(t, err, orchestrator.ErrFunction, "secret-unknown")
}

func wantError(t *testing.T, err, class error, code string) {
	t.Helper()
	var known *orchestrator.Error
	if !errors.Is(err, class) || !errors.As(err, &known) || known.Code != code {
		t.Errorf("got %v, want %v, %s", err, class, code)
	}
}

// TestAFailedWriteChangesNothing: what functions get stays what is stored.
func TestAFailedWriteChangesNothing(t *testing.T) {
	store := storetest.NewFakeSecrets()
	v := open(t, store, keyFile(t))
	put(t, v, "A", value)
	store.Fail(orchestrator.Errorf(orchestrator.ErrUnavailable, "down", "the store is down"))
	if _, err := v.Put(t.Context(), "A", nil, []byte("other")); !errors.Is(err, orchestrator.ErrUnavailable) {
		t.Errorf("Put = %v", err)
	}
	if err := v.Remove(t.Context(), "A"); !errors.Is(err, orchestrator.ErrUnavailable) {
		t.Errorf("Remove = %v", err)
	}
	store.Fail(nil)
	if got, err := v.Values("f", []string{"A"}); err != nil || string(got["A"]) != value {
		t.Errorf("Values = %q, %v", got, err)
	}
	put(t, v, "A", "third") // by the version that is stored
}
