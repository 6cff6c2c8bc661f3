// Package events makes asynchronous invocations: it queues calls durably, takes
// them to their functions when they are due, tries again what failed, keeps
// results for a while and dead letters until somebody decides.
//
// Queue is a state machine in memory whose every step is an entry in an
// orchestrator.Journal; opening it replays them. A call is made at least once:
// the entry that ends it is written after the function answered, so that a
// gateway that dies in between makes it again. What is decided about an attempt
// is a pure function (Decide); what an attempt does is the Invoke and Deliver
// that the queue is given, the same data plane that synchronous callers use.
package events

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/kilnfaas/kiln/orchestrator"
)

// Defaults of a Config, and other bounds.
const (
	// DefaultDepth is how many calls of one function may wait: half a minute of
	// calls at the rate that the journal takes them in, and 100 MB with bodies of 1 KiB.
	DefaultDepth = 100_000
	// DefaultBytes bounds the bodies of all that waits: it is read once at each start.
	DefaultBytes = 1 << 30
	// DefaultShare is the part of a function's slots that asynchronous calls use.
	DefaultShare = 0.5
	// DefaultResultTTL is how long a result is kept after its call ended.
	DefaultResultTTL = time.Hour
	// DefaultResults bounds the results that are kept, and DefaultDead the dead
	// letters; of more the oldest go. One takes about 300 bytes of memory.
	DefaultResults = 100_000
	DefaultDead    = 10_000
	// MaxCall bounds the body of a call, MaxResult what is kept of an answer: a
	// call, its result and two destinations fit one commit of the journal.
	MaxCall   = 512 << 10
	MaxResult = 192 << 10
	// maxRunning bounds the attempts of all functions that run at one time.
	maxRunning = 512
	// maxOutbound is how many results of one function are sent on at one time.
	maxOutbound = 8
	// maxAttemptsKept is how many of an invocation's attempts are remembered.
	maxAttemptsKept = 20
	// maxHops bounds a chain of destinations: one that leads back to its
	// beginning has to end.
	maxHops = 16
	// writeTimeout bounds writing what must be written although nobody waits.
	writeTimeout = 30 * time.Second
	// journalPause is how long an invocation waits whose end could not be written.
	journalPause = time.Second
)

// Functions knows the settings of functions.
type Functions interface {
	// Function returns one function; ErrNotFound.
	Function(ctx context.Context, name string) (orchestrator.Function, error)
}

// Fleet is the running side as the queue sees it.
type Fleet interface {
	// Slots returns how many requests the ready instances of a function, and
	// those about to be, can have at one time; at least those of one instance.
	Slots(function string) int
	// Backlog tells how many calls of a function wait to be made, so that there
	// are instances for them.
	Backlog(function string, calls int)
}

// Call is one attempt as the data plane gets it.
type Call struct {
	Invocation orchestrator.Invocation // its header and attempts are not to be changed
	Body       []byte
}

// Config sets a Queue up.
type Config struct {
	Journal   orchestrator.Journal // required
	Functions Functions            // required
	Fleet     Fleet                // required
	// Invoke makes an attempt at a function and returns its answer.
	Invoke func(ctx context.Context, call Call) Answer
	// Deliver makes an attempt at an Invocation.Target.
	Deliver func(ctx context.Context, call Call) Answer

	Depth     int           // calls of one function that may wait; 0 = DefaultDepth
	Bytes     int64         // of all bodies that wait; 0 = DefaultBytes
	Share     float64       // of a function's slots, above 0 up to 1; 0 = DefaultShare
	ResultTTL time.Duration // 0 = DefaultResultTTL
	Results   int           // kept at most; 0 = DefaultResults
	Dead      int           // dead letters kept at most; 0 = DefaultDead
	Logger    *slog.Logger  // nil = discard
}

// Queue is the asynchronous invocations of a gateway. All methods are safe for
// concurrent use.
type Queue struct {
	cfg     Config
	ctx     context.Context // of lanes and attempts; ended by Close
	cancel  context.CancelFunc
	stop    chan struct{}  // closed when nothing new begins
	work    sync.WaitGroup // lanes and the janitor
	running chan struct{}  // tokens of attempts, maxRunning

	mu      sync.Mutex // guards all that follows; never held across I/O
	free    *sync.Cond // some record is no longer being written
	closed  bool
	records map[string]*record
	byKey   map[idempotencyKey]*record
	lanes   map[laneName]*lane
	order   uint64
	bytes   int64 // of waiting and running calls
	results fifo  // succeeded and canceled, in the order in which they ended
	letters fifo  // failed
	commits commits
}

