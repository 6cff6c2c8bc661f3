package api

import (
	"time"

	"github.com/kilnfaas/kiln/orchestrator"
)

// Function is a function and what runs for it now.
type Function struct {
	orchestrator.Function
	// URL is the path that invokes it.
	URL    string                      `json:"url"`
	Status orchestrator.FunctionStatus `json:"status"`
}

// FunctionList is the answer of GET /v1/functions, by name.
type FunctionList struct {
	Functions []Function `json:"functions"`
}

// Deployment is what a deploy, a change of settings or a rollback made: the
// function afterwards and the revision that is live.
type Deployment struct {
	Function Function              `json:"function"`
	Revision orchestrator.Revision `json:"revision"`
	// Created tells that the function did not exist before.
	Created bool `json:"created,omitempty"`
}

// Revision is a revision and whether it is the one that answers.
type Revision struct {
	orchestrator.Revision
	Live bool `json:"live"`
}

// RevisionList is the answer of GET …/revisions, newest first.
type RevisionList struct {
	Revisions []Revision `json:"revisions"`
}

// Rollback is the body of POST …/rollback; it may be left out.
type Rollback struct {
	// Revision is a number ("7"), a short form ("r7") or a full id; empty is the
	// revision before the live one.
	Revision string `json:"revision,omitempty"`
}

// TemplateList is the answer of GET /v1/templates, by name.
type TemplateList struct {
	Templates []orchestrator.Template `json:"templates"`
}

// Streams of a LogLine.
const (
	Stdout = "stdout"
	Stderr = "stderr"
)

// LogLine is one line of GET …/logs in its NDJSON form.
type LogLine struct {
	Time     time.Time `json:"time"`
	Instance string    `json:"instance"` // container id
	Revision string    `json:"revision"`
	Stream   string    `json:"stream"` // Stdout or Stderr
	Text     string    `json:"text"`   // without the line end
	// Problem is set in the last line of a stream that broke, which has nothing
	// else but the time.
	Problem *Error `json:"problem,omitempty"`
}

// Version says what a gateway runs.
type Version struct {
	Version string `json:"version"`
	Commit  string `json:"commit,omitempty"`
	Go      string `json:"go"`
}

// Readiness is the answer of GET /readyz.
type Readiness struct {
	Status string   `json:"status"` // "ready"
	Checks []string `json:"checks"` // names of what was checked
}

// Health is the answer of GET /healthz.
type Health struct {
	Status string `json:"status"` // "ok"
}

// Secret is a secret without what it holds, which nobody is ever told.
type Secret struct {
	Name      string    `json:"name"`
	Functions []string  `json:"functions,omitempty"` // patterns of who may use it; none = all functions
	CreatedAt time.Time `json:"created_at"`
	UpdatedAt time.Time `json:"updated_at"`
	UsedBy    []string  `json:"used_by"` // functions whose settings name it
}

// SecretList is the answer of GET /v1/secrets, by name.
type SecretList struct {
	Secrets []Secret `json:"secrets"`
}

// ChangedSecret is the answer of PUT /v1/secrets/{name}.
type ChangedSecret struct {
	Secret
	Rolled []RolledFunction `json:"rolled"` // the functions that use it
}

// RolledFunction is what became of a function whose secret was changed.
type RolledFunction struct {
	Function string `json:"function"`
	// Error says why its instances still have the old value; empty = they have the
	// new one, or get it when they start.
	Error string `json:"error,omitempty"`
}

// Token is a right to use the gateway, without what its holder shows.
type Token struct {
	ID        string               `json:"id"`
	Name      string               `json:"name"`
	Scopes    []orchestrator.Scope `json:"scopes"`
	Functions []string             `json:"functions,omitempty"` // patterns; none = all functions
	Rate      orchestrator.Rate    `json:"rate,omitzero"`
	CreatedAt time.Time            `json:"created_at"`
	ExpiresAt time.Time            `json:"expires_at,omitzero"` // zero = never
	LastUsed  time.Time            `json:"last_used,omitzero"`  // to about a minute; zero = never
}

// TokenList is the answer of GET /v1/tokens, by name.
type TokenList struct {
	Tokens []Token `json:"tokens"`
}

// NewToken is the body of POST /v1/tokens.
type NewToken struct {
	Name      string                `json:"name"`
	Scopes    []orchestrator.Scope  `json:"scopes"`
	Functions []string              `json:"functions,omitempty"`
	Rate      orchestrator.Rate     `json:"rate,omitzero"`
	ExpiresIn orchestrator.Duration `json:"expires_in,omitzero"` // 0 = never
}

// CreatedToken is the answer of POST /v1/tokens: the one time that what the
// holder shows is told.
type CreatedToken struct {
	Token
	Secret string `json:"token"`
}
