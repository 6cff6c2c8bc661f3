package gateway

import (
	"errors"
	"net"
	"net/http"
	"time"

	"github.com/kilnfaas/kiln/gateway/audit"
	"github.com/kilnfaas/kiln/gateway/problem"
	"github.com/kilnfaas/kiln/orchestrator"
)

// How many refusals are recorded. 50 MiB of them take days.
const (
	refusalsPerSecond = 1
	refusalsAtOnce    = 60
)

// record writes down who did what: every control call that changes something,
// and those that were refused. Calls of functions and events are no control calls:
// thousands a second of them would push the others out of the log.
func (s *Server) record(w *answer, r *http.Request, route route, id string, start time.Time, err error) {
	refused := errors.Is(err, orchestrator.ErrDenied)
	reads := r.Method == http.MethodGet || r.Method == http.MethodHead || route.path == ""
	if s.Audit == nil || (reads || route.needs == needNothing) && !refused || refused && !s.refusals.Allow() {
		return
	}
	caller := callerOf(r)
	record := audit.Record{
		Time: start.UTC(), RequestID: id, TokenID: caller.ID(), TokenName: caller.Name(), Peer: r.RemoteAddr,
		Action: route.method + " " + route.path, Name: name(r), Status: w.status, Duration: time.Since(start),
	}
	if host, _, err := net.SplitHostPort(r.RemoteAddr); err == nil {
		record.Peer = host
	}
	if err != nil {
		record.Status = problem.Status(err) // of a deploy that failed while it was told, too
		record.Code = problem.Document(err, id).Code
	}
	if !recordable(r, record.Name) {
		record.Name = ""
	}
	record.Trigger = triggerName(r)
	if known := orchestrator.ValidateName(record.Trigger); known != nil {
		record.Trigger = ""
	}
	if key := keyOf(r); inBuckets(route) && orchestrator.ValidateKey(key) == nil {
		record.Key = key
	}
	s.Audit(record)
}
