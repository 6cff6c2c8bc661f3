package orchestrator

import (
	"context"
	"path"
	"regexp"
	"slices"
	"time"
)

// SecretsPath is the folder, on a memory file system of its own, in which an
// instance finds its secrets: one file each, named after it.
const SecretsPath = "/run/secrets"

// Bounds of secrets.
const (
	// MaxSecret is the size of a value: keys, certificates with their chain,
	// service accounts.
	MaxSecret = 64 * KiB
	// MaxSecrets is how many one installation keeps: all are in memory, sealed.
	MaxSecrets = 1024
	// MaxFunctionSecrets is how many one function uses.
	MaxFunctionSecrets = 64
	// SecretsRoom holds as many values as a function can use, each on pages of its
	// own; the kernel counts what is used against the instance's memory.
	SecretsRoom = MaxFunctionSecrets*MaxSecret + MiB
)

// Secret is a value that functions get as a file and that nobody gets otherwise.
// Only its sealed form leaves the vault.
type Secret struct {
	Name string `json:"name"`
	// Functions are path.Match patterns of the names of functions that may use it;
	// none = all.
	Functions []string  `json:"functions,omitempty"`
	Sealed    []byte    `json:"sealed,omitempty"` // name and value, encrypted
	CreatedAt time.Time `json:"created_at"`
	UpdatedAt time.Time `json:"updated_at"`
	// Version is set by the store; a write must carry the one that was read. 0
	// means that the secret is to be created.
	Version uint64 `json:"-"`
}

var secretSyntax = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}$`)

// ValidateSecretName says whether name can be a secret's, and so a file's: 1 to
// 63 letters, digits, '_', '-' and '.', not beginning with '-' or '.'. The error
// is ErrInvalid.
func ValidateSecretName(name string) error {
	if secretSyntax.MatchString(name) {
		return nil
	}
	return Errorf(ErrInvalid, "secret-invalid", "%.80q cannot be the name of a secret", name).
		WithHint("use letters, digits, '_', '-' and '.', at most 63, for example API_KEY")
}

// Validate checks what a client chose of a secret. The error is ErrInvalid.
func (s Secret) Validate() error {
	if err := ValidateSecretName(s.Name); err != nil {
		return err
	}
	return validatePatterns(s.Functions, "secret-settings-invalid")
}

// For says whether a function may use the secret.
func (s Secret) For(function string) bool { return matchesAny(s.Functions, function) }

// Bounds of a list of patterns of function names.
const (
	maxPatterns = 32
	maxPattern  = maxName
)

var patternSyntax = regexp.MustCompile(`^[a-z0-9*?-]+$`)

func validatePatterns(patterns []string, code string) error {
	if len(patterns) > maxPatterns {
		return Errorf(ErrInvalid, code, "there are more than %d patterns", maxPatterns)
	}
	for _, pattern := range patterns {
		if len(pattern) > maxPattern || !patternSyntax.MatchString(pattern) {
			return Errorf(ErrInvalid, code, "%.80q is no pattern of function names", pattern).
				WithHint("write a name, with * for any characters and ? for one")
		}
	}
	return nil
}

// matchesAny says whether one of patterns, which were checked, fits; none fits
// everything.
func matchesAny(patterns []string, name string) bool {
	return len(patterns) == 0 || slices.ContainsFunc(patterns, func(pattern string) bool {
		ok, _ := path.Match(pattern, name)
		return ok
	})
}

// SecretStore keeps sealed secrets. What a method acknowledged is on disk.
// Secrets are written by compare-and-set on Secret.Version.
//
// Errors: ErrNotFound; ErrConflict when the version is not the stored one, or a
// secret to be created exists; ErrUnavailable; ErrExhausted when the disk is
// full. Methods are safe for concurrent use.
type SecretStore interface {
	// Secrets returns all, by name.
	Secrets(ctx context.Context) ([]Secret, error)
	// PutSecret creates (Version 0) or replaces a secret and returns it with its
	// new version.
	PutSecret(ctx context.Context, s Secret) (Secret, error)
	// DeleteSecret removes a secret; ErrNotFound when there is none.
	DeleteSecret(ctx context.Context, name string) error
}

// Vault keeps secrets and alone can open them. The vault package implements it.
// Methods are safe for concurrent use; those without a context do not wait.
type Vault interface {
	// Secrets returns all by name, without what they hold.
	Secrets() []Secret
	// Put creates or replaces a secret and returns it as Secrets does. The error is
	// ErrInvalid, ErrTooLarge, ErrExhausted when there are too many, or the store's.
	Put(ctx context.Context, name string, functions []string, value []byte) (Secret, error)
	// Remove forgets a secret; ErrNotFound.
	Remove(ctx context.Context, name string) error
	// Check says whether a function may use all of names: ErrInvalid, code
	// "secret-unknown" or "secret-denied".
	Check(function string, names []string) error
	// Versions returns for each name a number that no other value of it has, today
	// or later; what is unknown has 0.
	Versions(names []string) map[string]uint64
}
