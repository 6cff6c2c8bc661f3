package orchestrator

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"reflect"
	"regexp"
	"slices"
	"time"
)

// Trigger is a rule of a function: what happens out there becomes an event, and
// each event an asynchronous invocation of the function. Triggers are part of a
// function's settings. They begin when the function is live, and end with it.
//
// The JSON form has the settings beside name and type.
type Trigger struct {
	Name     string   // one of a kind within the function; a label as that of a function
	Type     string   // which Source
	Settings Settings // the Source's own
}

// MaxTriggers bounds the triggers of one function: each may hold a connection.
const MaxTriggers = 32

// triggerTypeSyntax is that of the name of a kind of triggers.
var triggerTypeSyntax = regexp.MustCompile(`^[a-z][a-z0-9-]{0,30}$`)

// Validate checks all of a trigger but its settings. The error is ErrInvalid.
func (t Trigger) Validate() error {
	if err := ValidateName(t.Name); err != nil {
		return Errorf(ErrInvalid, "trigger-name-invalid", "%.80q is no name of a trigger", t.Name).
			WithHint("use 1 to %d of a-z, 0-9 and '-', beginning and ending with a letter or a digit", maxName)
	}
	if !triggerTypeSyntax.MatchString(t.Type) {
		return Errorf(ErrInvalid, "trigger-type-unknown", "%.80q is no type of triggers", t.Type).WithHint("write for example type: schedule")
	}
	return nil
}

// Equal says whether two triggers say the same.
func (t Trigger) Equal(other Trigger) bool {
	return t.Name == other.Name && t.Type == other.Type &&
		(len(t.Settings) == 0 && len(other.Settings) == 0 || reflect.DeepEqual(t.Settings, other.Settings))
}

// cloneTriggers returns a copy that shares nothing with triggers.
func cloneTriggers(triggers []Trigger) []Trigger {
	cloned := slices.Clone(triggers)
	for i, t := range cloned {
		if t.Settings != nil {
			cloned[i].Settings = cloneValue(map[string]any(t.Settings)).(map[string]any)
		}
	}
	return cloned
}

func cloneValue(v any) any {
	switch v := v.(type) {
	case map[string]any:
		cloned := make(map[string]any, len(v))
		for name, inner := range v {
			cloned[name] = cloneValue(inner)
		}
		return cloned
	case []any:
		cloned := make([]any, len(v))
		for i, inner := range v {
			cloned[i] = cloneValue(inner)
		}
		return cloned
	}
	return v
}

// MarshalJSON writes name, type and settings as one object.
func (t Trigger) MarshalJSON() ([]byte, error) {
	all := maps.Clone(t.Settings)
	if all == nil {
		all = Settings{}
	}
	all["name"], all["type"] = t.Name, t.Type
	return json.Marshal(map[string]any(all))
}

// UnmarshalJSON reads what MarshalJSON writes.
func (t *Trigger) UnmarshalJSON(data []byte) error {
	var all map[string]any
	if err := json.Unmarshal(data, &all); err != nil {
		return err
	}
	name, named := all["name"].(string)
	kind, typed := all["type"].(string)
	if !named || !typed {
		return fmt.Errorf("decode a trigger: it has no name or no type")
	}
	delete(all, "name")
	delete(all, "type")
	*t = Trigger{Name: name, Type: kind}
	if len(all) > 0 {
		t.Settings = all
	}
	return nil
}

