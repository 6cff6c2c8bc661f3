package triggertest

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/cloudevents"
	"github.com/kilnfaas/kiln/orchestrator/events"
	"github.com/kilnfaas/kiln/orchestrator/queuetest"
	"github.com/kilnfaas/kiln/orchestrator/storetest"
	"github.com/kilnfaas/kiln/orchestrator/trigger"
)

// functionName is the function whose triggers are tested.
const functionName = "target"

// closeTimeout bounds the end of a queue whose function does not return.
const closeTimeout = 10 * time.Second

// rig is a gateway as far as triggers go. It can be ended and started again.
type rig struct {
	t        *testing.T
	world    World
	patience time.Duration
	journal  *queuetest.Fake
	states   *storetest.FakeTriggers
	depth    int // of the queue; 0 = its default
	attempts int // of the function's policy

	mu       sync.Mutex
	triggers []orchestrator.Trigger
	mortal   *mortal         // journal and store of the gateway that runs
	engine   *trigger.Engine // nil while no gateway runs
	queue    *events.Queue
	got      map[int]int         // calls of the function by the number of their event
	strange  []string            // what is wrong with calls
	changed  chan struct{}       // closed and replaced at each call
	answer   func(n int) int     // status for event n
	hold     chan struct{}       // non-nil: calls wait until it is closed
	ids      map[string]int      // number by event id
	causes   sync.WaitGroup      // Causes of Receivers
	stop     context.Context     // of those
	first    orchestrator.Source // for what needs no run
}

func newRig(t *testing.T, world World) *rig {
	r := &rig{
		t: t, world: world, patience: world.Patience, journal: queuetest.NewFake(), states: storetest.NewFakeTriggers(), attempts: 1,
		triggers: []orchestrator.Trigger{world.Trigger}, got: map[int]int{}, changed: make(chan struct{}), ids: map[string]int{},
		answer: func(int) int { return http.StatusOK }, first: world.Source(),
	}
	if r.patience == 0 {
		r.patience = defaultPatience
	}
	ctx, cancel := context.WithCancel(context.Background())
	r.stop = ctx
	t.Cleanup(func() {
		cancel()
		r.release()
		r.causes.Wait()
		r.end()
	})
	return r
}

// start starts a gateway and waits until the trigger watches.
func (r *rig) start() {
	r.t.Helper()
	r.begin()
	r.until("the trigger watches", func() bool { return r.status().Phase == orchestrator.TriggerRunning })
}

// begin starts a gateway.
func (r *rig) begin() {
	r.t.Helper()
	logger := slog.New(slog.NewTextHandler(r.t.Output(), nil))
	mortal := &mortal{journal: r.journal, states: r.states}
	queue := events.New(events.Config{
		Journal: mortal, Functions: r, Fleet: r, Invoke: r.invoke, Depth: r.depth, Share: 1, Logger: logger,
	})
	engine := trigger.New(trigger.Config{
		Sources: map[string]orchestrator.Source{r.world.Trigger.Type: r.world.Source()}, Store: mortal, Logger: logger,
	})
	for _, t := range r.triggers {
		if err := engine.Check(t); err != nil {
			r.t.Fatalf("the settings are refused: %v", err)
		}
	}
	if err := queue.Open(r.t.Context()); err != nil {
		r.t.Fatal(err)
	}
	engine.Serve(functionName, r.triggers)
	if err := engine.Open(r.t.Context(), queue); err != nil {
		r.t.Fatal(err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mortal, r.queue, r.engine = mortal, queue, engine
}

// end stops the gateway, as SIGTERM does.
func (r *rig) end() {
	r.mu.Lock()
	engine, queue := r.engine, r.queue
	r.engine, r.queue = nil, nil
	r.mu.Unlock()
	if engine == nil {
		return
	}
	engine.Close()
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	queue.Close(ctx) // an error says that attempts were cut, which some tests want
}

// crash stops the gateway so that nothing more of it reaches the disk.
func (r *rig) crash() {
	r.mortal.die()
	r.end()
}

// invoke is the function.
func (r *rig) invoke(ctx context.Context, call events.Call) events.Answer {
	r.mu.Lock()
	hold := r.hold
	r.mu.Unlock()
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
			return events.Answer{Err: orchestrator.Errorf(orchestrator.ErrUnavailable, "stopped", "the gateway stops")}
		}
	}
	event, err := cloudevents.FromHeader(call.Invocation.Header, call.Body)
	n := 0
	if err == nil {
		n, err = r.world.Number(event)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		r.strange = append(r.strange, fmt.Sprintf("call %s is no event of this world: %v", call.Invocation.ID, err))
	}
	if other, ok := r.ids[event.ID]; ok && other != n {
		r.strange = append(r.strange, fmt.Sprintf("events %d and %d both have the id %q", other, n, event.ID))
	}
	r.ids[event.ID] = n
	r.got[n]++
	close(r.changed)
	r.changed = make(chan struct{})
	return events.Answer{Status: r.answer(n)}
}

