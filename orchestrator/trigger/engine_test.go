package trigger_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/events"
	"github.com/kilnfaas/kiln/orchestrator/storetest"
	"github.com/kilnfaas/kiln/orchestrator/trigger"
)

// source is a Receiver and Forgetter made of functions.
type source struct {
	run     func(ctx context.Context, t orchestrator.Trigger, feed orchestrator.Feed) error
	receive func(ctx context.Context, feed orchestrator.Feed, request orchestrator.Incoming) (orchestrator.Reply, error)
	forget  func(id string, position []byte) error
}

func (s source) Check(t orchestrator.Trigger) error {
	r := t.Settings.Reader()
	r.Text("a", "")
	return r.Err()
}

func (s source) Sample(orchestrator.Trigger) orchestrator.CloudEvent {
	return orchestrator.CloudEvent{Type: "sample", ContentType: "text/plain", Data: []byte("x")}
}

func (s source) Run(ctx context.Context, t orchestrator.Trigger, feed orchestrator.Feed) error {
	return s.run(ctx, t, feed)
}

func (s source) Receive(ctx context.Context, _ orchestrator.Trigger, feed orchestrator.Feed, request orchestrator.Incoming) (orchestrator.Reply, error) {
	return s.receive(ctx, feed, request)
}

func (s source) Forget(_ context.Context, _ orchestrator.Trigger, id string, position []byte) error {
	if s.forget == nil {
		return nil
	}
	return s.forget(id, position)
}

// waits is a Run that does nothing.
func waits(ctx context.Context, _ orchestrator.Trigger, feed orchestrator.Feed) error {
	feed.Ready()
	<-ctx.Done()
	return nil
}

// queue takes calls until it is full, and can be made to fail.
type queue struct {
	mu   sync.Mutex
	got  []events.Request
	seen map[string]bool
	room int // -1 = without end
	fail error
}

func (q *queue) EnqueueAll(_ context.Context, requests []events.Request) ([]events.Queued, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case q.fail != nil:
		return nil, q.fail
	case q.room >= 0 && len(requests) > q.room:
		return nil, orchestrator.Errorf(orchestrator.ErrExhausted, "queue-full", "the queue is full")
	}
	queued := make([]events.Queued, len(requests))
	for i, r := range requests {
		queued[i].Invocation.ID = fmt.Sprint("i", len(q.got))
		queued[i].Found = q.seen[r.IdempotencyKey]
		if !queued[i].Found {
			q.got = append(q.got, r)
			q.seen[r.IdempotencyKey] = true
			q.room--
		}
	}
	return queued, nil
}

func (q *queue) calls() []events.Request {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.got
}

// countedStore counts writes, and can be made to fail.
type countedStore struct {
	*storetest.FakeTriggers
	mu     sync.Mutex
	writes int
	fail   error
}

func (s *countedStore) PutTriggerState(ctx context.Context, state orchestrator.TriggerState) (orchestrator.TriggerState, error) {
	s.mu.Lock()
	s.writes++
	fail := s.fail
	s.mu.Unlock()
	if fail != nil {
		return state, fail
	}
	return s.FakeTriggers.PutTriggerState(ctx, state)
}

func (s *countedStore) setFail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail = err
}

func (s *countedStore) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.writes
}

type rig struct {
	t      *testing.T
	store  *countedStore
	queue  *queue
	engine *trigger.Engine
	kinds  map[string]orchestrator.Source
}

func newRig(t *testing.T, kinds map[string]orchestrator.Source) *rig {
	r := &rig{t: t, store: &countedStore{FakeTriggers: storetest.NewFakeTriggers()}, queue: &queue{seen: map[string]bool{}, room: -1}, kinds: kinds}
	r.make()
	t.Cleanup(func() {
		for range 2 {
			if err := r.engine.Close(); err != nil {
				t.Error(err)
			}
		}
	})
	return r
}

func (r *rig) make() {
	r.engine = trigger.New(trigger.Config{Sources: r.kinds, Store: r.store, Logger: slog.New(slog.NewTextHandler(r.t.Output(), nil))})
}

