package trigger

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/events"
)

// extensionTrigger is the attribute that tells a function which of its triggers
// an event comes from.
const extensionTrigger = "kilntrigger"

// stats are how a trigger does; a runner's mutex guards them.
type stats struct {
	delivered, replayed, dropped, errors uint64

	lastEventAt time.Time
	lastEventID string
	lastErrorAt time.Time
	lastError   string
	failing     bool
	retryAt     time.Time
	progress    orchestrator.Progress
}

// complete fills in what a source leaves to the engine.
func complete(e orchestrator.CloudEvent, n name) orchestrator.CloudEvent {
	if e.Source == "" {
		e.Source = "/functions/" + n.function + "/triggers/" + n.trigger
	}
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	e.Extensions = maps.Clone(e.Extensions)
	if e.Extensions == nil {
		e.Extensions = map[string]string{}
	}
	e.Extensions[extensionTrigger] = n.trigger
	return e
}

// delivered counts events that are in the queue.
func (r *runner) delivered(all []orchestrator.CloudEvent, queued []events.Queued) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, q := range queued {
		if q.Found {
			r.stats.replayed++
			continue
		}
		r.stats.delivered++
		r.stats.lastEventAt, r.stats.lastEventID = time.Now(), all[i].ID
	}
}

// dropped counts n events that were left out.
func (r *runner) dropped(n int, reason error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stats.dropped += uint64(n)
	r.failed(reason)
	r.stats.failing = false // what comes next is not affected
}

// fail notes an error that goes on; nil ends it.
func (r *runner) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err == nil {
		r.stats.failing = false
		return
	}
	r.failed(err)
}

// received notes how a request to a Receiver ended. A wrong one says nothing
// about the next.
func (r *runner) received(err error) {
	if err == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	failing := r.stats.failing
	r.failed(err)
	r.stats.failing = failing
}

// failed notes an error; mu is held.
func (r *runner) failed(err error) {
	r.stats.errors++
	r.stats.failing = true
	r.stats.lastErrorAt, r.stats.lastError = time.Now(), text(err)
}

// text is what people are shown of an error: causes stay in the log.
func text(err error) string {
	t := err.Error()
	if classed, ok := errors.AsType[*orchestrator.Error](err); ok {
		t = classed.Detail
	}
	if len(t) > maxErrorText {
		t = strings.ToValidUTF8(t[:maxErrorText], "")
	}
	return t
}

// status describes a trigger; false when it is on its way out.
func (r *runner) status(now time.Time) (orchestrator.TriggerStatus, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.want == nil {
		return orchestrator.TriggerStatus{}, false
	}
	s := &r.stats
	status := orchestrator.TriggerStatus{
		Function: r.name.function, Trigger: *r.want, Phase: r.phase,
		Delivered: s.delivered, Replayed: s.replayed, Dropped: s.dropped, Errors: s.errors,
		LastEventAt: s.lastEventAt, LastEventID: s.lastEventID, LastErrorAt: s.lastErrorAt, LastError: s.lastError,
		Failing: s.failing, RetryAt: s.retryAt,
		Pending: max(-1, s.progress.Pending), Next: s.progress.Next, Since: r.state.MadeAt, Paused: r.state.PausedAt,
	}
	if !s.progress.Oldest.IsZero() {
		status.Lag = orchestrator.Duration(max(0, now.Sub(s.progress.Oldest)))
	}
	if _, ok := r.engine.cfg.Sources[r.want.Type].(orchestrator.Receiver); ok && r.state.Version != 0 {
		status.Address = HookPrefix + r.state.ID
	}
	return status, true
}

// HookPrefix is where requests to Receivers go.
const HookPrefix = "/hooks/"

// List describes the triggers of a function, or of all ("").
func (e *Engine) List(function string) []orchestrator.TriggerStatus {
	e.mu.Lock()
	runners := slices.Collect(maps.Values(e.runners))
	e.mu.Unlock()
	all := []orchestrator.TriggerStatus{}
	for _, r := range runners {
		if function != "" && r.name.function != function {
			continue
		}
		if s, ok := r.status(time.Now()); ok {
			all = append(all, s)
		}
	}
	slices.SortFunc(all, func(a, b orchestrator.TriggerStatus) int {
		if c := strings.Compare(a.Function, b.Function); c != 0 {
			return c
		}
		return strings.Compare(a.Trigger.Name, b.Trigger.Name)
	})
	return all
}
