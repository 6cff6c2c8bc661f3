package gateway

import (
	"io"
	"net/http"
	"strings"

	"github.com/kilnfaas/kiln/gateway/api"
	"github.com/kilnfaas/kiln/gateway/problem"
	"github.com/kilnfaas/kiln/orchestrator"
)

// secretsPrefix is where one secret is.
const secretsPrefix = "/v1/secrets/"

// secret is the wire form of a secret: nothing tells what it holds.
func secret(s orchestrator.SecretInfo) api.Secret {
	return api.Secret{
		Name: s.Name, Functions: s.Functions, CreatedAt: s.CreatedAt, UpdatedAt: s.UpdatedAt, UsedBy: append([]string{}, s.UsedBy...),
	}
}

func (s *Server) listSecrets(w http.ResponseWriter, r *http.Request) error {
	if err := acceptJSON(r); err != nil {
		return err
	}
	all, err := s.Functions.Secrets(r.Context())
	if err != nil {
		return err
	}
	list := api.SecretList{Secrets: []api.Secret{}}
	for _, one := range all {
		list.Secrets = append(list.Secrets, secret(one))
	}
	return writeJSON(w, http.StatusOK, list)
}

// putSecret takes the body as the value, whatever its type: nothing has to be
// encoded, and nothing of it is ever part of a message.
func (s *Server) putSecret(w http.ResponseWriter, r *http.Request) error {
	if err := acceptJSON(r); err != nil {
		return err
	}
	// One byte more tells that it is too large.
	value, err := io.ReadAll(io.LimitReader(r.Body, int64(orchestrator.MaxSecret)+1))
	if err != nil {
		return err
	}
	ctx, cancel := s.untilStopped(r.Context())
	defer cancel()
	set, rolled, err := s.Functions.SetSecret(ctx, name(r), r.URL.Query()["function"], value)
	if err != nil {
		return deployError(err)
	}
	changed := api.ChangedSecret{Secret: secret(set), Rolled: []api.RolledFunction{}}
	for _, one := range rolled {
		f := api.RolledFunction{Function: one.Function}
		if one.Err != nil {
			f.Error = problem.Document(one.Err, "").Detail // causes are for the log
			s.Log.Warn("a function keeps the old value of a secret", "function", one.Function, "secret", set.Name, "error", one.Err)
		}
		changed.Rolled = append(changed.Rolled, f)
	}
	return writeJSON(w, http.StatusOK, changed)
}

func (s *Server) deleteSecret(w http.ResponseWriter, r *http.Request) error {
	if err := s.Functions.RemoveSecret(r.Context(), name(r)); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// recordable says whether what a path names may stand in the audit log: a name,
// and not whatever somebody sent.
func recordable(r *http.Request, name string) bool {
	if strings.HasPrefix(r.URL.Path, secretsPrefix) {
		return orchestrator.ValidateSecretName(name) == nil
	}
	return orchestrator.ValidateName(name) == nil
}