// Function implements events.Functions.
func (r *rig) Function(_ context.Context, name string) (orchestrator.Function, error) {
	spec := orchestrator.DefaultSpec()
	spec.Name, spec.Async.Attempts, spec.Async.Backoff = name, r.attempts, orchestrator.Duration(time.Millisecond)
	return orchestrator.Function{Name: name, Spec: spec}, nil
}

// Slots implements events.Fleet.
func (r *rig) Slots(string) int { return 4 }

// Backlog implements events.Fleet.
func (r *rig) Backlog(string, int) {}

// cause makes events happen outside.
func (r *rig) cause(numbers ...int) {
	r.t.Helper()
	if _, receiver := r.first.(orchestrator.Receiver); receiver {
		r.causes.Go(func() {
			for _, n := range numbers {
				if err := r.world.Cause(n, r.receive); err != nil && r.stop.Err() == nil {
					r.t.Errorf("cause event %d: %v", n, err)
				}
			}
		})
		return
	}
	for _, n := range numbers {
		if err := r.world.Cause(n, r.receive); err != nil {
			r.t.Fatalf("cause event %d: %v", n, err)
		}
	}
}

// receive is what senders reach.
func (r *rig) receive(ctx context.Context, request orchestrator.Incoming) (orchestrator.Reply, error) {
	r.mu.Lock()
	engine := r.engine
	r.mu.Unlock()
	if r.stop.Err() != nil {
		return orchestrator.Reply{Status: http.StatusOK}, nil // the test is over: let senders go
	}
	state, err := r.states.TriggerState(ctx, functionName, r.world.Trigger.Name)
	if engine == nil || err != nil {
		return orchestrator.Reply{}, orchestrator.Errorf(orchestrator.ErrUnavailable, "no-gateway", "no gateway answers")
	}
	return engine.Receive(ctx, state.ID, request)
}

// status describes the trigger.
func (r *rig) status() orchestrator.TriggerStatus {
	r.t.Helper()
	s, err := r.engine.Trigger(functionName, r.world.Trigger.Name)
	if err != nil {
		r.t.Fatal(err)
	}
	return s
}

// pollBase and pollMax are the pauses between looks at a condition that nothing
// tells of.
const (
	pollBase = time.Millisecond
	pollMax  = 200 * time.Millisecond
)

// until waits for a condition.
func (r *rig) until(what string, met func() bool) {
	r.t.Helper()
	deadline := time.NewTimer(r.patience)
	defer deadline.Stop()
	for pause := pollBase; ; pause = min(2*pause, pollMax) {
		if met() {
			return
		}
		r.mu.Lock()
		changed := r.changed
		r.mu.Unlock()
		poll := time.NewTimer(pause)
		select {
		case <-changed:
		case <-poll.C:
		case <-deadline.C:
			r.t.Fatalf("not so within %s: %s\n%s", r.patience, what, r.tell())
		}
		poll.Stop()
	}
}

// tell says what came, for failures.
func (r *rig) tell() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	text := "calls by event:"
	for _, n := range slices.Sorted(maps.Keys(r.got)) {
		text += fmt.Sprintf(" %d×%d", n, r.got[n])
	}
	if r.engine != nil {
		text += fmt.Sprintf("\nstatus: %+v", r.engine.List(""))
	}
	return text
}

