package nats_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/natstest"
	"github.com/kilnfaas/kiln/orchestrator/triggertest"
)

func TestMessagesOfAStream(t *testing.T) {
	on(t, func(t *testing.T, o outside) {
		o.stream()
		o.keep("a", "before")
		f := triggertest.NewRecorder(t)
		r := f.Start(o.source, o.trigger(orchestrator.Settings{"stream": o.name, "subjects": o.subjects("a")}))
		o.keep("a", "1")
		o.keep("b", "other")
		o.keep("a", "2")
		got := f.Take(2)
		if data(got) != "1 2" {
			t.Errorf("got %q, want what came since", data(got))
		}
		if e := got[0]; e.Source != "/streams/"+o.name || e.Subject != o.name+".a" || e.Time.IsZero() || !strings.HasPrefix(e.ID, o.name+"-") || !strings.HasSuffix(e.ID, "-2") {
			t.Errorf("event %+v", e)
		}
		f.Until("nothing is behind", func(k triggertest.Kept) bool { return k.Progress.Pending == 0 })
		o.acknowledged("kiln_"+f.ID(), 4)
		r.Stop()
		// Other settings: goes on where it was, with those.
		o.keep("a", "3")
		f.Start(o.source, o.trigger(orchestrator.Settings{"stream": o.name, "subjects": o.subjects("b"), "max_ack_pending": float64(5)}))
		o.keep("a", "4")
		o.keep("b", "5")
		if got := data(f.Take(1)); got != "5" {
			t.Errorf("with another subject: got %q", got)
		}
		info, err := o.consumer("kiln_" + f.ID())
		if err != nil || info.Config.MaxAckPending != 5 {
			t.Errorf("the consumer is %+v, %v", info, err)
		}
	})
}

func TestStart(t *testing.T) {
	on(t, func(t *testing.T, o outside) {
		o.stream()
		o.keep("a", "1")
		o.keep("b", "2")
		middle := time.Now().UTC().Format(time.RFC3339Nano)
		o.keep("a", "3")
		feeds := map[string]*triggertest.Recorder{}
		for _, start := range []string{"new", "all", "last", "last_per_subject", middle} {
			feeds[start] = triggertest.NewRecorder(t)
			feeds[start].Start(o.source, o.trigger(orchestrator.Settings{"stream": o.name, "start": start}))
		}
		o.keep("c", "4")
		for start, want := range map[string]string{"new": "4", "all": "1 2 3 4", "last": "3 4", "last_per_subject": "2 3 4", middle: "3 4"} {
			f := feeds[start]
			f.Until("the last one has come", func(k triggertest.Kept) bool { return strings.HasSuffix(data(k.Events), "4") })
			if got := data(f.Take(0)); got != want {
				t.Errorf("start %s: got %q, want %q", start, got, want)
			}
		}
	})
}

// TestServerRestarts, in its way and by a crash: nothing is lost.
func TestServerRestarts(t *testing.T) {
	natstest.Require(t)
	server, err := natstest.New(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	})
	o := dial(t, server)
	o.stream()
	f := triggertest.NewRecorder(t)
	trigger := o.trigger(orchestrator.Settings{"stream": o.name})
	r := f.Start(o.source, trigger)
	for i, end := range []func() error{server.Stop, server.Kill} {
		o.keep("x", fmt.Sprint("before", i))
		f.Take(1)
		if err := end(); err != nil {
			t.Fatal(err)
		}
		if err := r.Fails(); !errors.Is(err, orchestrator.ErrUnavailable) {
			t.Errorf("Run after the server has ended = %v", err)
		}
		if err := f.Begin(o.source, trigger).Fails(); !errors.Is(err, orchestrator.ErrUnavailable) {
			t.Errorf("Run without a server = %v", err)
		}
		if err := server.Start(); err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(triggertest.Patience); !o.conn.IsConnected() && time.Now().Before(deadline); time.Sleep(time.Millisecond) { // it is another's to come back
		}
		o.keep("x", fmt.Sprint("meanwhile", i))
		r = f.Start(o.source, trigger)
		if got := data(f.Take(1)); got != fmt.Sprint("meanwhile", i) {
			t.Errorf("got %q", got)
		}
	}
}

