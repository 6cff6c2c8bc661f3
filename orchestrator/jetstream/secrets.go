package jetstream

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"

	"github.com/kilnfaas/kiln/orchestrator"
)

// secretsBucket keeps sealed secrets by name. Renaming it loses what is in it.
const secretsBucket = "kiln-secrets"

// Secrets is an orchestrator.SecretStore on JetStream.
type Secrets struct{ bucket *bucket }

var _ orchestrator.SecretStore = (*Secrets)(nil)

// NewSecrets opens the secrets on a server, which remains the caller's. Errors are
// NewStore's.
func NewSecrets(ctx context.Context, server *Server) (*Secrets, error) {
	b, err := server.openBucket(ctx, secretsBucket, "Kiln: sealed secrets by name")
	if err != nil {
		return nil, classify(ctx, "open the secrets", err)
	}
	return &Secrets{b}, nil
}

// Secrets implements orchestrator.SecretStore.
func (s *Secrets) Secrets(ctx context.Context) ([]orchestrator.Secret, error) {
	found, err := s.bucket.list(ctx, "*")
	if err != nil {
		return nil, classify(ctx, "list secrets", err)
	}
	return decodeAll(found, decodeSecret)
}

// PutSecret implements orchestrator.SecretStore.
func (s *Secrets) PutSecret(ctx context.Context, secret orchestrator.Secret) (orchestrator.Secret, error) {
	k, ok := secretKey(secret.Name)
	if !ok {
		return orchestrator.Secret{}, orchestrator.Errorf(orchestrator.ErrInvalid, "secret-invalid", "%q is no name of a secret", secret.Name)
	}
	value, err := json.Marshal(secret)
	if err != nil {
		return orchestrator.Secret{}, orchestrator.Errorf(orchestrator.ErrInvalid, "secret-settings-invalid", "encode the secret %s: %w", secret.Name, err)
	}
	version, err := s.bucket.put(ctx, k, value, secret.Version)
	switch {
	case conflicting(err):
		return orchestrator.Secret{}, orchestrator.Errorf(orchestrator.ErrConflict, "secret-changed", "the secret %s was changed meanwhile", secret.Name).
			WithHint("read it again and repeat")
	case err != nil:
		return orchestrator.Secret{}, classify(ctx, "write the secret "+secret.Name, err)
	}
	secret.Version = version
	return secret, nil
}

// DeleteSecret implements orchestrator.SecretStore.
func (s *Secrets) DeleteSecret(ctx context.Context, name string) error {
	k, ok := secretKey(name)
	if !ok {
		return noSecret(name)
	}
	err := s.bucket.drop(ctx, k)
	if absent(err) {
		return noSecret(name)
	}
	return classify(ctx, "delete the secret "+name, err)
}

func decodeSecret(e entry) (orchestrator.Secret, error) {
	var secret orchestrator.Secret
	if err := json.Unmarshal(e.value, &secret); err != nil {
		return secret, fmt.Errorf("decode the secret at %s: %w", e.key, err)
	}
	secret.Version = e.sequence
	return secret, nil
}

// secretKey encodes a name, which may have dots, as a key.
func secretKey(name string) (string, bool) {
	return key(hex.EncodeToString([]byte(name)))
}

func noSecret(name string) error {
	return orchestrator.Errorf(orchestrator.ErrNotFound, "secret-unknown", "there is no secret %q", name).
		WithHint("`kiln secret ls` lists those there are")
}
