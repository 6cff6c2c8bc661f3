package events_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/events"
	"github.com/kilnfaas/kiln/orchestrator/queuetest"
)

// functions are settings by name.
type functions map[string]orchestrator.Async

func (f functions) Function(_ context.Context, name string) (orchestrator.Function, error) {
	async, ok := f[name]
	if !ok {
		return orchestrator.Function{}, orchestrator.Errorf(orchestrator.ErrNotFound, "function-unknown", "there is no function %q", name)
	}
	spec := orchestrator.DefaultSpec()
	spec.Name, spec.Async = name, async
	return orchestrator.Function{Name: name, Spec: spec}, nil
}

// fleet has the same number of slots for all and remembers the largest backlog.
type fleet struct {
	slots int

	mu      sync.Mutex
	backlog int
	last    int
}

func (f *fleet) Slots(string) int { return f.slots }

func (f *fleet) Backlog(_ string, calls int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.backlog, f.last = max(f.backlog, calls), calls
}

// rig is a queue on a fake journal, and what was called.
type rig struct {
	t       *testing.T
	journal *queuetest.Fake
	fleet   *fleet
	config  events.Config
	queue   *events.Queue

	mu      sync.Mutex
	calls   []string // ids in the order in which their attempts began
	current int      // attempts that run
	most    int
	handle  func(ctx context.Context, call events.Call) events.Answer
}

func newRig(t *testing.T, change ...func(*events.Config)) *rig {
	r := &rig{t: t, journal: queuetest.NewFake(), fleet: &fleet{slots: 16}}
	r.handle = func(context.Context, events.Call) events.Answer { return status(200) }
	policy := orchestrator.DefaultSpec().Async
	r.config = events.Config{
		Journal: r.journal, Functions: functions{"a": policy, "b": policy}, Fleet: r.fleet, Invoke: r.invoke, Deliver: r.invoke, Share: 0.5,
		Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
	for _, f := range change {
		f(&r.config)
	}
	r.open()
	t.Cleanup(r.close)
	return r
}

func (r *rig) open() {
	r.t.Helper()
	r.queue = events.New(r.config)
	if err := r.queue.Open(r.t.Context()); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	r.queue.Close(ctx) // an error says that attempts were cut, which some tests want
}

func (r *rig) invoke(ctx context.Context, call events.Call) events.Answer {
	r.mu.Lock()
	r.calls = append(r.calls, call.Invocation.ID)
	r.current++
	r.most = max(r.most, r.current)
	handle := r.handle
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		r.current--
		r.mu.Unlock()
	}()
	return handle(ctx, call)
}

func (r *rig) enqueue(request events.Request) orchestrator.Invocation {
	r.t.Helper()
	if request.Function == "" {
		request.Function = "a"
	}
	inv, _, err := r.queue.Enqueue(r.t.Context(), request)
	if err != nil {
		r.t.Fatalf("enqueue: %v", err)
	}
	return inv
}

func (r *rig) get(id string) orchestrator.Invocation {
	r.t.Helper()
	inv, _, err := r.queue.Invocation(r.t.Context(), id)
	if err != nil {
		r.t.Fatal(err)
	}
	return inv
}

func (r *rig) ended(id string) orchestrator.Invocation {
	r.t.Helper()
	if err := r.queue.Wait(r.t.Context(), id); err != nil {
		r.t.Fatal(err)
	}
	return r.get(id)
}

func (r *rig) called() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.calls)
}

func TestCallIsMadeAndItsResultKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		var got events.Call
		r.handle = func(_ context.Context, call events.Call) events.Answer {
			got = call
			return events.Answer{Status: 201, Header: http.Header{"Content-Type": {"text/plain"}, "Kiln-Revision": {"r1"}}, Body: []byte("done"), Revision: "r1"}
		}
		inv := r.enqueue(events.Request{Path: "/x?y=1", Header: http.Header{"X": {"1"}}, Body: []byte("hello")})
		end := r.ended(inv.ID)
		if string(got.Body) != "hello" || got.Invocation.Path != "/x?y=1" || got.Invocation.Header.Get("X") != "1" {
			t.Errorf("the function got %+v", got)
		}
		want := &orchestrator.Result{Status: 201, Header: http.Header{"Content-Type": {"text/plain"}}, Size: 4}
		if diff := cmp.Diff(want, end.Result); diff != "" || end.Status != orchestrator.InvocationSucceeded || len(end.Attempts) != 1 || end.Tries != 1 {
			t.Errorf("invocation = %+v (-want result +got):\n%s", end, diff)
		}
		_, body, err := r.queue.Invocation(t.Context(), inv.ID)
		if err != nil || string(body) != "done" {
			t.Errorf("result = %q, %v", body, err)
		}
		time.Sleep(events.DefaultResultTTL + 10*time.Second)
		if _, _, err := r.queue.Invocation(t.Context(), inv.ID); !errors.Is(err, orchestrator.ErrNotFound) {
			t.Errorf("after its time the result is still there: %v", err)
		}
	})
}

func TestUnknownFunctionIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		if _, _, err := r.queue.Enqueue(t.Context(), events.Request{Function: "nobody"}); !errors.Is(err, orchestrator.ErrNotFound) {
			t.Errorf("error %v, want the class %q", err, orchestrator.ErrNotFound)
		}
		if r.journal.Commits() != 0 {
			t.Error("something was written")
		}
	})
}

func TestRetriesThenDeadLetterThenReplay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.handle = func(context.Context, events.Call) events.Answer { return status(500) }
		start := time.Now()
		inv := r.enqueue(events.Request{Body: []byte("payload")})
		dead := r.ended(inv.ID)
		if dead.Status != orchestrator.InvocationFailed || dead.Tries != orchestrator.DefaultAttempts || len(dead.Attempts) != orchestrator.DefaultAttempts || dead.Error == "" {
			t.Fatalf("invocation = %+v, want a dead letter after %d attempts", dead, orchestrator.DefaultAttempts)
		}
		if took := time.Since(start); took < 7500*time.Millisecond || took > 15*time.Second {
			t.Errorf("the attempts took %v, want the pauses 1, 2, 4, 8 s less up to half", took)
		}
		r.close()
		r.open() // dead letters outlive the gateway, with every attempt's error
		if diff := cmp.Diff(dead, r.get(inv.ID)); diff != "" {
			t.Errorf("after opening again (-want +got):\n%s", diff)
		}
		var body string
		r.handle = func(_ context.Context, call events.Call) events.Answer {
			body = string(call.Body)
			return status(200)
		}
		if _, err := r.queue.Retry(t.Context(), inv.ID); err != nil {
			t.Fatal(err)
		}
		end := r.ended(inv.ID)
		if end.Status != orchestrator.InvocationSucceeded || body != "payload" || len(end.Attempts) != orchestrator.DefaultAttempts+1 {
			t.Errorf("after the replay: %+v, body %q", end, body)
		}
		if err := r.queue.Drop(t.Context(), inv.ID); !errors.Is(err, orchestrator.ErrConflict) {
			t.Errorf("drop of a success: %v", err)
		}
	})
}

func TestDeferralsUseUpNoAttempts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		n := 0
		r.handle = func(context.Context, events.Call) events.Answer {
			if n++; n <= 40 {
				return failed(orchestrator.ErrExhausted, nil, 0)
			}
			return status(200)
		}
		end := r.ended(r.enqueue(events.Request{}).ID)
		if end.Status != orchestrator.InvocationSucceeded || end.Tries != 1 || len(end.Attempts) != 2 {
			t.Errorf("invocation = %+v, want a success at the first attempt that counted, the others in one line", end)
		}
	})
}

func TestCrashMakesTheCallAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.handle = func(ctx context.Context, _ events.Call) events.Answer {
			<-ctx.Done()
			return failed(orchestrator.ErrUnavailable, nil, 0)
		}
		inv := r.enqueue(events.Request{Body: []byte("x")})
		later := r.enqueue(events.Request{NotBefore: time.Now().Add(time.Hour)})
		synctest.Wait()
		if got := r.get(inv.ID).Status; got != orchestrator.InvocationRunning {
			t.Errorf("status %s, want running", got)
		}
		r.close()
		r.handle = func(context.Context, events.Call) events.Answer { return status(200) }
		opened := time.Now()
		r.open()
		if end := r.ended(inv.ID); end.Status != orchestrator.InvocationSucceeded || end.Tries != 1 {
			t.Errorf("after a crash: %+v", end)
		}
		r.ended(later.ID)
		if waited := time.Since(opened); waited < 59*time.Minute || waited > time.Hour {
			t.Errorf("a call for in an hour was made %v after a restart", waited)
		}
	})
}

func TestIdempotencyKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		var mu sync.Mutex
		ids := map[string]int{}
		var running sync.WaitGroup
		for range 8 {
			running.Go(func() {
				inv, _, err := r.queue.Enqueue(t.Context(), events.Request{Function: "a", IdempotencyKey: "k"})
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				ids[inv.ID]++
				mu.Unlock()
			})
		}
		running.Wait()
		if len(ids) != 1 {
			t.Fatalf("8 calls with one key made %d invocations", len(ids))
		}
		r.close()
		r.open()
		again, found, err := r.queue.Enqueue(t.Context(), events.Request{Function: "a", IdempotencyKey: "k"})
		if err != nil || !found || ids[again.ID] != 8 {
			t.Errorf("after a restart: %v, found %v, %v", again.ID, found, err)
		}
		if _, found, err := r.queue.Enqueue(t.Context(), events.Request{Function: "b", IdempotencyKey: "k"}); found || err != nil {
			t.Errorf("another function with the same key: found %v, %v", found, err)
		}
		time.Sleep(events.DefaultResultTTL + 10*time.Second)
		if inv, found, err := r.queue.Enqueue(t.Context(), events.Request{Function: "a", IdempotencyKey: "k"}); found || err != nil || ids[inv.ID] != 0 {
			t.Errorf("after the window: found %v, %v", found, err)
		}
	})
}

func TestOrderingKeySerialises(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		var mu sync.Mutex
		var order []string
		fails := 2
		r.handle = func(_ context.Context, call events.Call) events.Answer {
			time.Sleep(10 * time.Millisecond)
			mu.Lock()
			defer mu.Unlock()
			if call.Invocation.OrderingKey == "k" {
				if string(call.Body) == "1" && fails > 0 { // the rest of the key waits for its retries
					fails--
					return status(500)
				}
				order = append(order, string(call.Body))
			}
			return status(200)
		}
		var last orchestrator.Invocation
		for i := range 6 {
			last = r.enqueue(events.Request{Body: fmt.Append(nil, i), OrderingKey: "k"})
			r.enqueue(events.Request{OrderingKey: "other"})
			r.enqueue(events.Request{})
		}
		r.ended(last.ID)
		if diff := cmp.Diff([]string{"0", "1", "2", "3", "4", "5"}, order); diff != "" {
			t.Errorf("order (-want +got):\n%s", diff)
		}
		if r.most < 3 {
			t.Errorf("%d attempts at a time: calls without the key waited for it", r.most)
		}
	})
}

func TestShareOfSlots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.handle = func(context.Context, events.Call) events.Answer {
			time.Sleep(50 * time.Millisecond)
			return status(200)
		}
		var last orchestrator.Invocation
		for range 100 {
			last = r.enqueue(events.Request{})
		}
		r.ended(last.ID)
		synctest.Wait()
		if r.most != 8 {
			t.Errorf("%d attempts at a time, want half of 16 slots", r.most)
		}
		if r.fleet.backlog < 80 || r.fleet.last != 0 {
			t.Errorf("the fleet heard of %d calls that wait, and in the end of %d", r.fleet.backlog, r.fleet.last)
		}
	})
}

func TestQueueIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(c *events.Config) { c.Depth, c.Bytes = 10, 2000 })
		block := make(chan struct{})
		r.handle = func(context.Context, events.Call) events.Answer {
			<-block
			return status(200)
		}
		for range 10 {
			r.enqueue(events.Request{})
		}
		_, _, err := r.queue.Enqueue(t.Context(), events.Request{Function: "a"})
		if !errors.Is(err, orchestrator.ErrExhausted) {
			t.Errorf("the 11th call: %v, want the class %q", err, orchestrator.ErrExhausted)
		}
		r.enqueue(events.Request{Function: "b", Body: make([]byte, 1999)})
		if _, _, err := r.queue.Enqueue(t.Context(), events.Request{Function: "b", Body: make([]byte, 2)}); !errors.Is(err, orchestrator.ErrExhausted) {
			t.Errorf("bodies over the limit: %v", err)
		}
		if _, _, err := r.queue.Enqueue(t.Context(), events.Request{Function: "b", Body: make([]byte, events.MaxCall+1)}); !errors.Is(err, orchestrator.ErrTooLarge) {
			t.Errorf("a body that is too large: %v", err)
		}
		close(block)
		synctest.Wait()
		r.enqueue(events.Request{Body: make([]byte, 1999)}) // all counted back
	})
}

func TestJournalAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		away := orchestrator.Errorf(orchestrator.ErrUnavailable, "store-unavailable", "away")
		r.handle = func(context.Context, events.Call) events.Answer {
			r.journal.Fail(away)
			return status(200)
		}
		inv := r.enqueue(events.Request{})
		synctest.Wait()
		if _, _, err := r.queue.Enqueue(t.Context(), events.Request{Function: "a"}); !errors.Is(err, away) {
			t.Errorf("enqueue: %v", err)
		}
		if got := r.get(inv.ID).Status; got.Ended() {
			t.Errorf("the invocation is %s although that was not stored", got)
		}
		r.handle = func(context.Context, events.Call) events.Answer { return status(200) }
		r.journal.Fail(nil)
		if end := r.ended(inv.ID); end.Status != orchestrator.InvocationSucceeded {
			t.Errorf("once the journal is back: %+v", end)
		}
	})
}

func TestCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.handle = func(ctx context.Context, _ events.Call) events.Answer {
			<-ctx.Done()
			return failed(orchestrator.ErrUnavailable, nil, 0)
		}
		running := r.enqueue(events.Request{OrderingKey: "k"})
		behind := r.enqueue(events.Request{OrderingKey: "k"})
		later := r.enqueue(events.Request{NotBefore: time.Now().Add(time.Hour)})
		synctest.Wait()
		for _, inv := range []orchestrator.Invocation{behind, later, running} {
			got, err := r.queue.Cancel(t.Context(), inv.ID)
			if err != nil || got.Status != orchestrator.InvocationCanceled {
				t.Errorf("cancel: %+v, %v", got, err)
			}
			if _, err := r.queue.Cancel(t.Context(), inv.ID); !errors.Is(err, orchestrator.ErrConflict) {
				t.Errorf("cancel again: %v", err)
			}
		}
		time.Sleep(2 * time.Hour)
		if n := len(r.called()); n != 1 {
			t.Errorf("%d attempts, want the one that was cut", n)
		}
	})
}

func TestRetryNow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		later := r.enqueue(events.Request{NotBefore: time.Now().Add(time.Hour)})
		start := time.Now()
		if _, err := r.queue.Retry(t.Context(), later.ID); err != nil {
			t.Fatal(err)
		}
		r.ended(later.ID)
		if took := time.Since(start); took > time.Second {
			t.Errorf("it was made %v later", took)
		}
		if _, err := r.queue.Retry(t.Context(), later.ID); !errors.Is(err, orchestrator.ErrConflict) {
			t.Errorf("retry of a success: %v", err)
		}
	})
}

