package orchestrator

import "slices"

// Access says who may invoke a function. Empty is AccessPublic: what was stored
// before there was a choice.
type Access string

// Who may invoke a function.
const (
	AccessPublic   Access = "public"   // everybody who reaches the gateway
	AccessToken    Access = "token"    // holders of a token with the scope invoke that is for the function
	AccessInternal Access = "internal" // the platform itself, for events, and administrators
)

// CORS says which pages of other sites may invoke a function and read its
// answers (the fetch standard's CORS protocol). The zero CORS leaves all that to
// the function.
type CORS struct {
	Origins     []string `json:"origins,omitempty" yaml:"origins,omitempty"`         // "https://app.example"; "*" alone = all
	Methods     []string `json:"methods,omitempty" yaml:"methods,omitempty"`         // none = DefaultCORSMethods
	Headers     []string `json:"headers,omitempty" yaml:"headers,omitempty"`         // of requests, beyond those that are always allowed
	Expose      []string `json:"expose,omitempty" yaml:"expose,omitempty"`           // of answers, beyond those that always are
	Credentials bool     `json:"credentials,omitempty" yaml:"credentials,omitempty"` // cookies and client certificates may be sent
	MaxAge      Duration `json:"max_age,omitzero" yaml:"max_age,omitempty"`          // how long browsers keep a preflight's answer; 0 = as they like
}

// DefaultCORSMethods are those that pages may use when nothing says otherwise.
func DefaultCORSMethods() []string { return []string{"GET", "HEAD", "POST"} }

// On says whether the gateway answers for the function.
func (c CORS) On() bool { return len(c.Origins) > 0 }

// Allows says whether pages of an origin may invoke.
func (c CORS) Allows(origin string) bool {
	return slices.Contains(c.Origins, origin) || len(c.Origins) == 1 && c.Origins[0] == "*"
}

func (c CORS) clone() CORS {
	c.Origins, c.Methods = slices.Clone(c.Origins), slices.Clone(c.Methods)
	c.Headers, c.Expose = slices.Clone(c.Headers), slices.Clone(c.Expose)
	return c
}

// Guarded says whether not every invocation of the function is admitted.
func (s *Spec) Guarded() bool {
	return s.Access != AccessPublic && s.Access != "" || s.Rate.PerSecond > 0
}