// came waits until each of the events 1 to n was called at least once.
func (r *rig) came(n int) {
	r.t.Helper()
	r.until(fmt.Sprintf("events 1 to %d were delivered", n), func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		for i := 1; i <= n; i++ {
			if r.got[i] == 0 {
				return false
			}
		}
		return true
	})
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, strange := range r.strange {
		r.t.Error(strange)
	}
}

// quiet waits until the end of every call is on disk.
func (r *rig) quiet() {
	r.t.Helper()
	r.until("all calls have ended", func() bool {
		busy := 0
		for s := range r.queue.Stats {
			busy += s.Waiting + s.Running
		}
		return busy == 0
	})
}

// once checks that none of the events 1 to n was called more often than once: a
// source that gives an event the same id each time has its duplicates folded.
func (r *rig) once(n int) {
	r.t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := 1; i <= n; i++ {
		if r.got[i] > 1 {
			r.t.Errorf("event %d was called %d times, want one: its id has to be the same whenever it is read", i, r.got[i])
		}
	}
}

// calls returns how many calls there were.
func (r *rig) calls() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	sum := 0
	for _, n := range r.got {
		sum += n
	}
	return sum
}

// holdCalls lets calls wait until release.
func (r *rig) holdCalls() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.hold = make(chan struct{})
}

func (r *rig) release() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.hold != nil {
		close(r.hold)
		r.hold = nil
	}
}

// mortal is the disk of one gateway: it can be made to fail for a while, and for
// good.
type mortal struct {
	journal *queuetest.Fake
	states  *storetest.FakeTriggers

	mu   sync.Mutex
	dead bool  // guarded by mu
	fail error // guarded by mu
}

func (m *mortal) die() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.dead = true
}

func (m *mortal) breakDown(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fail = err
}

func (m *mortal) gone() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.dead {
		return orchestrator.Errorf(orchestrator.ErrUnavailable, "crashed", "the gateway is no more")
	}
	return m.fail
}

// Append implements orchestrator.Journal.
func (m *mortal) Append(ctx context.Context, entries ...[]byte) ([]orchestrator.Position, error) {
	if err := m.gone(); err != nil {
		return nil, err
	}
	return m.journal.Append(ctx, entries...)
}

// Replay implements orchestrator.Journal.
func (m *mortal) Replay(ctx context.Context, f func(orchestrator.Position, []byte) error) error {
	return m.journal.Replay(ctx, f)
}

// Read implements orchestrator.Journal.
func (m *mortal) Read(ctx context.Context, at orchestrator.Position) ([]byte, error) {
	return m.journal.Read(ctx, at)
}

// Trim implements orchestrator.Journal.
func (m *mortal) Trim(ctx context.Context, before uint64) error {
	if err := m.gone(); err != nil {
		return err
	}
	return m.journal.Trim(ctx, before)
}

// TriggerStates implements orchestrator.TriggerStore.
func (m *mortal) TriggerStates(ctx context.Context) ([]orchestrator.TriggerState, error) {
	return m.states.TriggerStates(ctx)
}

// TriggerState implements orchestrator.TriggerStore.
func (m *mortal) TriggerState(ctx context.Context, function, name string) (orchestrator.TriggerState, error) {
	return m.states.TriggerState(ctx, function, name)
}

// PutTriggerState implements orchestrator.TriggerStore.
func (m *mortal) PutTriggerState(ctx context.Context, s orchestrator.TriggerState) (orchestrator.TriggerState, error) {
	if err := m.gone(); err != nil {
		return orchestrator.TriggerState{}, err
	}
	return m.states.PutTriggerState(ctx, s)
}

// DeleteTriggerState implements orchestrator.TriggerStore.
func (m *mortal) DeleteTriggerState(ctx context.Context, function, name string) error {
	if err := m.gone(); err != nil {
		return err
	}
	return m.states.DeleteTriggerState(ctx, function, name)
}