func TestListAndDrop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.handle = func(_ context.Context, call events.Call) events.Answer {
			if call.Invocation.Function == "b" {
				return status(404)
			}
			return status(200)
		}
		var want []string
		for i := range 6 {
			inv := r.enqueue(events.Request{Function: []string{"a", "b"}[i%2]})
			time.Sleep(2 * time.Millisecond) // ids of one millisecond are in no order
			want = append([]string{inv.ID}, want...)
		}
		synctest.Wait()
		list := func(f events.Filter) (ids []string) {
			f.Limit = 4
			all, err := r.queue.List(t.Context(), f)
			if err != nil {
				t.Fatal(err)
			}
			for _, inv := range all {
				ids = append(ids, inv.ID)
			}
			return ids
		}
		if diff := cmp.Diff(want[:4], list(events.Filter{})); diff != "" {
			t.Errorf("newest first (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(want[4:], list(events.Filter{Before: want[3]})); diff != "" {
			t.Errorf("the next page (-want +got):\n%s", diff)
		}
		dead := list(events.Filter{Function: "b", Status: orchestrator.InvocationFailed})
		if len(dead) != 3 {
			t.Fatalf("%d dead letters, want 3", len(dead))
		}
		if err := r.queue.Drop(t.Context(), dead[0]); err != nil {
			t.Fatal(err)
		}
		r.close()
		r.open()
		if got := list(events.Filter{Function: "b", Status: orchestrator.InvocationFailed}); !cmp.Equal(got, dead[1:]) {
			t.Errorf("after a drop and a restart: %v, want %v", got, dead[1:])
		}
	})
}

func TestDestinationsAndCallback(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		policy := orchestrator.DefaultSpec().Async
		policy.OnSuccess, policy.OnFailure = "function:b", "https://example.com/failed"
		r := newRig(t, func(c *events.Config) {
			c.Functions = functions{"a": policy, "b": orchestrator.DefaultSpec().Async}
		})
		var mu sync.Mutex
		sent := map[string]events.Call{}
		r.handle = func(_ context.Context, call events.Call) events.Answer {
			mu.Lock()
			defer mu.Unlock()
			sent[call.Invocation.Function+" "+call.Invocation.Target] = call
			if string(call.Body) == "bad" {
				return status(400)
			}
			return events.Answer{Status: 200, Header: http.Header{"Content-Type": {"text/x"}}, Body: append([]byte("out of "), call.Body...)}
		}
		inv := r.enqueue(events.Request{Body: []byte("good"), CallbackURL: "https://example.com/cb"})
		bad := r.enqueue(events.Request{Body: []byte("bad")})
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		next := sent["b "]
		if string(next.Body) != "out of good" || next.Invocation.Parent != inv.ID || next.Invocation.Header.Get("Content-Type") != "text/x" || next.Invocation.Header.Get("Ce-Type") != "dev.kiln.invocation.succeeded" {
			t.Errorf("the next function got %+v", next)
		}
		callback := sent["a https://example.com/cb"]
		if string(callback.Body) != "out of good" || callback.Invocation.Header.Get(events.HeaderInvocation) != inv.ID {
			t.Errorf("the callback got %+v", callback)
		}
		failure := sent["a https://example.com/failed"]
		if failure.Invocation.Parent != bad.ID || failure.Invocation.Header.Get("Content-Type") != "application/json" || len(failure.Body) == 0 {
			t.Errorf("the destination of failures got %+v", failure)
		}
	})
}

// TestChainThatLeadsBackEnds: a function that is its own destination.
func TestChainThatLeadsBackEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		policy := orchestrator.DefaultSpec().Async
		policy.OnSuccess = "function:a"
		r := newRig(t, func(c *events.Config) { c.Functions = functions{"a": policy} })
		r.enqueue(events.Request{})
		time.Sleep(time.Minute)
		if n := len(r.called()); n != 17 {
			t.Errorf("%d calls, want one and 16 that follow", n)
		}
	})
}