type idempotencyKey struct{ function, key string }

// New returns a queue that is not open yet.
func New(config Config) *Queue {
	setDefault(&config.Depth, DefaultDepth)
	setDefault(&config.Bytes, DefaultBytes)
	setDefault(&config.Share, DefaultShare)
	setDefault(&config.ResultTTL, DefaultResultTTL)
	setDefault(&config.Results, DefaultResults)
	setDefault(&config.Dead, DefaultDead)
	if config.Logger == nil {
		config.Logger = slog.New(slog.DiscardHandler)
	}
	q := &Queue{
		cfg: config, stop: make(chan struct{}), running: make(chan struct{}, maxRunning),
		records: map[string]*record{}, byKey: map[idempotencyKey]*record{}, lanes: map[laneName]*lane{},
		commits: newCommits(),
	}
	q.free = sync.NewCond(&q.mu)
	q.ctx, q.cancel = context.WithCancel(context.Background())
	return q
}

func setDefault[T comparable](value *T, fallback T) {
	var zero T
	if *value == zero {
		*value = fallback
	}
}

// Open reads the journal and begins to make the calls that are due. Errors are
// the journal's, or that it holds what this Kiln does not know.
func (q *Queue) Open(ctx context.Context) error {
	if err := q.replay(ctx); err != nil {
		return fmt.Errorf("read the queue: %w", err)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, l := range q.lanes {
		q.attend(l)
	}
	q.work.Add(1)
	go q.tidyUp()
	return nil
}

// Close begins no attempt any more, lets those that run end until ctx does, and
// then ends them; the next gateway makes them again. It may be called again.
func (q *Queue) Close(ctx context.Context) error {
	q.mu.Lock()
	if !q.closed {
		q.closed = true
		close(q.stop)
	}
	q.mu.Unlock()
	ended := make(chan struct{})
	go func() {
		q.work.Wait()
		close(ended)
	}()
	var err error
	select {
	case <-ended:
	case <-ctx.Done():
		err = errors.New("asynchronous calls were cut; the next gateway makes them again")
	}
	q.cancel()
	<-ended
	return err
}

// lane returns the lane of a name, made when missing; mu is held.
func (q *Queue) lane(name laneName) *lane {
	l := q.lanes[name]
	if l == nil {
		l = newLane(name)
		q.lanes[name] = l
	}
	return l
}

// attend makes sure that a goroutine looks after a lane; mu is held.
func (q *Queue) attend(l *lane) {
	switch {
	case l.served:
		l.rouse()
	case !q.closed && !l.empty():
		l.served = true
		q.work.Add(1)
		go q.serve(l)
	}
}

// own waits until nobody writes the next entry of a record and takes that
// right; mu is held, and given up while waiting.
func (q *Queue) own(r *record) {
	for r.writing {
		q.free.Wait()
	}
	r.writing = true
}

// disown gives the right to write a record back; mu is held.
func (q *Queue) disown(r *record) {
	r.writing = false
	q.free.Broadcast()
}

// append writes entries as one commit and returns their refs, each needed once.
// The caller releases what they replace. mu is not held.
func (q *Queue) append(ctx context.Context, entries ...entry) ([]ref, error) {
	data := make([][]byte, len(entries))
	for i, e := range entries {
		var err error
		if data[i], err = e.encode(); err != nil {
			return nil, err
		}
	}
	q.mu.Lock()
	end := q.commits.begin()
	q.mu.Unlock()
	positions, err := q.cfg.Journal.Append(ctx, data...)
	q.mu.Lock()
	defer q.mu.Unlock()
	end()
	if err != nil {
		return nil, err
	}
	refs := make([]ref, len(entries))
	for i, at := range positions {
		refs[i] = ref{at: at, size: len(data[i])}
		q.commits.add(refs[i])
		q.commits.need(refs[i])
	}
	return refs, nil
}

// writingContext returns a context for an entry that must be written although nobody
// waits for it.
func (q *Queue) writingContext() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(q.ctx), writeTimeout)
}
