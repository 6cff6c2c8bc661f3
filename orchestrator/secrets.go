package orchestrator

import (
	"context"
	"maps"
	"slices"
	"strings"
)

// SecretInfo is a secret as people see it.
type SecretInfo struct {
	Secret
	UsedBy []string // names of functions, sorted
}

// Rolled is what became of a function that uses a secret which was changed.
type Rolled struct {
	Function string
	Err      error // nil = its instances have the new value, or get it when they start
}

// Secrets returns all secrets, by name, without what they hold.
func (s *Service) Secrets(context.Context) ([]SecretInfo, error) {
	if s.Vault == nil {
		return nil, errNoVault
	}
	var all []SecretInfo
	for _, secret := range s.Vault.Secrets() {
		all = append(all, SecretInfo{secret, s.users(secret.Name)})
	}
	return all, nil
}

var errNoVault = Errorf(ErrUnavailable, "secrets-unavailable", "this gateway keeps no secrets")

// users returns the functions whose live settings name a secret, for their
// instances or for a trigger.
func (s *Service) users(secret string) []string {
	return s.whose(func(spec Spec) bool {
		return holds(spec, secret) || slices.ContainsFunc(spec.Triggers, func(t Trigger) bool { return t.Settings["secret"] == secret })
	})
}

// holders returns those of the users whose instances have the secret.
func (s *Service) holders(secret string) []string {
	return s.whose(func(spec Spec) bool { return holds(spec, secret) })
}

func holds(spec Spec, secret string) bool { return slices.Contains(spec.Secrets, secret) }

// whose returns the functions whose live settings fit, sorted.
func (s *Service) whose(fits func(Spec) bool) []string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var names []string
	for name, f := range s.functions {
		if fits(f.Spec) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// triggerUsers returns the triggers of live settings that name a secret, as
// functions and what of them.
func (s *Service) triggerUsers(secret string) []string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var users []string
	for name, f := range s.functions {
		for _, t := range f.Spec.Triggers {
			if t.Settings["secret"] == secret {
				users = append(users, "the trigger "+t.Name+" of "+name)
			}
		}
	}
	slices.Sort(users)
	return users
}

// SetSecret creates or changes a secret and rolls the functions that use it: an
// instance with the new value is started and proven, callers are routed to it,
// and the old ones drain. A function whose new instance does not start keeps
// those it has; the secret is changed all the same, as Rolled tells. The roll
// goes on when ctx ends.
func (s *Service) SetSecret(ctx context.Context, name string, functions []string, value []byte) (SecretInfo, []Rolled, error) {
	if s.Vault == nil {
		return SecretInfo{}, nil, errNoVault
	}
	for _, function := range s.users(name) {
		if !matchesAny(functions, function) {
			return SecretInfo{}, nil, Errorf(ErrConflict, "secret-in-use", "the function %s uses the secret %s and would not be allowed to", function, name).
				WithHint("name it among the functions that may, or take the secret out of its settings first")
		}
	}
	secret, err := s.Vault.Put(ctx, name, functions, value)
	if err != nil {
		return SecretInfo{}, nil, err
	}
	return SecretInfo{secret, s.users(name)}, s.rollAll(ctx, s.holders(name)), nil
}

// RemoveSecret forgets a secret that no function uses.
func (s *Service) RemoveSecret(ctx context.Context, name string) error {
	if s.Vault == nil {
		return errNoVault
	}
	if users := append(s.holders(name), s.triggerUsers(name)...); len(users) > 0 {
		return Errorf(ErrConflict, "secret-in-use", "the secret %s is used by %s", name, strings.Join(users, ", ")).
			WithHint("take it out of their function.yaml and deploy them, or give it another value with `kiln secret set %s`", name)
	}
	return s.Vault.Remove(ctx, name)
}

// rollAll rolls functions, each in its lane and all at once: starts take their
// turns anyhow.
func (s *Service) rollAll(ctx context.Context, names []string) []Rolled {
	done := make(chan Rolled, len(names))
	for _, name := range names {
		go func() {
			_, _, err := s.detached(ctx, name, changeTurn, nil, func(ctx context.Context, _ func(BuildEvent)) result {
				return result{err: s.roll(ctx, name)}
			})
			done <- Rolled{name, err}
		}()
	}
	rolled := make([]Rolled, 0, len(names))
	for range names {
		rolled = append(rolled, <-done)
	}
	slices.SortFunc(rolled, func(a, b Rolled) int { return strings.Compare(a.Function, b.Function) })
	return rolled
}

// roll makes the live release of a function one with the secrets of now. It runs
// in the function's lane.
func (s *Service) roll(ctx context.Context, name string) error {
	f, err := s.Function(ctx, name)
	if err != nil || f.Live == "" {
		return nil // nothing of it runs
	}
	live, err := s.Store.Revision(ctx, name, f.Live)
	if err != nil {
		return err
	}
	return s.renew(ctx, s.release(f.Spec, live))
}

// renew has a release of the live revision answer. One whose secrets are others
// is proven first while instances with the old ones serve.
func (s *Service) renew(ctx context.Context, release Release) error {
	name := release.Spec.Name
	status, _ := s.Fleet.Status(name)
	if !maps.Equal(s.secretsServed(name), release.Secrets) && status.Ready+status.Frozen+status.Starting > 0 {
		if err := s.prove(ctx, release); err != nil {
			return err
		}
	}
	s.serve(release)
	return nil
}

// secretsServed are the secrets of what answers for a function.
func (s *Service) secretsServed(name string) map[string]uint64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.served[name]
}

// checkSecrets says whether a function may have the secrets that its settings
// name.
func (s *Service) checkSecrets(spec Spec) error {
	switch {
	case len(spec.Secrets) == 0:
		return nil
	case s.Vault == nil:
		return errNoVault
	}
	return s.Vault.Check(spec.Name, spec.Secrets)
}

// secretVersions are those of the secrets that a spec names.
func (s *Service) secretVersions(spec Spec) map[string]uint64 {
	if s.Vault == nil || len(spec.Secrets) == 0 {
		return nil
	}
	return s.Vault.Versions(spec.Secrets)
}