// TestConsumerIsRemoved by somebody: it is made again behind what was acknowledged.
func TestConsumerIsRemoved(t *testing.T) {
	on(t, func(t *testing.T, o outside) {
		o.source.LookEvery = 20 * time.Millisecond
		o.stream()
		f := triggertest.NewRecorder(t)
		trigger := o.trigger(orchestrator.Settings{"stream": o.name})
		r := f.Start(o.source, trigger)
		for i := range 3 {
			o.keep("x", fmt.Sprint(i))
		}
		f.Take(3)
		f.Until("the position tells of it", func(k triggertest.Kept) bool { return strings.Contains(string(k.Position), `"floor":3`) })
		r.Stop()
		if err := o.js.DeleteConsumer(t.Context(), o.name, "kiln_"+f.ID()); err != nil {
			t.Fatal(err)
		}
		o.keep("x", "meanwhile")
		f.Start(o.source, trigger)
		if got := data(f.Take(1)); got != "meanwhile" || f.Kept().Again != 0 {
			t.Errorf("got %q, and %d again", got, f.Kept().Again)
		}
	})
}

// TestConsumerIsRemovedMeanwhile: Run tells of it, also where the server does not.
func TestConsumerIsRemovedMeanwhile(t *testing.T) {
	on(t, func(t *testing.T, o outside) {
		o.source.LookEvery = 20 * time.Millisecond
		o.stream()
		f := triggertest.NewRecorder(t)
		r := f.Start(o.source, o.trigger(orchestrator.Settings{"stream": o.name}))
		if err := o.js.DeleteConsumer(t.Context(), o.name, "kiln_"+f.ID()); err != nil {
			t.Fatal(err)
		}
		if err := r.Fails(); !errors.Is(err, orchestrator.ErrNotFound) {
			t.Errorf("Run = %v", err)
		}
	})
}

// TestStreamIsReplaced: what is in the new one of the name has happened since, and
// its messages are other ones although they count from 1 again.
func TestStreamIsReplaced(t *testing.T) {
	on(t, func(t *testing.T, o outside) {
		o.stream()
		f := triggertest.NewRecorder(t)
		trigger := o.trigger(orchestrator.Settings{"stream": o.name})
		r := f.Start(o.source, trigger)
		o.keep("x", "former")
		f.Take(1)
		r.Stop()
		if err := o.js.DeleteStream(t.Context(), o.name); err != nil {
			t.Fatal(err)
		}
		o.stream()
		o.keep("x", "new")
		f.Start(o.source, trigger)
		if got := data(f.Take(1)); got != "new" {
			t.Errorf("got %q", got)
		}
		if len(f.Kept().Dropped) != 1 || !errors.Is(f.Kept().Dropped[0], orchestrator.ErrNotFound) {
			t.Errorf("dropped %v, want to be told once", f.Kept().Dropped)
		}
	})
}

// TestOtherStream: the consumer of the former one goes.
func TestOtherStream(t *testing.T) {
	on(t, func(t *testing.T, o outside) {
		o.stream()
		f := triggertest.NewRecorder(t)
		r := f.Start(o.source, o.trigger(orchestrator.Settings{"stream": o.name}))
		r.Stop()
		p := newOutside(t, o.conn, o.source, o.settings)
		p.stream()
		r = f.Start(o.source, o.trigger(orchestrator.Settings{"stream": p.name}))
		if _, err := o.consumer("kiln_" + f.ID()); !errors.Is(err, jetstream.ErrConsumerNotFound) {
			t.Errorf("the consumer of the former stream: %v", err)
		}
		r.Stop()
		f.Start(o.source, o.trigger(orchestrator.Settings{"subjects": o.subjects("x")}))
		if _, err := p.consumer("kiln_" + f.ID()); !errors.Is(err, jetstream.ErrConsumerNotFound) {
			t.Errorf("the consumer of a trigger that has subjects now: %v", err)
		}
	})
}

