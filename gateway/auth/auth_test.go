package auth_test

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kilnfaas/kiln/gateway/auth"
	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/storetest"
)

func open(t *testing.T, store orchestrator.TokenStore) *auth.Guard {
	t.Helper()
	guard, err := auth.Open(context.Background(), auth.Config{Store: store})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { guard.Close() })
	return guard
}

func create(t *testing.T, g *auth.Guard, token orchestrator.Token) string {
	t.Helper()
	_, secret, err := g.Create(t.Context(), token)
	if err != nil {
		t.Fatal(err)
	}
	return secret
}

func scopes(all ...orchestrator.Scope) []orchestrator.Scope { return all }

// code returns the code of an error, "" for none.
func code(err error) string {
	if known, ok := errors.AsType[*orchestrator.Error](err); ok {
		return known.Code
	}
	return ""
}

// TestOnlyTheTokenItselfIsValid changes each byte of a token.
func TestOnlyTheTokenItselfIsValid(t *testing.T) {
	g := open(t, storetest.NewFakeTokens())
	secret := create(t, g, orchestrator.Token{Name: "a", Scopes: scopes(orchestrator.ScopeRead)})
	for _, scheme := range []string{"Bearer ", "bearer ", "BEARER "} {
		if _, err := g.Identify(scheme + secret); err != nil {
			t.Errorf("Identify with %q: %v", scheme, err)
		}
	}
	for i := range secret {
		changed := []byte(secret)
		changed[i]++
		if _, err := g.Identify("Bearer " + string(changed)); code(err) != orchestrator.CodeTokenInvalid {
			t.Errorf("with byte %d changed: %v, want %s", i, err, orchestrator.CodeTokenInvalid)
		}
	}
	for _, header := range []string{"", "Bearer", "Bearer ", secret, "Bearer " + secret + "A", "Bearer " + secret[:len(secret)-1], "Basic " + secret, "Bearer kiln_", "Bearer " + strings.Repeat("k", 1<<16)} {
		if _, err := g.Identify(header); !errors.Is(err, orchestrator.ErrDenied) {
			t.Errorf("Identify(%.40q) = %v, want ErrDenied", header, err)
		}
	}
}

