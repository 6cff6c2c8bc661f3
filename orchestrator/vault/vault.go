// Package vault keeps the values of secrets: encrypted at rest with age, and
// opened only for an instance that is being started and for triggers. It alone
// imports age.
//
// The key is a file. One is made when there is none and nothing was sealed yet;
// that it is missing, open to others, or another one than the secrets were
// sealed with is an error, never a new key.
package vault

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/kilnfaas/kiln/orchestrator"
)

// writeTimeout bounds a write to the store, which is not called off with its
// caller: nobody would know whether it happened.
const writeTimeout = 10 * time.Second

// Config sets a Vault up.
type Config struct {
	Store   orchestrator.SecretStore // required
	KeyFile string                   // required
	Logger  *slog.Logger             // nil = discard
}

// Vault is the orchestrator.Vault on a store. It is the only writer of it.
type Vault struct {
	store orchestrator.SecretStore
	key   key
	turn  chan struct{} // holds one token while nobody writes

	mu      sync.RWMutex
	secrets map[string]orchestrator.Secret // sealed; guarded by mu
}

var _ orchestrator.Vault = (*Vault)(nil)

// Open reads the key and all secrets, and sees that the one opens the others.
// Errors: ErrInvalid, codes "secrets-key-missing", "secrets-key-unusable" and
// "secrets-key-wrong"; the store's.
func Open(ctx context.Context, config Config) (*Vault, error) {
	if config.Logger == nil {
		config.Logger = slog.New(slog.DiscardHandler)
	}
	v := &Vault{store: config.Store, turn: make(chan struct{}, 1)}
	v.turn <- struct{}{}
	if err := v.load(ctx); err != nil {
		return nil, err
	}
	var err error
	v.key, err = readKey(config.KeyFile)
	switch {
	case errors.Is(err, fs.ErrNotExist) && len(v.secrets) > 0:
		return nil, orchestrator.Errorf(orchestrator.ErrInvalid, "secrets-key-missing",
			"%d secrets are stored, and their key, %s, does not exist", len(v.secrets), config.KeyFile).
			WithHint("restore the file from its backup, or name it with secrets_key_file; docs/operations.md says what to do when it is lost")
	case errors.Is(err, fs.ErrNotExist):
		if v.key, err = makeKey(config.KeyFile); err != nil {
			return nil, unusable(config.KeyFile, "cannot be made: %w", err).
				WithHint("let the gateway's user write to its folder, which has to be there, or name another file with secrets_key_file")
		}
		config.Logger.Info("made the key of secrets; keep a copy of it elsewhere", "file", config.KeyFile)
	case err != nil:
		return nil, fmt.Errorf("read the key of secrets: %w", err)
	}
	for _, name := range slices.Sorted(maps.Keys(v.secrets)) {
		if _, err := v.key.open(name, v.secrets[name].Sealed); err != nil {
			return nil, orchestrator.Errorf(orchestrator.ErrInvalid, "secrets-key-wrong", "the key %s does not open the secret %s: %w", config.KeyFile, name, err).
				WithHint("use the key file that this gateway's secrets were made with")
		}
	}
	return v, nil
}

// load reads what the store has.
func (v *Vault) load(ctx context.Context) error {
	all, err := v.store.Secrets(ctx)
	if err != nil {
		return fmt.Errorf("load the secrets: %w", err)
	}
	secrets := make(map[string]orchestrator.Secret, len(all))
	for _, s := range all {
		secrets[s.Name] = s
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.secrets = secrets
	return nil
}

// get returns a secret, sealed.
func (v *Vault) get(name string) (orchestrator.Secret, bool) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	s, ok := v.secrets[name]
	return s, ok
}

// shown is a secret without what it holds.
func shown(s orchestrator.Secret) orchestrator.Secret {
	s.Sealed, s.Functions = nil, slices.Clone(s.Functions)
	return s
}

// Secrets implements orchestrator.Vault.
func (v *Vault) Secrets() []orchestrator.Secret {
	v.mu.RLock()
	defer v.mu.RUnlock()
	all := make([]orchestrator.Secret, 0, len(v.secrets))
	for _, name := range slices.Sorted(maps.Keys(v.secrets)) {
		all = append(all, shown(v.secrets[name]))
	}
	return all
}