// Source is one kind of trigger: it watches one sort of outside (the clock, a
// bucket, a database, a broker) and turns what happens there into events.
//
// # Vocabulary
//
// A trigger runs while its source's Run runs for it. What Run hands over goes
// through the Feed of the trigger: an event is delivered once the queue of
// asynchronous invocations has it on disk. From there on retries, dead letters,
// order by key and the function's concurrency are the queue's affair: a function
// that fails or is slow is never the source's. The position is where in the outside
// a trigger has got to, in a form that only its source knows; the engine of
// triggers (package trigger) keeps it.
//
// # Lifecycle
//
// For each trigger of a live function the engine calls Run, in a goroutine that
// is the trigger's, and one at a time: before Run is called again for a trigger,
// the call before has returned. Run blocks until ctx ends and then returns soon
// (StopTimeout), with everything ended that it began; what it returns then is not
// looked at. The engine ends ctx when the trigger is paused, changed or removed
// and when the gateway stops.
//
// Run begins at Feed.Position: nil for a trigger that never ran, which is "from
// now on" unless the source's settings say otherwise. Where that is has to be
// kept: before it calls Feed.Ready a source stores its first position (Deliver
// with a position and no event), or has made outside what holds it (a durable
// consumer, a replication slot). Pause and resume, a restart and a crash of the
// gateway are the same to a source: Run returned, or never did, and later another
// Run is given the position that was stored last, and goes on there. Nothing that
// happened since may be left out. When the settings of a trigger change, its
// position stays; a source for which it then means nothing writes into it what it
// needs to notice. A trigger that is removed and added again, or changes its type,
// is another one, without a position.
//
// # Delivery
//
// At least once: a source confirms to the outside (an acknowledgement, a
// confirmed LSN) or moves its position on only after Feed.Deliver returned nil. It
// gives the same event the same Source and ID whenever it reads it: the engine makes
// these the idempotency key of the call, so that what is delivered a second time
// after a crash is folded for as long as the queue knows the first. So an ID comes
// from the outside (a sequence number, an LSN, the instant of a schedule), never
// from a random source.
//
// Back-pressure: Deliver returns only when the queue has room again. The source
// stops reading meanwhile: it drops nothing and keeps nothing that is not bounded.
//
// # Failures
//
// Run returns an error when it cannot go on (the broker is away, the password is
// wrong); the engine shows it and runs the trigger again after a pause, doubled
// from RestartPause up to RestartPauseMax while Run fails at once. A source needs
// no reconnecting of its own, but may have one. What is wrong with one event (it is
// too large, it cannot be read) must not stop those behind it: Feed.Drop tells of
// it, and the source goes on.
//
// Errors are of the classes of this package, so that people are told what to do.
// What is shown of an error is its Detail (see Errorf, whose %w becomes part of
// it). A source keeps no secret in errors, events or reports. Settings name secrets and
// never hold them; sources look them up with a SecretFunc, in Run and Receive, not
// in Check. A setting that names one is called "secret", so that people are kept
// from removing what is in use.
//
// All methods are safe for concurrent use. A source holds no state of a trigger
// outside of Run. Package triggertest has the conformance suite.
type Source interface {
	// Check says whether a trigger's settings can be: it is called at deploy,
	// reads nothing but the settings, and never waits. The error is ErrInvalid, a
	// *SettingError where one setting is to blame (see Settings.Reader).
	Check(trigger Trigger) error
	// Sample returns an event as the trigger would deliver it, for people who try
	// a function out. The engine gives it an ID of its own.
	Sample(trigger Trigger) CloudEvent
	// Run watches for one trigger until ctx ends.
	Run(ctx context.Context, trigger Trigger, feed Feed) error
}

// SecretFunc returns what a secret holds for the triggers of a function. Errors:
// ErrInvalid or ErrNotFound when there is none of the name or the function may not
// use it, ErrUnavailable. Sources that need secrets have one in their Config.
type SecretFunc func(ctx context.Context, function, name string) ([]byte, error)

// Timing of the life of triggers.
const (
	// StopTimeout is how long a Run may take to return after its context ended.
	StopTimeout = 5 * time.Second
	// RestartPause and RestartPauseMax are the pauses before a Run that returned
	// is made again.
	RestartPause    = time.Second
	RestartPauseMax = time.Minute
)

// MaxPosition bounds a position, in bytes.
const MaxPosition = 16 << 10

