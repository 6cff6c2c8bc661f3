package proxy

import "github.com/kilnfaas/kiln/orchestrator/route"

// Routes finds the route of a function; nil when there is none. It is asked
// once for each invocation; route.Table is the one in use.
type Routes interface {
	Lookup(name string) *route.Route
}

var _ Routes = (*route.Table)(nil)