// TestOnlyTheHashIsStored looks for the secret in what the store keeps.
func TestOnlyTheHashIsStored(t *testing.T) {
	store := storetest.NewFakeTokens()
	secret := create(t, open(t, store), orchestrator.Token{Name: "a", Scopes: scopes(orchestrator.ScopeRead)})
	random := secret[len("kiln_")+11:]
	stored, err := store.Tokens(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	written, err := json.Marshal(stored)
	if err != nil || strings.Contains(string(written), random) {
		t.Errorf("the store keeps the secret: %s, %v", written, err)
	}
	if sum := sha256.Sum256([]byte(random)); string(stored[0].Hash) != string(sum[:]) {
		t.Error("the store does not keep the SHA-256 of the secret")
	}
	if len(random) != 43 { // 32 bytes in base64
		t.Errorf("the secret has %d characters, want 43", len(random))
	}
	for i := range stored[0].Hash { // all of it counts
		almost := stored[0]
		almost.Hash = slices.Clone(almost.Hash)
		almost.Hash[i] ^= 1
		if almost, err = store.PutToken(t.Context(), almost); err != nil {
			t.Fatal(err)
		}
		stored[0].Version = almost.Version
		if _, err := open(t, store).Identify("Bearer " + secret); code(err) != orchestrator.CodeTokenInvalid {
			t.Errorf("with byte %d of the hash changed: %v, want %s", i, err, orchestrator.CodeTokenInvalid)
		}
	}
	other := create(t, open(t, store), orchestrator.Token{Name: "b", Scopes: scopes(orchestrator.ScopeRead)})
	if other[16:] == secret[16:] {
		t.Error("two tokens have the same secret")
	}
}

// TestTokensSurviveARestart opens another guard on the same store.
func TestTokensSurviveARestart(t *testing.T) {
	store := storetest.NewFakeTokens()
	first := open(t, store)
	kept := create(t, first, orchestrator.Token{Name: "kept", Scopes: scopes(orchestrator.ScopeRead)})
	gone := create(t, first, orchestrator.Token{Name: "gone", Scopes: scopes(orchestrator.ScopeRead)})
	if _, err := first.Remove(t.Context(), "gone"); err != nil {
		t.Fatal(err)
	}
	second := open(t, store)
	if _, err := second.Identify("Bearer " + kept); err != nil {
		t.Errorf("a token after the restart: %v", err)
	}
	for _, g := range []*auth.Guard{first, second} {
		if _, err := g.Identify("Bearer " + gone); code(err) != orchestrator.CodeTokenInvalid {
			t.Errorf("a removed token = %v, want %s", err, orchestrator.CodeTokenInvalid)
		}
	}
}

// failing is a store that takes no changes any more.
type failing struct{ orchestrator.TokenStore }

var errDown = orchestrator.Errorf(orchestrator.ErrUnavailable, "down", "the store is down")

func (failing) PutToken(context.Context, orchestrator.Token) (orchestrator.Token, error) {
	return orchestrator.Token{}, errDown
}
func (failing) DeleteToken(context.Context, string) error { return errDown }

// TestChangesThatAreNotStoredDoNotHappen neither makes nor removes.
func TestChangesThatAreNotStoredDoNotHappen(t *testing.T) {
	store := storetest.NewFakeTokens()
	secret := create(t, open(t, store), orchestrator.Token{Name: "a", Scopes: scopes(orchestrator.ScopeRead)})
	g := open(t, failing{store})
	if _, _, err := g.Create(t.Context(), orchestrator.Token{Name: "b", Scopes: scopes(orchestrator.ScopeRead)}); !errors.Is(err, errDown) {
		t.Errorf("Create = %v, want the store's error", err)
	}
	if _, err := g.Remove(t.Context(), "a"); !errors.Is(err, errDown) {
		t.Errorf("Remove = %v, want the store's error", err)
	}
	if _, err := g.Identify("Bearer " + secret); err != nil {
		t.Errorf("a token whose removal failed: %v", err)
	}
	if got := g.Tokens(); len(got) != 1 || got[0].Name != "a" {
		t.Errorf("Tokens = %v, want a alone", got)
	}
}

func TestExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := open(t, storetest.NewFakeTokens())
		secret := create(t, g, orchestrator.Token{Name: "a", Scopes: scopes(orchestrator.ScopeRead), ExpiresAt: time.Now().Add(time.Hour)})
		time.Sleep(time.Hour - time.Second)
		if _, err := g.Identify("Bearer " + secret); err != nil {
			t.Errorf("before the end: %v", err)
		}
		time.Sleep(time.Second)
		if _, err := g.Identify("Bearer " + secret); code(err) != orchestrator.CodeTokenExpired {
			t.Errorf("after it: %v, want %s", err, orchestrator.CodeTokenExpired)
		}
	})
}

// TestLastUse is written back within minutes, once for many uses, and at the end.
func TestLastUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := storetest.NewFakeTokens()
		g := open(t, store)
		secret := create(t, g, orchestrator.Token{Name: "a", Scopes: scopes(orchestrator.ScopeRead)})
		lastUse := func() (time.Time, uint64) {
			all, err := store.Tokens(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			return all[0].LastUsed, all[0].Version
		}
		time.Sleep(10 * time.Minute)
		if used, _ := lastUse(); !used.IsZero() {
			t.Errorf("last use of a token that was never used = %v", used)
		}
		first := time.Now()
		for range 50 {
			if _, err := g.Identify("Bearer " + secret); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
		}
		time.Sleep(2 * time.Minute)
		used, version := lastUse()
		if d := used.Sub(first).Abs(); d > time.Minute || version != 2 {
			t.Errorf("last use = %v after the first, version %d; want about 0 and one write", d, version)
		}
		if _, err := g.Identify("Bearer " + secret); err != nil {
			t.Fatal(err)
		}
		now := time.Now()
		if err := g.Close(); err != nil {
			t.Fatal(err)
		}
		if used, _ := lastUse(); now.Sub(used).Abs() > time.Second {
			t.Errorf("last use after Close = %v, want %v", used, now)
		}
	})
}