// Put implements orchestrator.Vault.
func (v *Vault) Put(ctx context.Context, name string, functions []string, value []byte) (orchestrator.Secret, error) {
	s := orchestrator.Secret{Name: name, Functions: functions}
	if err := s.Validate(); err != nil {
		return orchestrator.Secret{}, err
	}
	switch size := orchestrator.Bytes(len(value)); {
	case size == 0:
		return orchestrator.Secret{}, orchestrator.Errorf(orchestrator.ErrInvalid, "secret-empty", "the value of %s is empty", name).
			WithHint("give one, or remove the secret with `kiln secret rm %s`", name)
	case size > orchestrator.MaxSecret:
		return orchestrator.Secret{}, orchestrator.Errorf(orchestrator.ErrTooLarge, "secret-too-large", "the value of %s has %d bytes, %d are allowed", name, size, orchestrator.MaxSecret).
			WithHint("keep a key in the secret, and what it opens elsewhere")
	}
	sealed, err := v.key.seal(name, value)
	if err != nil {
		return orchestrator.Secret{}, fmt.Errorf("seal the secret %s: %w", name, err)
	}
	s.Sealed = sealed
	err = v.write(ctx, func(ctx context.Context) error {
		old, exists := v.get(name)
		s.UpdatedAt = time.Now().UTC()
		s.CreatedAt, s.Version = s.UpdatedAt, old.Version
		if exists {
			s.CreatedAt = old.CreatedAt
		} else if n := len(v.Secrets()); n >= orchestrator.MaxSecrets {
			return orchestrator.Errorf(orchestrator.ErrExhausted, "secrets-too-many", "there are %d secrets, the most that are kept", n).
				WithHint("remove some with `kiln secret rm`")
		}
		s, err = v.store.PutSecret(ctx, s)
		if err != nil {
			return fmt.Errorf("store the secret %s: %w", name, err)
		}
		v.mu.Lock()
		defer v.mu.Unlock()
		v.secrets[name] = s
		return nil
	})
	return shown(s), err
}

// Remove implements orchestrator.Vault.
func (v *Vault) Remove(ctx context.Context, name string) error {
	return v.write(ctx, func(ctx context.Context) error {
		if _, ok := v.get(name); !ok {
			return unknown(orchestrator.ErrNotFound, name)
		}
		if err := v.store.DeleteSecret(ctx, name); err != nil && !errors.Is(err, orchestrator.ErrNotFound) {
			return fmt.Errorf("remove the secret %s: %w", name, err)
		}
		v.mu.Lock()
		defer v.mu.Unlock()
		delete(v.secrets, name)
		return nil
	})
}

// write runs one write at a time. When its outcome is not known, what the store
// has is read again.
func (v *Vault) write(ctx context.Context, change func(context.Context) error) error {
	select {
	case <-v.turn:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { v.turn <- struct{}{} }()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeTimeout)
	defer cancel()
	err := change(ctx)
	if errors.Is(err, orchestrator.ErrUnavailable) || errors.Is(err, orchestrator.ErrConflict) {
		again, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeTimeout)
		defer cancel()
		err = errors.Join(err, v.load(again))
	}
	return err
}

func unknown(class error, name string) *orchestrator.Error {
	return orchestrator.Errorf(class, "secret-unknown", "there is no secret %s", name).
		WithHint("set it with `kiln secret set %s`; `kiln secret ls` shows those there are", name)
}

// Check implements orchestrator.Vault.
func (v *Vault) Check(function string, names []string) error {
	return v.check(orchestrator.ErrInvalid, function, names)
}

func (v *Vault) check(class error, function string, names []string) error {
	for _, name := range names {
		s, ok := v.get(name)
		if !ok {
			return unknown(class, name)
		}
		if !s.For(function) {
			return orchestrator.Errorf(class, "secret-denied", "the function %s may not use the secret %s", function, name).
				WithHint("an administrator says who may with `kiln secret set %s --function PATTERN`", name)
		}
	}
	return nil
}

// Versions implements orchestrator.Vault. What is sealed is random each time, so
// that its digest tells values apart and nothing of them; it also holds when the
// store is made anew, whose versions then begin again.
func (v *Vault) Versions(names []string) map[string]uint64 {
	versions := make(map[string]uint64, len(names))
	for _, name := range names {
		versions[name] = 0
		if s, ok := v.get(name); ok {
			digest := sha256.Sum256(s.Sealed)
			versions[name] = binary.BigEndian.Uint64(digest[:])
		}
	}
	return versions
}

// Values opens the secrets of a function, for an instance that is being started
// or one of its triggers.
// The error is ErrFunction when one is not there or not for it.
func (v *Vault) Values(function string, names []string) (map[string][]byte, error) {
	if err := v.check(orchestrator.ErrFunction, function, names); err != nil {
		return nil, err
	}
	values := make(map[string][]byte, len(names))
	for _, name := range names {
		s, _ := v.get(name)
		value, err := v.key.open(name, s.Sealed)
		if err != nil {
			return nil, fmt.Errorf("open the secret %s: %w", name, err)
		}
		values[name] = value
	}
	return values, nil
}

// Derive returns a key for another purpose. It is the same as long as the key
// file is.
func (v *Vault) Derive(purpose string) []byte { return v.key.derive(purpose) }
