package storetest

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kilnfaas/kiln/orchestrator"
)

// FakeTokens is a TokenStore in memory.
type FakeTokens struct {
	tokens *records[string, orchestrator.Token] // by id
}

var _ orchestrator.TokenStore = (*FakeTokens)(nil)

// NewFakeTokens returns an empty TokenStore.
func NewFakeTokens() *FakeTokens {
	return &FakeTokens{newRecords("token", strings.Compare, func(t *orchestrator.Token) *uint64 { return &t.Version })}
}

// Tokens implements orchestrator.TokenStore.
func (s *FakeTokens) Tokens(ctx context.Context) ([]orchestrator.Token, error) {
	return s.tokens.list(ctx)
}

// PutToken implements orchestrator.TokenStore.
func (s *FakeTokens) PutToken(ctx context.Context, t orchestrator.Token) (orchestrator.Token, error) {
	return s.tokens.put(ctx, t.ID, t)
}

// DeleteToken implements orchestrator.TokenStore.
func (s *FakeTokens) DeleteToken(ctx context.Context, id string) error {
	ok, err := s.tokens.remove(ctx, id, whatever)
	if err == nil && !ok {
		err = orchestrator.Errorf(orchestrator.ErrNotFound, "token-not-found", "there is no token %q", id)
	}
	return err
}

// RunTokens checks a TokenStore against its contract, as Run does a Store.
func RunTokens(t *testing.T, open func(t *testing.T) orchestrator.TokenStore) {
	for _, test := range []struct {
		name string
		run  func(*testing.T, orchestrator.TokenStore)
	}{
		{"TokenIsKeptAsWritten", tokenIsKeptAsWritten},
		{"TokensAreSorted", tokensAreSorted},
		{"CreateConflictsWithWhatExists", tokenCreateConflicts},
		{"WriteOfAnOldVersionConflicts", tokenOldVersionConflicts},
		{"RemovedTokenStaysRemoved", removedTokenStaysRemoved},
		{"StrangeIDsNameNothing", strangeTokenIDs},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, open(t)) })
	}
}

// Token returns a token with every field set, for tests to store.
func Token(id string) orchestrator.Token {
	created := time.Date(2026, 3, 1, 12, 30, 15, 123456789, time.UTC)
	return orchestrator.Token{
		ID: id, Name: "name-" + id, Scopes: []orchestrator.Scope{orchestrator.ScopeDeploy, orchestrator.ScopeInvoke},
		Functions: []string{"team-a-*"}, Rate: orchestrator.Rate{PerSecond: 2.5, Burst: 7}, Hash: []byte{1, 2, 0, 255},
		CreatedAt: created, ExpiresAt: created.Add(time.Hour), LastUsed: created.Add(time.Minute),
	}
}

func putToken(t *testing.T, s orchestrator.TokenStore, token orchestrator.Token) orchestrator.Token {
	t.Helper()
	put, err := s.PutToken(t.Context(), token)
	if err != nil {
		t.Fatalf("PutToken(%s): %v", token.ID, err)
	}
	return put
}

func tokenIDs(t *testing.T, s orchestrator.TokenStore) []string {
	t.Helper()
	all, err := s.Tokens(t.Context())
	if err != nil {
		t.Fatalf("Tokens: %v", err)
	}
	ids := []string{}
	for _, token := range all {
		ids = append(ids, token.ID)
	}
	return ids
}

func tokenIsKeptAsWritten(t *testing.T, s orchestrator.TokenStore) {
	put := putToken(t, s, Token("abc"))
	if put.Version == 0 {
		t.Error("PutToken returned version 0")
	}
	all, err := s.Tokens(t.Context())
	if diff := cmp.Diff([]orchestrator.Token{put}, all); err != nil || diff != "" {
		t.Errorf("Tokens (-put +got): %v\n%s", err, diff)
	}
	put.LastUsed = put.LastUsed.Add(time.Hour)
	again := putToken(t, s, put)
	all, err = s.Tokens(t.Context())
	if diff := cmp.Diff([]orchestrator.Token{again}, all); err != nil || diff != "" {
		t.Errorf("Tokens after a change (-put +got): %v\n%s", err, diff)
	}
}

func tokensAreSorted(t *testing.T, s orchestrator.TokenStore) {
	if got := tokenIDs(t, s); len(got) != 0 {
		t.Errorf("Tokens of an empty store = %v", got)
	}
	for _, id := range []string{"b", "c", "a"} {
		putToken(t, s, Token(id))
	}
	if diff := cmp.Diff([]string{"a", "b", "c"}, tokenIDs(t, s)); diff != "" {
		t.Errorf("Tokens (-want +got):\n%s", diff)
	}
}

func tokenCreateConflicts(t *testing.T, s orchestrator.TokenStore) {
	putToken(t, s, Token("abc"))
	if _, err := s.PutToken(t.Context(), Token("abc")); !errors.Is(err, orchestrator.ErrConflict) {
		t.Errorf("PutToken of what exists = %v, want ErrConflict", err)
	}
}

func tokenOldVersionConflicts(t *testing.T, s orchestrator.TokenStore) {
	old := putToken(t, s, Token("abc"))
	putToken(t, s, old)
	if _, err := s.PutToken(t.Context(), old); !errors.Is(err, orchestrator.ErrConflict) {
		t.Errorf("PutToken of an old version = %v, want ErrConflict", err)
	}
}

// removedTokenStaysRemoved is what a revocation is worth: a write that was under
// way must not bring the token back.
func removedTokenStaysRemoved(t *testing.T, s orchestrator.TokenStore) {
	put := putToken(t, s, Token("abc"))
	if err := s.DeleteToken(t.Context(), "abc"); err != nil {
		t.Fatalf("DeleteToken: %v", err)
	}
	if _, err := s.PutToken(t.Context(), put); !errors.Is(err, orchestrator.ErrConflict) {
		t.Errorf("PutToken of a removed token = %v, want ErrConflict", err)
	}
	if got := tokenIDs(t, s); len(got) != 0 {
		t.Errorf("Tokens after the removal = %v", got)
	}
	if err := s.DeleteToken(t.Context(), "abc"); !errors.Is(err, orchestrator.ErrNotFound) {
		t.Errorf("DeleteToken again = %v, want ErrNotFound", err)
	}
}

func strangeTokenIDs(t *testing.T, s orchestrator.TokenStore) {
	putToken(t, s, Token("abc"))
	for _, id := range []string{"", "*", ">", "a.b", "abc ", "ab\x00"} {
		if err := s.DeleteToken(t.Context(), id); !errors.Is(err, orchestrator.ErrNotFound) {
			t.Errorf("DeleteToken(%q) = %v, want ErrNotFound", id, err)
		}
	}
	if got := tokenIDs(t, s); len(got) != 1 {
		t.Errorf("Tokens = %v, want abc alone", got)
	}
}
