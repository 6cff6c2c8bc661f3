package orchestrator

import (
	"context"
	"slices"
	"strings"
	"time"
)

// Scope is a right that a token gives.
type Scope string

// The scopes. Admin has all the others, and deploy all but invoke: who changes a
// function looks at what came of it.
const (
	ScopeAdmin  Scope = "admin"  // everything, tokens included
	ScopeDeploy Scope = "deploy" // deploy, change, roll back and remove functions
	ScopeInvoke Scope = "invoke" // call functions that want a token
	ScopeRead   Scope = "read"   // look at functions, logs and figures
	// For buckets alone: what a function is given that keeps files.
	ScopeFiles     Scope = "files"      // write, remove and read objects
	ScopeFilesRead Scope = "files-read" // read objects
)

// Scopes returns all scopes, the strongest first.
func Scopes() []Scope {
	return []Scope{ScopeAdmin, ScopeDeploy, ScopeInvoke, ScopeRead, ScopeFiles, ScopeFilesRead}
}

// Token is a right to use the gateway. What its holder shows is not in it: only
// the SHA-256 of that is kept.
type Token struct {
	ID     string  `json:"id"`
	Name   string  `json:"name"` // for people; one of a kind
	Scopes []Scope `json:"scopes"`
	// Functions are patterns of function names, such as "team-a-*"; none stands
	// for every function. A token with patterns has no right to anything that
	// belongs to no function, but to what all tokens may see.
	Functions []string  `json:"functions,omitempty"`
	Rate      Rate      `json:"rate,omitzero"` // of its requests
	Hash      []byte    `json:"hash"`          // SHA-256 of its secret part
	CreatedAt time.Time `json:"created_at"`
	ExpiresAt time.Time `json:"expires_at,omitzero"` // zero = never
	LastUsed  time.Time `json:"last_used,omitzero"`  // to about a minute
	// Version is set by the store, as that of a Function.
	Version uint64 `json:"-"`
}

// includes are the scopes that one brings along; admin brings all.
var includes = map[Scope][]Scope{
	ScopeDeploy: {ScopeRead, ScopeFiles, ScopeFilesRead},
	ScopeRead:   {ScopeFilesRead},
	ScopeFiles:  {ScopeFilesRead},
}

// Can says whether the token has a scope.
func (t Token) Can(scope Scope) bool {
	for _, has := range t.Scopes {
		if has == scope || has == ScopeAdmin || slices.Contains(includes[has], scope) {
			return true
		}
	}
	return false
}

// For says whether the token is good for a function.
func (t Token) For(function string) bool {
	return matchesAny(t.Functions, function)
}

// Expired says whether the token's time is over.
func (t Token) Expired(now time.Time) bool { return !t.ExpiresAt.IsZero() && !now.Before(t.ExpiresAt) }

// Validate checks what a client chose of a token. The error is ErrInvalid.
func (t Token) Validate() error {
	if err := ValidateName(t.Name); err != nil {
		return err
	}
	if len(t.Scopes) == 0 {
		return Errorf(ErrInvalid, "token-settings-invalid", "the token has no scope").WithHint("choose from %s", scopeNames())
	}
	for _, scope := range t.Scopes {
		if !slices.Contains(Scopes(), scope) {
			return Errorf(ErrInvalid, "token-settings-invalid", "%.40q is no scope", scope).WithHint("choose from %s", scopeNames())
		}
	}
	if len(t.Functions) > 0 && slices.Contains(t.Scopes, ScopeAdmin) {
		return Errorf(ErrInvalid, "token-settings-invalid", "a token for some functions cannot be an administrator's").
			WithHint("give it deploy, invoke or read")
	}
	if err := validatePatterns(t.Functions, "token-settings-invalid"); err != nil {
		return err
	}
	return t.Rate.Validate()
}

func scopeNames() string {
	var names []string
	for _, scope := range Scopes() {
		names = append(names, string(scope))
	}
	return strings.Join(names, ", ")
}

// TokenStore keeps tokens. What a method acknowledged is on disk. Tokens are
// written by compare-and-set on Token.Version, so that writing a last use back
// cannot bring a token back that was removed meanwhile.
//
// Errors: ErrNotFound; ErrConflict when the version is not the stored one, or a
// token to be created exists; ErrUnavailable; ErrExhausted when the disk is
// full. Methods are safe for concurrent use.
type TokenStore interface {
	// Tokens returns all, by id.
	Tokens(ctx context.Context) ([]Token, error)
	// PutToken creates (Version 0) or replaces a token and returns it with its
	// new version.
	PutToken(ctx context.Context, t Token) (Token, error)
	// DeleteToken removes a token; ErrNotFound when there is none.
	DeleteToken(ctx context.Context, id string) error
}

// Codes of the refusals that tell nothing but that the caller is not known.
const (
	CodeTokenMissing = "token-missing"
	CodeTokenInvalid = "token-invalid"
	CodeTokenExpired = "token-expired"
)