func (r *rig) open() {
	r.t.Helper()
	if err := r.engine.Open(r.t.Context(), r.queue); err != nil {
		r.t.Fatal(err)
	}
	synctest.Wait()
}

func (r *rig) status(name string) orchestrator.TriggerStatus {
	r.t.Helper()
	synctest.Wait()
	s, err := r.engine.Trigger("f", name)
	if err != nil {
		r.t.Fatal(err)
	}
	return s
}

func (r *rig) state(name string) orchestrator.TriggerState {
	r.t.Helper()
	s, err := r.store.TriggerState(r.t.Context(), "f", name)
	if err != nil {
		r.t.Fatal(err)
	}
	return s
}

func one(kind string) []orchestrator.Trigger {
	return []orchestrator.Trigger{{Name: "t", Type: kind}}
}

func TestCheck(t *testing.T) {
	e := trigger.New(trigger.Config{Sources: map[string]orchestrator.Source{"b": source{}, "a": source{}}})
	if err := e.Check(orchestrator.Trigger{Name: "t", Type: "a", Settings: orchestrator.Settings{"a": "x"}}); err != nil {
		t.Errorf("Check = %v", err)
	}
	for setting, wrong := range map[string]orchestrator.Trigger{
		"type": {Name: "t", Type: "c"}, "x": {Name: "t", Type: "a", Settings: orchestrator.Settings{"x": "y"}},
	} {
		err := e.Check(wrong)
		if got, ok := errors.AsType[*orchestrator.SettingError](err); !ok || got.Setting != setting || !errors.Is(err, orchestrator.ErrInvalid) {
			t.Errorf("Check(%+v) = %v, want an error of %q", wrong, err, setting)
		}
	}
	if err := e.Check(orchestrator.Trigger{Name: "T", Type: "a"}); !errors.Is(err, orchestrator.ErrInvalid) {
		t.Errorf("Check of a strange name = %v", err)
	}
}

// TestEventIsCompleted: what a source leaves out the engine fills in, and the
// call is the event in binary mode.
func TestEventIsCompleted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, map[string]orchestrator.Source{"k": source{run: func(ctx context.Context, _ orchestrator.Trigger, feed orchestrator.Feed) error {
			event := orchestrator.CloudEvent{ID: "e 1", Type: "x", Data: []byte("{}"), Extensions: map[string]string{"partitionkey": "p"}}
			if err := feed.Deliver(ctx, nil, event); err != nil {
				return err
			}
			return feed.Deliver(ctx, nil, event, orchestrator.CloudEvent{ID: strings.Repeat("y", 1000), Type: "x"})
		}}})
		r.engine.Serve("f", one("k"))
		r.open()
		got := r.queue.calls()
		if len(got) != 2 {
			t.Fatalf("calls = %+v, want two: the event that came twice is one", got)
		}
		h := got[0].Header
		if h.Get("Ce-Id") != "e%201" || h.Get("Ce-Source") != "/functions/f/triggers/t" || h.Get("Ce-Kilntrigger") != "t" || h.Get("Ce-Time") == "" ||
			got[0].OrderingKey != "p" || got[0].Path != "/" || string(got[0].Body) != "{}" || h.Get("Content-Type") != "application/json" {
			t.Errorf("call = %+v", got[0])
		}
		if strings.Contains(got[0].IdempotencyKey, r.state("t").ID) {
			t.Errorf("the key %s tells the trigger's address", got[0].IdempotencyKey)
		}
		if len(got[1].IdempotencyKey) > 256 {
			t.Errorf("an idempotency key has %d characters", len(got[1].IdempotencyKey))
		}
		s := r.status("t")
		if s.Delivered != 2 || s.Replayed != 1 {
			t.Errorf("status = %+v, want 2 delivered and 1 replayed", s)
		}
	})
}