// Feed is the engine's side of one Run: it takes events in and keeps the
// position. It may be used by any goroutine of that Run, and refuses everything
// with ErrUnavailable once Run has returned.
type Feed interface {
	// Function is the name of the trigger's function.
	Function() string
	// ID is the trigger's identity: 26 random letters and digits, made once and
	// kept as long as the trigger is. It names what a source makes for the trigger
	// outside (a consumer, a replication slot). It is part of the address of a
	// Receiver, so it is not shown where that would matter.
	ID() string
	// Position returns the position that this Run begins with; nil = none yet.
	Position() []byte
	// Ready tells that the source watches: what happens from now on will be
	// delivered. Until then the trigger is shown as starting. Every Run that does
	// not fail calls it, a Receiver's too.
	Ready()
	// Deliver hands events over, in order, and moves the position on; nil leaves
	// the position as it is. It waits while the queue is full or the store does not
	// answer, and returns nil once all events are on disk. Of several events, some
	// may be there when it returns an error: the same call again folds those.
	//
	// Few calls with many events are cheaper than many with one: the events of one
	// call share a write to the disk, as those of concurrent calls do. The position
	// is written at once when none was for a second, and else within a second:
	// after a crash a source may read what it delivered in the last second again.
	//
	// Calls with a position are made one after another.
	//
	// Errors: ctx's, when that ended first; ErrInvalid and ErrTooLarge for an event
	// that can never be taken (see CloudEvent.Validate), and then none of the call's was:
	// shorten it, or Drop it and go on; ErrUnavailable once Run has returned.
	Deliver(ctx context.Context, position []byte, events ...CloudEvent) error
	// Offer is Deliver for those who have somebody who waits, and can say "later"
	// to them: it does not wait but returns ErrExhausted when the queue is full and
	// ErrUnavailable when the store does not answer. Replayed says of each event
	// that it had been delivered before.
	Offer(ctx context.Context, events ...CloudEvent) (replayed []bool, err error)
	// Drop tells that an event was left out for good, and why. It is counted, shown
	// and logged; the position is not moved.
	Drop(event CloudEvent, reason error)
	// Missed is Drop for n events that nobody can name any more.
	Missed(n int, reason error)
	// Report tells how far the trigger is behind. It does not wait, and may be
	// called for every event.
	Report(Progress)
	// Fail shows an error that the source is dealing with itself, such as a
	// connection that it makes again; nil says that all is well. Ready, Deliver and
	// the return of Run do the same by themselves.
	Fail(err error)
}

// Progress is how far a trigger is behind the outside.
type Progress struct {
	Pending int64     // events that happened and were not delivered yet; negative = not known
	Oldest  time.Time // when the first of those happened; zero = none or not known
	Next    time.Time // when the next event will happen; zero = not known
}

// Receiver is a Source whose events are brought to it: requests to
// /hooks/{Feed.ID} end here. Its Run has nothing to do but wait for ctx.
type Receiver interface {
	Source
	// Receive takes one request in and says what to answer. It is called while a
	// Run of the trigger runs and must be quick: it hands the event over with
	// Feed.Offer and answers once that returned. An error becomes a problem
	// document with the status of its class, and is shown as the trigger's last one.
	Receive(ctx context.Context, trigger Trigger, feed Feed, request Incoming) (Reply, error)
}

// Incoming is a request to a Receiver.
type Incoming struct {
	Method string
	Path   string // below the hook, with the query; "" or "/x?y=1"
	Header http.Header
	Body   []byte // at most MaxEventData
	Peer   string // address of who sent it
}

// Reply is a Receiver's answer.
type Reply struct {
	Status      int
	ContentType string
	Body        []byte
}

// Forgetter is a Source that leaves something outside for a trigger (a
// replication slot, a consumer) which has to go when the trigger goes for good.
type Forgetter interface {
	Source
	// Forget takes away what Run made outside. It is called after the last Run of a
	// trigger that was removed, or whose function was, possibly by a later gateway
	// and more than once; what is not there is no error. On an error it is called
	// again, with growing pauses, up to ForgetTries times.
	Forget(ctx context.Context, trigger Trigger, id string, position []byte) error
}

// ForgetTimeout bounds one Forget, ForgetTries how often one is tried before what
// is left outside is left to people, who find it in the log.
const (
	ForgetTimeout = 15 * time.Second
	ForgetTries   = 10
)

