package jetstream

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/kilnfaas/kiln/orchestrator"
)

// tokensBucket keeps tokens by id. Renaming it loses what is in it.
const tokensBucket = "kiln-tokens"

// Tokens is an orchestrator.TokenStore on JetStream.
type Tokens struct{ bucket *bucket }

var _ orchestrator.TokenStore = (*Tokens)(nil)

// NewTokens opens the tokens on a server, which remains the caller's. Errors are
// NewStore's.
func NewTokens(ctx context.Context, server *Server) (*Tokens, error) {
	b, err := server.openBucket(ctx, tokensBucket, "Kiln: tokens by id")
	if err != nil {
		return nil, classify(ctx, "open the tokens", err)
	}
	return &Tokens{b}, nil
}

// Tokens implements orchestrator.TokenStore.
func (s *Tokens) Tokens(ctx context.Context) ([]orchestrator.Token, error) {
	found, err := s.bucket.list(ctx, "*")
	if err != nil {
		return nil, classify(ctx, "list tokens", err)
	}
	return decodeAll(found, decodeToken)
}

// PutToken implements orchestrator.TokenStore.
func (s *Tokens) PutToken(ctx context.Context, t orchestrator.Token) (orchestrator.Token, error) {
	k, ok := key(t.ID)
	if !ok {
		return orchestrator.Token{}, orchestrator.Errorf(orchestrator.ErrInvalid, "token-settings-invalid", "%q is no id of a token", t.ID)
	}
	value, err := json.Marshal(t)
	if err != nil {
		return orchestrator.Token{}, orchestrator.Errorf(orchestrator.ErrInvalid, "token-settings-invalid", "encode token %s: %w", t.ID, err)
	}
	version, err := s.bucket.put(ctx, k, value, t.Version)
	switch {
	case conflicting(err):
		return orchestrator.Token{}, orchestrator.Errorf(orchestrator.ErrConflict, "token-changed", "token %s was changed meanwhile", t.ID).
			WithHint("read it again and repeat")
	case err != nil:
		return orchestrator.Token{}, classify(ctx, "write token "+t.ID, err)
	}
	t.Version = version
	return t, nil
}

// DeleteToken implements orchestrator.TokenStore.
func (s *Tokens) DeleteToken(ctx context.Context, id string) error {
	k, ok := key(id)
	if !ok {
		return noToken(id)
	}
	err := s.bucket.drop(ctx, k)
	if absent(err) {
		return noToken(id)
	}
	return classify(ctx, "delete token "+id, err)
}

func decodeToken(e entry) (orchestrator.Token, error) {
	var t orchestrator.Token
	if err := json.Unmarshal(e.value, &t); err != nil {
		return t, fmt.Errorf("decode token %s: %w", e.key, err)
	}
	t.Version = e.sequence
	return t, nil
}

func noToken(id string) error {
	return orchestrator.Errorf(orchestrator.ErrNotFound, "token-not-found", "there is no token %q", id).
		WithHint("`kiln token ls` lists those there are")
}
