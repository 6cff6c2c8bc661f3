package gateway

import (
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/kilnfaas/kiln/gateway/problem"
)

// parameters are the names of the query parameters that a route knows. A caller
// who sends another one means something that would not happen.
type parameters []string

// repeated follows the name of a parameter that may be given more than once.
const repeated = "..."

// theirs are the parameters of routes whose query is not Kiln's: a function gets
// it, nothing answers, or probes and senders of events add what they like.
var theirs = parameters{"*"}

// check refuses a request with a query that cannot be read, with parameters that
// are not known, and with more than one of a kind.
func (p parameters) check(r *http.Request) error {
	if r.URL.RawQuery == "" || slices.Equal(p, theirs) {
		return nil
	}
	given, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return problem.Malformed("the query cannot be read: %w", err)
	}
	for key, values := range given {
		switch {
		case slices.Contains(p, key+repeated):
		case !slices.Contains(p, key):
			return problem.ParameterUnknown(key, p.names())
		case len(values) > 1:
			return problem.Parameter(key, strings.Join(values, ", "), "give it once")
		}
	}
	return nil
}

// names returns the names alone.
func (p parameters) names() []string {
	names := slices.Clone(p)
	for i := range names {
		names[i] = strings.TrimSuffix(names[i], repeated)
	}
	return names
}