// TestJournalStaysShort: what has ended does not stay for ever, though a call
// that is due next year does, and a restart finds it.
func TestJournalStaysShort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(c *events.Config) { c.Results = 5 })
		r.handle = func(_ context.Context, call events.Call) events.Answer {
			if call.Invocation.Function == "b" {
				return status(404)
			}
			return status(200)
		}
		later := r.enqueue(events.Request{NotBefore: time.Now().Add(300 * 24 * time.Hour), Body: []byte("later")})
		dead := r.ended(r.enqueue(events.Request{Function: "b", Body: []byte("dead")}).ID)
		var last orchestrator.Invocation
		for range 200 {
			last = r.enqueue(events.Request{Body: make([]byte, 100<<10)})
			r.ended(last.ID)
		}
		if err := r.queue.Tidy(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n := r.journal.Commits(); n > 120 { // 4 MiB may be left
			t.Errorf("%d commits are kept of 400", n)
		}
		before := r.get(last.ID)
		r.close()
		r.open()
		if diff := cmp.Diff(before, r.get(last.ID)); diff != "" {
			t.Errorf("a result after a restart (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(dead, r.get(dead.ID)); diff != "" {
			t.Errorf("a dead letter after a restart (-want +got):\n%s", diff)
		}
		r.handle = func(_ context.Context, call events.Call) events.Answer {
			return events.Answer{Status: 200, Body: call.Body}
		}
		if _, err := r.queue.Retry(t.Context(), dead.ID); err != nil {
			t.Fatal(err)
		}
		if _, err := r.queue.Retry(t.Context(), later.ID); err != nil {
			t.Fatal(err)
		}
		for id, want := range map[string]string{later.ID: "later", dead.ID: "dead"} {
			r.ended(id)
			if _, body, err := r.queue.Invocation(t.Context(), id); err != nil || string(body) != want {
				t.Errorf("the moved call was made with %q, %v; want %q", body, err, want)
			}
		}
	})
}

// TestMany is for the race detector: everything at once, with restarts.
func TestMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(c *events.Config) { c.Results = 20 })
		n := 0
		r.handle = func(ctx context.Context, call events.Call) events.Answer {
			r.mu.Lock()
			n++
			k := n
			r.mu.Unlock()
			select {
			case <-time.After(time.Duration(k%7) * time.Millisecond):
			case <-ctx.Done():
				return failed(orchestrator.ErrUnavailable, nil, 0)
			}
			return status([]int{200, 200, 500, 404, 429}[k%5])
		}
		for round := range 5 {
			var all sync.WaitGroup
			for c := range 8 {
				all.Go(func() {
					for i := range 30 {
						request := events.Request{Function: []string{"a", "b"}[i%2], Body: make([]byte, 20<<10)}
						if i%3 == 0 {
							request.OrderingKey = fmt.Sprint(i % 4)
						}
						inv, _, err := r.queue.Enqueue(context.Background(), request)
						if err != nil {
							t.Errorf("round %d: %v", round, err)
							return
						}
						switch (c + i) % 4 {
						case 0:
							r.queue.Cancel(context.Background(), inv.ID)
						case 1:
							r.queue.Retry(context.Background(), inv.ID)
						case 2:
							r.queue.Tidy(context.Background())
						}
					}
				})
			}
			all.Wait()
			r.close()
			r.open()
		}
		time.Sleep(30 * time.Minute)
		for s := range r.queue.Stats {
			if s.Waiting != 0 || s.Running != 0 {
				t.Errorf("in the end %d wait and %d run: %+v", s.Waiting, s.Running, s)
			}
		}
		all, err := r.queue.List(t.Context(), events.Filter{Limit: 10000})
		if err != nil {
			t.Fatal(err)
		}
		for _, inv := range all {
			if !inv.Status.Ended() {
				t.Errorf("%s is %s", inv.ID, inv.Status)
			}
		}
	})
}

