package orchestrator_test

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/storetest"
	"github.com/kilnfaas/kiln/orchestrator/vault"
)

// withVault opens a service with the secrets A and B.
func withVault(t *testing.T, store orchestrator.Store) *bench {
	t.Helper()
	b := open(t, store)
	v, err := vault.Open(t.Context(), vault.Config{Store: storetest.NewFakeSecrets(), KeyFile: filepath.Join(t.TempDir(), "key")})
	if err != nil {
		t.Fatal(err)
	}
	b.Vault = v
	for _, name := range []string{"A", "B"} {
		b.set(t, name)
	}
	return b
}

// set changes a secret and returns what became of the functions that use it.
func (b *bench) set(t *testing.T, name string, functions ...string) []orchestrator.Rolled {
	t.Helper()
	_, rolled, err := b.SetSecret(t.Context(), name, functions, []byte("v4lue"))
	if err != nil {
		t.Fatalf("SetSecret(%s): %v", name, err)
	}
	return rolled
}

func secretive(name string, secrets ...string) orchestrator.Spec {
	s := spec(name)
	s.Secrets = secrets
	return s
}

func TestAChangedSecretRollsWhoUsesIt(t *testing.T) {
	b := withVault(t, newStore(t))
	b.mustDeploy(t, secretive("uses", "A"), "sha256:a")
	b.mustDeploy(t, secretive("other", "B"), "sha256:a")
	b.mustDeploy(t, spec("none"), "sha256:a")
	b.fleet.ready = 1
	old := map[string]string{}
	for _, name := range []string{"uses", "other", "none"} {
		old[name] = b.fleet.live(name).ConfigHash()
	}
	rolled := b.set(t, "A")
	if len(rolled) != 1 || rolled[0].Function != "uses" || rolled[0].Err != nil {
		t.Errorf("rolled %+v, want uses alone", rolled)
	}
	for name, hash := range old {
		if changed := b.fleet.live(name).ConfigHash() != hash; changed != (name == "uses") {
			t.Errorf("instances of %s are others now: %t", name, changed)
		}
	}
	if n := b.fleet.proven[b.fleet.live("uses").Revision.ID]; n != 2 {
		t.Errorf("%d proofs, want one of the deploy and one of the roll", n)
	}
	// Nothing runs: there is nothing to prove, and the next start has the value.
	b.fleet.ready = 0
	hash := b.fleet.live("uses").ConfigHash()
	b.set(t, "A")
	if n := b.fleet.proven[b.fleet.live("uses").Revision.ID]; n != 2 || b.fleet.live("uses").ConfigHash() == hash {
		t.Errorf("%d proofs, want none more, and other instances", n)
	}
}

func TestAFailedRollKeepsWhatRuns(t *testing.T) {
	b := withVault(t, newStore(t))
	b.mustDeploy(t, secretive("uses", "A"), "sha256:a")
	b.fleet.ready = 1
	hash := b.fleet.live("uses").ConfigHash()
	b.fleet.refuse = orchestrator.Errorf(orchestrator.ErrFunction, "instance-start-failed", "it does not start")
	if rolled := b.set(t, "A"); len(rolled) != 1 || !errors.Is(rolled[0].Err, orchestrator.ErrFunction) {
		t.Errorf("rolled %+v, want a failure", rolled)
	}
	if b.fleet.live("uses").ConfigHash() != hash {
		t.Error("callers were led to what does not start")
	}
	// Other settings do not lead them there either.
	change := func(s orchestrator.Spec) (orchestrator.Spec, error) {
		s.Scale.Max = 3
		return s, nil
	}
	if _, _, err := b.Configure(t.Context(), "uses", change); err != nil || b.fleet.live("uses").ConfigHash() != hash || b.fleet.live("uses").Spec.Scale.Max != 3 {
		t.Errorf("Configure = %v; what answers has scale.max %d", err, b.fleet.live("uses").Spec.Scale.Max)
	}
	b.fleet.refuse = nil
	if _, _, err := b.Configure(t.Context(), "uses", change); err != nil || b.fleet.live("uses").ConfigHash() == hash {
		t.Errorf("Configure = %v, and the new secret is in use: %t", err, b.fleet.live("uses").ConfigHash() != hash)
	}
}

func TestASecretThatChangesDuringADeploy(t *testing.T) {
	b := withVault(t, newStore(t))
	b.mustDeploy(t, secretive("uses", "A"), "sha256:a")
	b.fleet.ready = 1
	b.fleet.during = func() {
		b.fleet.during = nil
		if _, err := b.Vault.Put(context.Background(), "A", nil, []byte("later")); err != nil {
			t.Error(err)
		}
	}
	b.mustDeploy(t, secretive("uses", "A"), "sha256:b")
	if got, want := b.fleet.live("uses").Secrets, b.Vault.Versions([]string{"A"}); !cmp.Equal(got, want) {
		t.Errorf("the release that answers has %v, want %v", got, want)
	}
}