// TestSourceAndIDNameAnEvent: what comes from elsewhere may have ids of its own.
func TestSourceAndIDNameAnEvent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, map[string]orchestrator.Source{"k": source{run: func(ctx context.Context, _ orchestrator.Trigger, feed orchestrator.Feed) error {
			var all []orchestrator.CloudEvent
			for _, from := range []string{"", "/a", "/b", "/a"} {
				all = append(all, orchestrator.CloudEvent{ID: "1", Source: from, Type: "x"})
			}
			if err := feed.Deliver(ctx, nil, all...); err != nil {
				return err
			}
			feed.Missed(0, errors.New("nothing"))
			feed.Missed(5, errors.New("too fast"))
			return waits(ctx, orchestrator.Trigger{}, feed)
		}}})
		r.engine.Serve("f", one("k"))
		r.open()
		if s := r.status("t"); s.Delivered != 3 || s.Replayed != 1 || s.Dropped != 5 || s.Errors != 1 || s.LastError != "too fast" || s.Failing {
			t.Errorf("status = %+v, want 3 delivered, 1 replayed, 5 dropped and one error that is over", s)
		}
	})
}

// TestPositionIsWrittenNowAndThen: at once after a pause, within a second while
// there is much to do, and in the end.
func TestPositionIsWrittenNowAndThen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		next := make(chan int)
		r := newRig(t, map[string]orchestrator.Source{"k": source{run: func(ctx context.Context, _ orchestrator.Trigger, feed orchestrator.Feed) error {
			feed.Ready()
			for {
				select {
				case n := <-next:
					if err := feed.Deliver(ctx, fmt.Append(nil, n), orchestrator.CloudEvent{ID: fmt.Sprint(n), Type: "x"}); err != nil {
						return err
					}
				case <-ctx.Done():
					return nil
				}
			}
		}}})
		r.engine.Serve("f", one("k"))
		r.open()
		deliver := func(n int) {
			next <- n
			synctest.Wait()
		}
		deliver(1)
		if got := string(r.state("t").Position); got != "1" {
			t.Errorf("position after the first event = %q, want it written at once", got)
		}
		before := r.store.count()
		for n := 2; n <= 100; n++ {
			deliver(n)
			time.Sleep(time.Millisecond)
		}
		if n := r.store.count() - before; n != 0 {
			t.Errorf("%d writes within a tenth of a second, want none", n)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if got, n := string(r.state("t").Position), r.store.count()-before; got != "100" || n != 1 {
			t.Errorf("a second later the position is %q after %d writes, want 100 after 1", got, n)
		}
		deliver(101)
		deliver(102)
		r.engine.Close()
		if got := string(r.state("t").Position); got != "102" {
			t.Errorf("position after Close = %q, want 102", got)
		}
		r.make()
		r.engine.Serve("f", one("k"))
		r.open()
		r.store.setFail(orchestrator.Errorf(orchestrator.ErrUnavailable, "store-unavailable", "the disk is away"))
		deliver(103)
		if s := r.status("t"); !s.Failing || s.LastError != "the disk is away" {
			t.Errorf("status = %+v, want the error of the store", s)
		}
		r.store.setFail(nil)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if got := string(r.state("t").Position); got != "103" {
			t.Errorf("position after the store came back = %q, want 103", got)
		}
	})
}

// TestSourceThatFailsIsRunAgain: with growing pauses, and a panic is a failure.
func TestSourceThatFailsIsRunAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var starts []time.Duration
		started := func() []time.Duration {
			mu.Lock()
			defer mu.Unlock()
			return slices.Clone(starts)
		}
		begin := time.Now()
		r := newRig(t, map[string]orchestrator.Source{
			"bad": source{run: func(context.Context, orchestrator.Trigger, orchestrator.Feed) error {
				mu.Lock()
				starts = append(starts, time.Since(begin))
				mu.Unlock()
				if len(started()) == 2 {
					panic("oh")
				}
				return orchestrator.Errorf(orchestrator.ErrUnavailable, "away", "the broker is away")
			}},
			"good": source{run: waits},
		})
		r.engine.Serve("f", append(one("bad"), orchestrator.Trigger{Name: "good", Type: "good"}))
		r.open()
		if s := r.status("t"); s.Phase != orchestrator.TriggerRetrying || !s.Failing || s.LastError != "the broker is away" || s.RetryAt.Sub(begin) != time.Second {
			t.Errorf("status = %+v, want it retrying in a second", s)
		}
		if s := r.status("good"); s.Phase != orchestrator.TriggerRunning || s.Failing {
			t.Errorf("the other trigger = %+v", s)
		}
		time.Sleep(8 * time.Second)
		synctest.Wait()
		want := []time.Duration{0, time.Second, 3 * time.Second, 7 * time.Second}
		if fmt.Sprint(started()) != fmt.Sprint(want) {
			t.Errorf("it was started after %v, want %v", started(), want)
		}
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		n := len(started())
		time.Sleep(orchestrator.RestartPauseMax)
		synctest.Wait()
		if len(started()) != n+1 {
			t.Errorf("%d starts within the longest pause, want 1", len(started())-n)
		}
	})
}