// TestSequence: each function gets the result of the one before, in one commit
// with that; the callback gets the last one's.
func TestSequence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		var mu sync.Mutex
		var got []string
		r.handle = func(_ context.Context, call events.Call) events.Answer {
			mu.Lock()
			defer mu.Unlock()
			got = append(got, fmt.Sprintf("%s%s(%s)", call.Invocation.Function, call.Invocation.Target, call.Body))
			return events.Answer{Status: 200, Header: http.Header{"Content-Type": {"text/x"}}, Body: []byte(call.Invocation.Function + string(call.Body))}
		}
		inv := r.enqueue(events.Request{Body: []byte("."), Then: []string{"b", "a"}, CallbackURL: "https://example.com/cb"})
		first := r.ended(inv.ID)
		second := r.ended(first.Next)
		third := r.ended(second.Next)
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		want := []string{"a(.)", "b(a.)", "a(ba.)", "ahttps://example.com/cb(aba.)"}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("calls (-want +got):\n%s", diff)
		}
		if third.Next != "" || third.Hops != 2 || third.Parent != second.ID || second.Header["Content-Type"][0] != "text/x" {
			t.Errorf("invocations %+v, %+v", second, third)
		}
	})
}

// TestSequenceEnds with the first function that fails, or says too much.
func TestSequenceEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		for _, answer := range []events.Answer{status(400), {Status: 200, Body: make([]byte, events.MaxResult+1)}, {Status: 200, Truncated: true}} {
			r.handle = func(context.Context, events.Call) events.Answer { return answer }
			inv := r.ended(r.enqueue(events.Request{Then: []string{"b"}}).ID)
			if inv.Status != orchestrator.InvocationFailed || inv.Next != "" || inv.Error == "" {
				t.Errorf("invocation %+v, want a dead letter and no next", inv)
			}
		}
	})
}

// TestEnqueueAll: all or none, in order, and what is there already is found.
func TestEnqueueAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(c *events.Config) { c.Depth = 3 })
		r.fleet.slots = 2 // one call at a time
		var got []string
		counted := make(chan struct{}) // the end of a call is a commit, too
		r.handle = func(_ context.Context, call events.Call) events.Answer {
			<-counted
			got = append(got, string(call.Body))
			return status(200)
		}
		request := func(body string) events.Request {
			return events.Request{Function: "a", Body: []byte(body), IdempotencyKey: body}
		}
		before := r.journal.Commits()
		queued, err := r.queue.EnqueueAll(t.Context(), []events.Request{request("1"), request("2"), request("1")})
		if err != nil || len(queued) != 3 || queued[0].Found || !queued[2].Found || queued[2].Invocation.ID != queued[0].Invocation.ID {
			t.Fatalf("EnqueueAll = %+v, %v", queued, err)
		}
		if n := r.journal.Commits() - before; n != 1 {
			t.Errorf("%d commits, want one", n)
		}
		close(counted)
		for _, q := range queued {
			r.ended(q.Invocation.ID)
		}
		if diff := cmp.Diff([]string{"1", "2"}, got); diff != "" {
			t.Errorf("calls (-want +got):\n%s", diff)
		}
		for name, requests := range map[string][]events.Request{
			"full":      {request("3"), request("4"), request("5"), request("6")},
			"unknown":   {request("3"), {Function: "nobody"}},
			"too large": {request("3"), {Function: "a", Body: make([]byte, events.MaxCall+1)}},
		} {
			if _, err := r.queue.EnqueueAll(t.Context(), requests); err == nil {
				t.Errorf("%s: no error", name)
			}
		}
		r.journal.Fail(orchestrator.Errorf(orchestrator.ErrUnavailable, "store-unavailable", "the disk is away"))
		if _, err := r.queue.EnqueueAll(t.Context(), []events.Request{request("3"), request("4")}); !errors.Is(err, orchestrator.ErrUnavailable) {
			t.Errorf("without a disk: %v", err)
		}
		r.journal.Fail(nil)
		// What was refused is neither made nor remembered, and takes no room.
		queued, err = r.queue.EnqueueAll(t.Context(), []events.Request{request("3"), request("4"), request("5")})
		if err != nil || queued[0].Found {
			t.Fatalf("EnqueueAll = %+v, %v", queued, err)
		}
		for _, q := range queued {
			r.ended(q.Invocation.ID)
		}
		if diff := cmp.Diff([]string{"1", "2", "3", "4", "5"}, got); diff != "" {
			t.Errorf("calls (-want +got):\n%s", diff)
		}
	})
}