// TestASecretThatChangedMeanwhile: a gateway that starts must not adopt instances
// with the old value.
func TestASecretThatChangedMeanwhile(t *testing.T) {
	store := newStore(t)
	b := withVault(t, store)
	b.mustDeploy(t, secretive("uses", "A"), "sha256:a")
	hash, version := b.fleet.live("uses").ConfigHash(), b.Vault.Versions([]string{"A"})["A"]
	b.Close()
	for range 2 {
		next := open(t, store)
		next.Close()
		next.Vault = b.Vault
		if err := next.Open(t.Context()); err != nil {
			t.Fatal(err)
		}
		same := next.fleet.live("uses").ConfigHash() == hash
		if unchanged := b.Vault.Versions([]string{"A"})["A"] == version; same != unchanged {
			t.Errorf("the secret is the same: %t, the instances: %t", unchanged, same)
		}
		if _, err := b.Vault.Put(t.Context(), "A", nil, []byte("later")); err != nil {
			t.Fatal(err)
		}
	}
}

func TestSecretRefusals(t *testing.T) {
	b := withVault(t, newStore(t))
	b.set(t, "OURS", "shop-*")
	deploy := func(s orchestrator.Spec) error {
		_, _, err := b.Deploy(t.Context(), orchestrator.Deploy{Spec: s, ArchiveDigest: "sha256:a"}, quiet)
		return err
	}
	wantCode(t, deploy(secretive("uses", "ABSENT")), "secret-unknown", "kiln secret set ABSENT")
	wantCode(t, deploy(secretive("mail", "OURS")), "secret-denied", "--function")
	if b.builder.builds != 0 {
		t.Errorf("%d builds of what cannot start", b.builder.builds)
	}
	b.mustDeploy(t, secretive("shop-a", "A", "OURS"), "sha256:a")
	b.mustDeploy(t, spec("shop-a"), "sha256:a")
	b.mustDeploy(t, secretive("shop-b", "A"), "sha256:a")
	wantCode(t, b.RemoveSecret(t.Context(), "A"), "secret-in-use", "kiln secret set A")
	_, _, err := b.SetSecret(t.Context(), "A", []string{"mail"}, []byte("x"))
	wantCode(t, err, "secret-in-use", "")
	hooked := spec("hooked")
	hooked.Triggers = []orchestrator.Trigger{{Name: "pushes", Type: "k", Settings: orchestrator.Settings{"secret": "B"}}}
	b.mustDeploy(t, hooked, "sha256:a")
	_, _, err = b.SetSecret(t.Context(), "B", []string{"mail"}, []byte("x"))
	wantCode(t, err, "secret-in-use", "")
	wantCode(t, b.RemoveSecret(t.Context(), "B"), "secret-in-use", "kiln secret set B")
	if rolled := b.set(t, "B"); len(rolled) != 0 {
		t.Errorf("rolled %+v, whose instances do not have it", rolled)
	}
	if err := b.RemoveSecret(t.Context(), "OURS"); err != nil {
		t.Errorf("RemoveSecret of one that only an old revision uses: %v", err)
	}
	_, _, err = b.Rollback(t.Context(), "shop-a", "")
	wantCode(t, err, "secret-unknown", "kiln secret set OURS")
	infos, err := b.Secrets(t.Context())
	if err != nil || len(infos) != 2 || !cmp.Equal(infos[0].UsedBy, []string{"shop-b"}) || !cmp.Equal(infos[1].UsedBy, []string{"hooked"}) || infos[0].Sealed != nil {
		t.Errorf("Secrets = %+v, %v", infos, err)
	}
	none := open(t, newStore(t))
	wantCode(t, none.RemoveSecret(t.Context(), "A"), "secrets-unavailable", "")
	_, _, err = none.Deploy(t.Context(), orchestrator.Deploy{Spec: secretive("uses", "A"), ArchiveDigest: "sha256:a"}, quiet)
	wantCode(t, err, "secrets-unavailable", "")
}

func wantCode(t *testing.T, err error, code, hint string) {
	t.Helper()
	var known *orchestrator.Error
	if !errors.As(err, &known) || known.Code != code || !strings.Contains(known.Hint, hint) {
		t.Errorf("got %v, want %s with %q", err, code, hint)
	}
}