// TestFullQueueStopsPulling: what waits in memory is bounded, and the server keeps
// the rest.
func TestFullQueueStopsPulling(t *testing.T) {
	on(t, func(t *testing.T, o outside) {
		o.stream()
		f := triggertest.NewRecorder(t)
		entered, gate := hold(f)
		f.Start(o.source, o.trigger(orchestrator.Settings{"stream": o.name}))
		const n, most = 1000, 256
		for i := range n {
			if _, err := o.js.PublishAsync(o.name+".x", []byte(fmt.Sprint(i))); err != nil {
				t.Fatal(err)
			}
		}
		<-o.js.PublishAsyncComplete()
		<-entered
		// A message that is given out after this one would be in what was given out.
		o.keep("x", "last")
		info := o.until("kiln_"+f.ID(), "the server has counted all messages", func(info *jetstream.ConsumerInfo) bool { return uint64(info.NumAckPending)+info.NumPending == n+1 })
		if info.NumAckPending > most {
			t.Errorf("%d were taken and %d wait; want at most %d to be taken", info.NumAckPending, info.NumPending, most)
		}
		close(gate)
		if got := len(f.Take(n + 1)); got != n+1 || f.Kept().Again != 0 {
			t.Errorf("%d came, and %d again; want %d", got, f.Kept().Again, n+1)
		}
	})
}

// hold has a feed keep those who deliver events waiting until the gate is closed.
func hold(f *triggertest.Recorder) (entered, gate chan struct{}) {
	entered, gate = make(chan struct{}, 1), make(chan struct{})
	f.Before(func(events []orchestrator.CloudEvent) error {
		if len(events) > 0 {
			select {
			case entered <- struct{}{}:
			default:
			}
			<-gate
		}
		return nil
	})
	return entered, gate
}

// TestWhatIsAtWorkIsNotGivenToOthers who read the same consumer, however long the
// queue is full.
func TestWhatIsAtWorkIsNotGivenToOthers(t *testing.T) {
	const ackWait = 2 * time.Second // half of it is what a busy machine has for saying that it is at work
	o := embeddedServer(t)
	o.stream()
	consumer, err := o.js.CreateConsumer(t.Context(), o.name, jetstream.ConsumerConfig{Durable: "mine", AckPolicy: jetstream.AckExplicitPolicy, AckWait: ackWait})
	if err != nil {
		t.Fatal(err)
	}
	f := triggertest.NewRecorder(t)
	entered, gate := hold(f)
	f.Start(o.source, o.trigger(orchestrator.Settings{"stream": o.name, "consumer": "mine"}))
	o.keep("x", "1")
	<-entered
	got, err := consumer.Fetch(1, jetstream.FetchMaxWait(ackWait*3/2))
	if err != nil {
		t.Fatal(err)
	}
	for m := range got.Messages() {
		t.Errorf("%s was given to another", m.Data())
	}
	close(gate)
	f.Take(1)
}

// TestWhatWasTakenComesAgain at once to the next Run, when the one before it was
// stopped and had not delivered it.
func TestWhatWasTakenComesAgain(t *testing.T) {
	again := func(t *testing.T, o outside, settings orchestrator.Settings) {
		f := triggertest.NewRecorder(t)
		settings["stream"] = o.name
		r := f.Start(o.source, o.trigger(settings))
		entered := make(chan struct{}, 1)
		f.Before(func(events []orchestrator.CloudEvent) error {
			if len(events) == 0 {
				return nil
			}
			select {
			case entered <- struct{}{}:
			default:
			}
			<-r.Done()
			return context.Canceled
		})
		for i := range 5 {
			o.keep("x", fmt.Sprint(i))
		}
		<-entered
		r.Stop()
		f.Before(nil)
		f.Start(o.source, o.trigger(settings))
		f.Take(5)
	}
	on(t, func(t *testing.T, o outside) {
		o.stream()
		again(t, o, orchestrator.Settings{"ack_wait": "1h"})
	})
	t.Run("OfOthers", func(t *testing.T) {
		o := embeddedServer(t).fromOutside()
		o.stream()
		if _, err := o.js.CreateConsumer(t.Context(), o.name, jetstream.ConsumerConfig{Durable: "mine", AckPolicy: jetstream.AckExplicitPolicy, AckWait: time.Hour}); err != nil {
			t.Fatal(err)
		}
		again(t, o, orchestrator.Settings{"consumer": "mine"})
	})
	t.Run("Interest", func(t *testing.T) {
		o := embeddedServer(t)
		o.stream(func(c *jetstream.StreamConfig) { c.Retention = jetstream.InterestPolicy })
		again(t, o, orchestrator.Settings{"ack_wait": "1h"})
	})
}

