package orchestrator

import (
	"context"
	"net/http"
	"time"
)

// Journal is the memory of the queue of asynchronous invocations: a log of
// entries that outlives the process. Package events builds the queue on it.
//
// Entries are opaque. Those that one Append gives form a whole: after a crash
// all of them are there or none. What Append has acknowledged is on disk and
// survives SIGKILL and power loss at any later instant; an entry that was not
// acknowledged is there whole or not at all. Each entry has a Position, later
// ones a greater one. Entries are never changed; Trim forgets the oldest.
//
// Concurrent Appends share one wait for the disk and keep no order among each
// other; Appends that follow each other keep theirs.
//
// Errors: ErrNotFound for an entry that was trimmed or never there; ErrTooLarge
// for entries over MaxAppend; ErrUnavailable when the log does not answer;
// ErrExhausted when the disk is full; ErrDeadline when ctx ends, after which
// what was given to Append may be there. Methods are safe for concurrent use.
type Journal interface {
	// Append stores entries and returns where they are.
	Append(ctx context.Context, entries ...[]byte) ([]Position, error)
	// Replay calls f for each entry that was not trimmed, in the order of their
	// positions. The entry is f's to keep. An error of f ends it and is returned.
	Replay(ctx context.Context, f func(at Position, entry []byte) error) error
	// Read returns one entry, which is not to be changed.
	Read(ctx context.Context, at Position) ([]byte, error)
	// Trim forgets the entries of all commits before the given one. It may keep
	// some of them for a while; they are replayed then.
	Trim(ctx context.Context, before uint64) error
}

// MaxAppend bounds the entries of one Append together, in bytes: with what the
// log adds they stay below NATS' default limit of 1 MiB for a message.
const MaxAppend = 960 << 10

// Position is where an entry is: the commit that brought it, counted from 1 with
// gaps, and its place in that.
type Position struct {
	Commit uint64 `json:"commit"`
	Index  int    `json:"index"`
}

// InvocationStatus is a state of an asynchronous invocation's life:
//
//	waiting -> running -> succeeded | failed | canceled
//	running -> waiting (it is tried again), waiting -> canceled
//	failed, canceled -> waiting (somebody wants it tried again)
//
// A crash of the gateway takes what was running back to waiting. A failed
// invocation is a dead letter: it keeps its call until it is tried again or
// dropped.
type InvocationStatus string

// The states of an asynchronous invocation.
const (
	InvocationWaiting   InvocationStatus = "waiting"
	InvocationRunning   InvocationStatus = "running"
	InvocationSucceeded InvocationStatus = "succeeded"
	InvocationFailed    InvocationStatus = "failed"
	InvocationCanceled  InvocationStatus = "canceled"
)

// Ended says whether nothing more happens to an invocation by itself.
func (s InvocationStatus) Ended() bool {
	return s == InvocationSucceeded || s == InvocationFailed || s == InvocationCanceled
}

// Invocation is an asynchronous call and what became of it. Its JSON form is
// the wire form.
type Invocation struct {
	ID       string           `json:"id"` // UUID version 7
	Function string           `json:"function"`
	Status   InvocationStatus `json:"status"`

	// Target is where the call goes when that is not the function itself: the
	// URL of a callback or of a destination.
	Target string      `json:"target,omitempty"`
	Path   string      `json:"path"` // below the function, with the query
	Header http.Header `json:"header,omitempty"`
	Size   int64       `json:"size"` // of the body, bytes

	OrderingKey    string `json:"ordering_key,omitempty"`    // calls of one key run one after another
	IdempotencyKey string `json:"idempotency_key,omitempty"` // of calls with the same key one is made
	CallbackURL    string `json:"callback_url,omitempty"`    // gets the result
	Parent         string `json:"parent,omitempty"`          // the invocation whose result this passes on
	Hops           int    `json:"hops,omitempty"`            // how many parents there are
	// Then are the functions that get the result, one after another; Next is the
	// invocation of the first of them, once there is one.
	Then []string `json:"then,omitempty"`
	Next string   `json:"next,omitempty"`

	CreatedAt time.Time `json:"created_at"`
	NotBefore time.Time `json:"not_before,omitzero"` // when its caller wanted it to be made
	RevivedAt time.Time `json:"revived_at,omitzero"` // when somebody had it tried again; its age counts from here
	NextAt    time.Time `json:"next_at,omitzero"`    // waiting: not tried before
	EndedAt   time.Time `json:"ended_at,omitzero"`

	Tries    int       `json:"tries"`              // attempts that count for the retry policy
	Deferred int       `json:"deferred,omitempty"` // in a row, times it was put off without counting
	Attempts []Attempt `json:"attempts,omitempty"` // the latest, oldest first
	Result   *Result   `json:"result,omitempty"`
	// Error says why it failed; empty unless it did.
	Error string `json:"error,omitempty"`
}

// Attempt is one try of an invocation.
type Attempt struct {
	StartedAt time.Time `json:"started_at"`
	Duration  Duration  `json:"duration"`
	Status    int       `json:"status,omitempty"` // HTTP; 0 when there was no answer
	Revision  string    `json:"revision,omitempty"`
	Error     string    `json:"error,omitempty"`
	// Counted tells that it used up one of the attempts of the policy.
	Counted bool `json:"counted"`
}

// Result is what the last attempt was answered with.
type Result struct {
	Status    int         `json:"status"`
	Header    http.Header `json:"header,omitempty"`
	Size      int64       `json:"size"`                // of the kept body, bytes
	Truncated bool        `json:"truncated,omitempty"` // the answer was longer
}