// TriggerPhase is a state of a trigger's life:
//
//	starting -> running -> retrying -> starting; any -> paused -> starting
type TriggerPhase string

// The states of a trigger.
const (
	TriggerStarting TriggerPhase = "starting" // Run is not Ready yet
	TriggerRunning  TriggerPhase = "running"  // Run is, and watches
	TriggerRetrying TriggerPhase = "retrying" // Run returned, and is made again
	TriggerPaused   TriggerPhase = "paused"   // by somebody; nothing is lost
)

// TriggerStatus is a trigger and how it does. Counts are since the gateway
// started. Its JSON form is the wire form.
type TriggerStatus struct {
	Function string       `json:"function"`
	Trigger  Trigger      `json:"trigger"`
	Phase    TriggerPhase `json:"phase"`
	// Address is where events are brought to, for a Receiver: "/hooks/ID". Whoever
	// knows it can send, unless the trigger wants signatures.
	Address string `json:"address,omitempty"`

	Delivered uint64 `json:"delivered"` // events that became invocations
	Replayed  uint64 `json:"replayed"`  // events that had been delivered before
	Dropped   uint64 `json:"dropped"`   // events that were left out for good
	Errors    uint64 `json:"errors"`

	LastEventAt time.Time `json:"last_event_at,omitzero"`
	LastEventID string    `json:"last_event_id,omitempty"`
	LastErrorAt time.Time `json:"last_error_at,omitzero"`
	LastError   string    `json:"last_error,omitempty"` // kept after all is well again
	Failing     bool      `json:"failing"`              // the last error is not over
	RetryAt     time.Time `json:"retry_at,omitzero"`    // retrying: when Run is made again

	Pending int64     `json:"pending"`         // Progress.Pending; -1 = not known
	Lag     Duration  `json:"lag"`             // how old the first of those is
	Next    time.Time `json:"next,omitzero"`   // Progress.Next
	Since   time.Time `json:"since,omitzero"`  // when the trigger was made
	Paused  time.Time `json:"paused,omitzero"` // since when it is paused
}

// TriggerState is what is kept of a trigger.
type TriggerState struct {
	Function string    `json:"function"`
	Trigger  Trigger   `json:"trigger"` // as it ran last
	ID       string    `json:"id"`      // see Feed.ID
	Position []byte    `json:"position,omitempty"`
	PausedAt time.Time `json:"paused_at,omitzero"` // zero = it is not paused
	MadeAt   time.Time `json:"made_at"`
	// Version is set by the store, as that of a Function.
	Version uint64 `json:"-"`
}

// TriggerStore keeps the states of triggers. What a method acknowledged is on
// disk. States are written by compare-and-set on TriggerState.Version, so that
// writing a position cannot bring a trigger back that was removed meanwhile.
//
// Errors: ErrNotFound; ErrConflict when the version is not the stored one, or a
// state to be created exists; ErrUnavailable; ErrExhausted when the disk is full.
// Methods are safe for concurrent use.
type TriggerStore interface {
	// TriggerStates returns all, by function and name.
	TriggerStates(ctx context.Context) ([]TriggerState, error)
	// TriggerState returns one.
	TriggerState(ctx context.Context, function, name string) (TriggerState, error)
	// PutTriggerState creates (Version 0) or replaces a state and returns it with
	// its new version.
	PutTriggerState(ctx context.Context, s TriggerState) (TriggerState, error)
	// DeleteTriggerState removes a state; absent is no error.
	DeleteTriggerState(ctx context.Context, function, name string) error
}

// TriggerHost runs the triggers of live functions, as the use cases see it.
// Package trigger implements it.
type TriggerHost interface {
	// Serve makes triggers those of a function: what is new begins, what is no
	// longer there ends for good, what stays the same is left alone. It does not
	// wait.
	Serve(function string, triggers []Trigger)
	// Remove ends the triggers of a function for good. It does not wait.
	Remove(function string)
}