func TestScopesAndPatterns(t *testing.T) {
	const admin, deploy, invoke, read = orchestrator.ScopeAdmin, orchestrator.ScopeDeploy, orchestrator.ScopeInvoke, orchestrator.ScopeRead
	for has, can := range map[orchestrator.Scope][]orchestrator.Scope{
		admin: {admin, deploy, invoke, read}, deploy: {deploy, read, "files", "files-read"}, invoke: {invoke}, read: {read, "files-read"}, "files": {"files", "files-read"}, "files-read": {"files-read"},
	} {
		token := orchestrator.Token{Scopes: scopes(has)}
		granted := map[orchestrator.Scope]bool{}
		for _, scope := range can {
			granted[scope] = true
		}
		for _, scope := range append(orchestrator.Scopes(), "", "other") {
			if got := token.Can(scope); got != granted[scope] && has != admin {
				t.Errorf("%s can %q = %t", has, scope, got)
			}
		}
	}
	token := orchestrator.Token{Functions: []string{"team-a-*", "one", "v?"}}
	for name, want := range map[string]bool{"team-a-x": true, "team-a-": true, "team-b": false, "one": true, "one1": false, "v1": true, "v10": false, "": false} {
		if got := token.For(name); got != want {
			t.Errorf("For(%q) = %t, want %t", name, got, want)
		}
	}
	if (auth.Caller{}).May(read) == nil || (auth.Caller{}).For("a") == nil || !(auth.Caller{}).Bound() {
		t.Error("the zero caller may something")
	}
}

func TestWhatATokenMayNotBe(t *testing.T) {
	g := open(t, storetest.NewFakeTokens())
	read := scopes(orchestrator.ScopeRead)
	for what, token := range map[string]orchestrator.Token{
		"no name":        {Scopes: read},
		"a strange name": {Name: "A b", Scopes: read},
		"no scope":       {Name: "a"},
		"an odd scope":   {Name: "a", Scopes: scopes("root")},
		"a bad pattern":  {Name: "a", Scopes: read, Functions: []string{"[a-"}},
		"a bound admin":  {Name: "a", Scopes: scopes(orchestrator.ScopeAdmin), Functions: []string{"a"}},
		"a bad rate":     {Name: "a", Scopes: read, Rate: orchestrator.Rate{PerSecond: -1}},
		"a lone burst":   {Name: "a", Scopes: read, Rate: orchestrator.Rate{Burst: 1}},
		"an early end":   {Name: "a", Scopes: read, ExpiresAt: time.Now().Add(-time.Second)},
	} {
		if _, _, err := g.Create(t.Context(), token); !errors.Is(err, orchestrator.ErrInvalid) {
			t.Errorf("%s: %v, want ErrInvalid", what, err)
		}
	}
}

// TestFirstToken is made once, kept for its owner alone, and made again when an
// administrator asks with an empty file.
func TestFirstToken(t *testing.T) {
	dir, store := t.TempDir(), storetest.NewFakeTokens()
	g := open(t, store)
	ensure := func() string {
		secret, err := g.EnsureAdmin(t.Context(), dir)
		if err != nil {
			t.Fatal(err)
		}
		return secret
	}
	path := filepath.Join(dir, auth.AdminFile)
	first := ensure()
	caller, err := g.Identify("Bearer " + first)
	if err != nil || caller.May(orchestrator.ScopeAdmin) != nil {
		t.Fatalf("the first token is no administrator's: %v", err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 || auth.ReadAdmin(dir) != first {
		t.Errorf("the file has not the token with mode 0600: %v, %v", info, err)
	}
	if again := ensure(); again != "" {
		t.Error("there are two first tokens")
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if again := ensure(); again != "" {
		t.Error("a file that was taken away is no request for a token")
	}
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	second := ensure()
	info, err = os.Stat(path)
	if _, denied := g.Identify("Bearer " + second); denied != nil || err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("an empty file gives no token that works: %v, %v, %v", denied, info, err)
	}
	if err := auth.ForgetAdmin(dir, caller.ID()); err != nil || auth.ReadAdmin(dir) != second {
		t.Errorf("the file of another token was removed: %v", err)
	}
	caller, _ = g.Identify("Bearer " + second)
	if err := auth.ForgetAdmin(dir, caller.ID()); err != nil || auth.ReadAdmin(dir) != "" {
		t.Errorf("the file of a removed token is still there: %v", err)
	}
}

// TestIdentifyAllocatesNothing keeps the check fit for the data plane.
func TestIdentifyAllocatesNothing(t *testing.T) {
	g := open(t, storetest.NewFakeTokens())
	header := "Bearer " + create(t, g, orchestrator.Token{Name: "a", Scopes: scopes(orchestrator.ScopeInvoke)})
	if n := testing.AllocsPerRun(100, func() {
		if _, err := g.Identify(header); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("Identify allocates %v times", n)
	}
}