// TestEventThatCannotBeTakenIsDropped and those behind it come.
func TestEventThatCannotBeTakenIsDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, map[string]orchestrator.Source{"k": source{run: func(ctx context.Context, _ orchestrator.Trigger, feed orchestrator.Feed) error {
			feed.Ready()
			large := orchestrator.CloudEvent{ID: "1", Type: "x", Data: make([]byte, orchestrator.MaxEventData+1)}
			if err := feed.Deliver(ctx, nil, orchestrator.CloudEvent{ID: "0", Type: "x"}, large); !errors.Is(err, orchestrator.ErrTooLarge) {
				return fmt.Errorf("Deliver of what is too large = %w", err)
			}
			feed.Drop(large, errors.New("too large"))
			if err := feed.Deliver(ctx, nil, orchestrator.CloudEvent{Type: "x"}); !errors.Is(err, orchestrator.ErrInvalid) {
				return fmt.Errorf("Deliver of an event without id = %w", err)
			}
			if err := feed.Deliver(ctx, make([]byte, orchestrator.MaxPosition+1)); !errors.Is(err, orchestrator.ErrInvalid) {
				return fmt.Errorf("Deliver of a long position = %w", err)
			}
			if err := feed.Deliver(ctx, nil, orchestrator.CloudEvent{ID: "2", Type: "x"}); err != nil {
				return err
			}
			<-ctx.Done()
			return nil
		}}})
		r.engine.Serve("f", one("k"))
		r.open()
		s := r.status("t")
		if s.Delivered != 1 || s.Dropped != 1 || s.Failing || s.LastError != "too large" {
			t.Errorf("status = %+v, want one delivered, one dropped, and all well", s)
		}
	})
}

// TestManyEventsAreSplit where a queue has little room.
func TestManyEventsAreSplit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var many []orchestrator.CloudEvent
		for n := range 200 {
			many = append(many, orchestrator.CloudEvent{ID: fmt.Sprint(n), Type: "x"})
		}
		r := newRig(t, map[string]orchestrator.Source{"k": source{run: func(ctx context.Context, _ orchestrator.Trigger, feed orchestrator.Feed) error {
			if err := feed.Deliver(ctx, nil, many...); err != nil {
				return err
			}
			return waits(ctx, orchestrator.Trigger{}, feed)
		}}})
		r.queue.room = 5
		r.engine.Serve("f", one("k"))
		r.open()
		if s := r.status("t"); s.Delivered != 5 || !s.Failing || s.LastError != "the queue is full" {
			t.Errorf("status = %+v, want 5 delivered and the queue full", s)
		}
		r.queue.mu.Lock()
		r.queue.room = -1
		r.queue.mu.Unlock()
		time.Sleep(time.Second)
		if s := r.status("t"); s.Delivered != 200 || s.Failing || s.Phase != orchestrator.TriggerRunning {
			t.Errorf("status = %+v, want all delivered", s)
		}
		for i, call := range r.queue.calls() {
			if got := call.Header.Get("Ce-Id"); got != fmt.Sprint(i) {
				t.Fatalf("call %d is of event %s: the order changed", i, got)
			}
		}
	})
}