func TestTooLargeOfAStream(t *testing.T) {
	on(t, func(t *testing.T, o outside) {
		o.stream()
		f := triggertest.NewRecorder(t)
		f.Start(o.source, o.trigger(orchestrator.Settings{"stream": o.name, "ack_wait": "1s"}))
		o.keep("x", strings.Repeat("x", orchestrator.MaxEventData+1))
		o.keep("x", "small")
		if got := data(f.Take(1)); got != "small" {
			t.Errorf("got %.40q", got)
		}
		f.Until("the one that is too large was dropped", func(k triggertest.Kept) bool { return len(k.Dropped) == 1 })
		o.acknowledged("kiln_"+f.ID(), 2)
	})
}

func TestWorkQueue(t *testing.T) {
	on(t, func(t *testing.T, o outside) {
		o.stream(func(c *jetstream.StreamConfig) { c.Retention = jetstream.WorkQueuePolicy })
		o.keep("x", "1")
		f := triggertest.NewRecorder(t)
		f.Start(o.source, o.trigger(orchestrator.Settings{"stream": o.name}))
		if got := data(f.Take(1)); got != "1" {
			t.Errorf("got %q", got)
		}
		// Another trigger of the same messages is refused, and people are told why.
		err := triggertest.NewRecorder(t).Begin(o.source, o.trigger(orchestrator.Settings{"stream": o.name})).Fails()
		if err == nil || !strings.Contains(err.Error(), "workqueue") {
			t.Errorf("Run = %v", err)
		}
	})
}

// TestConsumerOfOthers is read and left alone.
func TestConsumerOfOthers(t *testing.T) {
	on(t, func(t *testing.T, o outside) {
		o.stream()
		trigger := o.trigger(orchestrator.Settings{"stream": o.name, "consumer": "mine"})
		f := triggertest.NewRecorder(t)
		if err := f.Begin(o.source, trigger).Fails(); !errors.Is(err, orchestrator.ErrInvalid) || !strings.Contains(err.Error(), "no consumer mine") {
			t.Errorf("Run without it = %v", err)
		}
		for name, config := range map[string]jetstream.ConsumerConfig{
			"none":  {Durable: "mine", AckPolicy: jetstream.AckNonePolicy},
			"right": {Durable: "mine", AckPolicy: jetstream.AckExplicitPolicy, MaxRequestBatch: 3},
		} {
			_ = o.js.DeleteConsumer(t.Context(), o.name, "mine")
			if _, err := o.js.CreateConsumer(t.Context(), o.name, config); err != nil {
				t.Fatal(err)
			}
			if name == "none" {
				if err := f.Begin(o.source, trigger).Fails(); !errors.Is(err, orchestrator.ErrInvalid) {
					t.Errorf("Run without acknowledgements = %v", err)
				}
				continue
			}
			r := f.Start(o.source, trigger)
			for i := range 10 {
				o.keep("x", fmt.Sprint(i))
			}
			f.Take(10)
			r.Stop()
			if err := o.source.Forget(context.Background(), trigger, f.ID(), f.Kept().Position); err != nil {
				t.Error(err)
			}
			if _, err := o.consumer("mine"); err != nil {
				t.Errorf("it is gone with the trigger: %v", err)
			}
		}
	})
}

func TestStreamUnknown(t *testing.T) {
	on(t, func(t *testing.T, o outside) {
		err := triggertest.NewRecorder(t).Begin(o.source, o.trigger(orchestrator.Settings{"stream": o.name})).Fails()
		if !errors.Is(err, orchestrator.ErrInvalid) || !strings.Contains(err.Error(), "no stream "+o.name) {
			t.Errorf("Run = %v", err)
		}
	})
}
