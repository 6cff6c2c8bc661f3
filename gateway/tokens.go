package gateway

import (
	"net/http"
	"time"

	"github.com/kilnfaas/kiln/gateway/api"
	"github.com/kilnfaas/kiln/orchestrator"
)

// maxToken bounds the body that asks for a token: a name and some patterns.
const maxToken = 16 << 10

// token is the wire form of a token: not even the hash of its secret is in it.
func token(t orchestrator.Token) api.Token {
	return api.Token{
		ID: t.ID, Name: t.Name, Scopes: t.Scopes, Functions: t.Functions, Rate: t.Rate,
		CreatedAt: t.CreatedAt, ExpiresAt: t.ExpiresAt, LastUsed: t.LastUsed,
	}
}

func (s *Server) listTokens(w http.ResponseWriter, r *http.Request) error {
	if err := acceptJSON(r); err != nil {
		return err
	}
	list := api.TokenList{Tokens: []api.Token{}}
	for _, t := range s.Guard.Tokens() {
		list.Tokens = append(list.Tokens, token(t))
	}
	return writeJSON(w, http.StatusOK, list)
}

func (s *Server) createToken(w http.ResponseWriter, r *http.Request) error {
	if err := acceptJSON(r); err != nil {
		return err
	}
	var want api.NewToken
	if err := readJSON(w, r, maxToken, &want); err != nil {
		return err
	}
	asked := orchestrator.Token{Name: want.Name, Scopes: want.Scopes, Functions: want.Functions, Rate: want.Rate}
	if want.ExpiresIn > 0 {
		asked.ExpiresAt = time.Now().Add(time.Duration(want.ExpiresIn)).UTC().Round(time.Second)
	}
	made, secret, err := s.Guard.Create(r.Context(), asked)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusCreated, api.CreatedToken{Token: token(made), Secret: secret})
}

func (s *Server) deleteToken(w http.ResponseWriter, r *http.Request) error {
	removed, err := s.Guard.Remove(r.Context(), name(r))
	if err != nil {
		return err
	}
	if s.TokenRemoved != nil {
		s.TokenRemoved(removed.ID)
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