// TestTriggerOfAnotherTypeIsAnother, and what the old one left is cleared away,
// however often that fails.
func TestTriggerOfAnotherTypeIsAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var forgotten []string
		tries := 0
		r := newRig(t, map[string]orchestrator.Source{
			"old": source{
				run: func(ctx context.Context, _ orchestrator.Trigger, feed orchestrator.Feed) error {
					if err := feed.Deliver(ctx, []byte("p")); err != nil {
						return err
					}
					return waits(ctx, orchestrator.Trigger{}, feed)
				},
				forget: func(id string, position []byte) error {
					if tries++; tries < 3 {
						return errors.New("away")
					}
					forgotten = append(forgotten, id+" "+string(position))
					return nil
				},
			},
			"new": source{run: waits},
		})
		r.engine.Serve("f", one("old"))
		r.open()
		old := r.state("t")
		r.engine.Serve("f", one("new"))
		if s := r.status("t"); s.Phase != orchestrator.TriggerRetrying || s.LastError == "" {
			t.Errorf("status = %+v, want it waiting to clear up", s)
		}
		time.Sleep(10 * time.Second)
		if s := r.status("t"); s.Phase != orchestrator.TriggerRunning {
			t.Errorf("status = %+v, want it running", s)
		}
		if now := r.state("t"); now.ID == old.ID || len(now.Position) != 0 || now.Trigger.Type != "new" {
			t.Errorf("state = %+v, want a new one", now)
		}
		if fmt.Sprint(forgotten) != fmt.Sprint([]string{old.ID + " p"}) {
			t.Errorf("forgotten = %v, want %s with its position", forgotten, old.ID)
		}
	})
}

// TestWhatWentWithoutAGatewayIsCleared at the next start.
func TestWhatWentWithoutAGatewayIsCleared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var forgotten []string
		kind := source{run: waits, forget: func(id string, _ []byte) error { forgotten = append(forgotten, id); return nil }}
		r := newRig(t, map[string]orchestrator.Source{"k": kind})
		r.engine.Serve("f", one("k"))
		r.engine.Serve("g", one("k"))
		r.open()
		id := r.state("t").ID
		r.engine.Close()
		r.make()
		r.engine.Serve("g", one("k"))
		r.open()
		states, err := r.store.TriggerStates(t.Context())
		if err != nil || len(states) != 1 || states[0].Function != "g" {
			t.Errorf("states = %+v, %v, want that of g alone", states, err)
		}
		if len(forgotten) != 1 || forgotten[0] != id {
			t.Errorf("forgotten = %v, want %s", forgotten, id)
		}
	})
}

// TestRemovedAndAddedAtOnceIsAnother, although the runner never saw it gone.
func TestRemovedAndAddedAtOnceIsAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, map[string]orchestrator.Source{"k": source{run: waits}})
		r.engine.Serve("f", one("k"))
		r.open()
		id := r.state("t").ID
		r.engine.Remove("f")
		r.engine.Serve("f", one("k"))
		if s := r.status("t"); s.Phase != orchestrator.TriggerRunning {
			t.Errorf("status = %+v, want it running", s)
		}
		if now := r.state("t"); now.ID == id {
			t.Error("the trigger has the identity of the one that was removed")
		}
	})
}

func TestReceive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, map[string]orchestrator.Source{"k": source{
			run: waits,
			receive: func(ctx context.Context, feed orchestrator.Feed, request orchestrator.Incoming) (orchestrator.Reply, error) {
				if len(request.Body) == 0 {
					panic("no body")
				}
				_, err := feed.Offer(ctx, orchestrator.CloudEvent{ID: string(request.Body), Type: "x"})
				return orchestrator.Reply{Status: http.StatusAccepted}, err
			},
		}})
		r.engine.Serve("f", one("k"))
		r.open()
		s := r.status("t")
		id, ok := strings.CutPrefix(s.Address, trigger.HookPrefix)
		if !ok || len(id) < 26 {
			t.Fatalf("address = %q", s.Address)
		}
		send := func(id, body string) error {
			_, err := r.engine.Receive(t.Context(), id, orchestrator.Incoming{Method: "POST", Body: []byte(body)})
			return err
		}
		if err := send(id, "1"); err != nil || len(r.queue.calls()) != 1 {
			t.Errorf("Receive = %v with %d calls", err, len(r.queue.calls()))
		}
		if err := send("other", "1"); !errors.Is(err, orchestrator.ErrNotFound) {
			t.Errorf("Receive of another id = %v, want the class not found", err)
		}
		if err := send(id, ""); err == nil {
			t.Error("a panic of a source was no error")
		}
		r.queue.mu.Lock()
		r.queue.room = 0
		r.queue.mu.Unlock()
		if err := send(id, "2"); !errors.Is(err, orchestrator.ErrExhausted) {
			t.Errorf("Receive with a full queue = %v, want the class exhausted", err)
		}
		if _, err := r.engine.Pause(t.Context(), "f", "t"); err != nil {
			t.Fatal(err)
		}
		err := send(id, "3")
		if paused, ok := errors.AsType[*orchestrator.Error](err); !ok || !errors.Is(err, orchestrator.ErrUnavailable) || paused.RetryAfter == 0 {
			t.Errorf("Receive while paused = %v, want the class unavailable and when to try again", err)
		}
		r.engine.Remove("f")
		synctest.Wait()
		if err := send(id, "4"); !errors.Is(err, orchestrator.ErrNotFound) {
			t.Errorf("Receive after the removal = %v, want the class not found", err)
		}
	})
}

func TestTestEvent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, map[string]orchestrator.Source{"k": source{run: waits}})
		r.engine.Serve("f", one("k"))
		if _, err := r.engine.Test(t.Context(), "f", "t"); !errors.Is(err, orchestrator.ErrUnavailable) {
			t.Errorf("Test before Open = %v, want the class unavailable", err)
		}
		r.open()
		for range 2 {
			if _, err := r.engine.Test(t.Context(), "f", "t"); err != nil {
				t.Fatal(err)
			}
		}
		if got := r.queue.calls(); len(got) != 2 || got[0].Header.Get("Ce-Type") != "sample" {
			t.Errorf("calls = %+v, want two samples", got)
		}
		if _, err := r.engine.Test(t.Context(), "f", "other"); !errors.Is(err, orchestrator.ErrNotFound) {
			t.Errorf("Test of an unknown trigger = %v, want the class not found", err)
		}
	})
}

// TestForgetIsTriedAgainAfterRunsThatFailed: an outside that is away fails both.
func TestForgetIsTriedAgainAfterRunsThatFailed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tries := 0
		r := newRig(t, map[string]orchestrator.Source{"k": source{
			run: func(context.Context, orchestrator.Trigger, orchestrator.Feed) error { return errors.New("away") },
			forget: func(string, []byte) error {
				if tries++; tries < 3 {
					return errors.New("away")
				}
				return nil
			},
		}})
		r.engine.Serve("f", one("k"))
		r.open()
		time.Sleep(time.Hour)
		r.engine.Remove("f")
		time.Sleep(time.Minute)
		synctest.Wait()
		if tries != 3 {
			t.Errorf("Forget was tried %d times, want until it went well", tries)
		}
	})
}

// TestFeedEndsWithItsRun: what a source does after it returned has no effect.
func TestFeedEndsWithItsRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var kept orchestrator.Feed
		r := newRig(t, map[string]orchestrator.Source{"k": source{run: func(ctx context.Context, trigger orchestrator.Trigger, feed orchestrator.Feed) error {
			kept = feed
			return waits(ctx, trigger, feed)
		}}})
		r.engine.Serve("f", one("k"))
		r.open()
		if _, err := r.engine.Pause(t.Context(), "f", "t"); err != nil {
			t.Fatal(err)
		}
		if err := kept.Deliver(t.Context(), []byte("p"), orchestrator.CloudEvent{ID: "1", Type: "x"}); !errors.Is(err, orchestrator.ErrUnavailable) {
			t.Errorf("Deliver = %v, want the class unavailable", err)
		}
		if _, err := kept.Offer(t.Context(), orchestrator.CloudEvent{ID: "1", Type: "x"}); !errors.Is(err, orchestrator.ErrUnavailable) {
			t.Errorf("Offer = %v, want the class unavailable", err)
		}
		if len(r.queue.calls()) != 0 || len(r.state("t").Position) != 0 {
			t.Error("it had an effect")
		}
	})
}
