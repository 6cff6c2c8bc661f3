package nats_test

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/triggertest"
)

func TestSubjects(t *testing.T) {
	on(t, func(t *testing.T, o outside) {
		f := triggertest.NewRecorder(t)
		f.Start(o.source, o.trigger(orchestrator.Settings{"subjects": o.subjects("a.*", "b.>")}))
		o.publish("a.1", "one")
		o.publish("a.1.x", "no")
		o.publish("b.1.x", "two")
		o.publish("c", "no")
		o.publish("a.2", "three")
		got := f.Take(3)
		if data(got) != "one two three" {
			t.Errorf("got %q", data(got))
		}
		if e := got[0]; e.Type != "dev.kiln.nats.message" || e.Subject != o.name+".a.1" || e.Source != "" || e.ID == "" || e.ID == got[1].ID {
			t.Errorf("event %+v", e)
		}
	})
}

// TestGroupSharesMessages: of a queue group one gets each message.
func TestGroupSharesMessages(t *testing.T) {
	on(t, func(t *testing.T, o outside) {
		all, f := o.trigger(orchestrator.Settings{"subjects": o.subjects("*"), "queue": "workers"}), triggertest.NewRecorder(t)
		other := triggertest.NewRecorder(t)
		f.Start(o.source, all)
		other.Start(o.source, all)
		const n = 50
		for i := range n {
			o.publish("x", fmt.Sprint(i))
		}
		var got []orchestrator.CloudEvent
		for deadline := time.Now().Add(triggertest.Patience); len(got) < n && time.Now().Before(deadline); time.Sleep(time.Millisecond) { // either may be next
			got = append(append(got, f.Take(0)...), other.Take(0)...)
		}
		if len(got) != n {
			t.Errorf("%d came, want %d", len(got), n)
		}
		seen := map[string]bool{}
		for _, e := range got {
			if seen[string(e.Data)] {
				t.Errorf("%s came twice", e.Data)
			}
			seen[string(e.Data)] = true
		}
	})
}

// TestWhatAMessageIs: headers make a message an event of its own.
func TestWhatAMessageIs(t *testing.T) {
	o := embeddedServer(t)
	binary := []string{"ce-specversion", "1.0", "ce-id", "7", "ce-source", "/shop", "ce-type", "order.made", "Ce-Subject", "tea", "ce-extra", "x"}
	structured := `{"specversion":"1.0","id":"8","source":"/shop","type":"order.made","data":{"a":1}}`
	natsSubject := map[string]string{"natssubject": o.name + ".x"}
	for _, test := range []struct {
		name, data string
		header     []string
		want       orchestrator.CloudEvent
	}{
		{"JSON", `{"a":1}`, nil, orchestrator.CloudEvent{Type: "dev.kiln.nats.message", Subject: o.name + ".x", ContentType: "application/json"}},
		{"text", "tea, please", nil, orchestrator.CloudEvent{Type: "dev.kiln.nats.message", Subject: o.name + ".x", ContentType: "text/plain; charset=utf-8"}},
		{"bytes", "\xff\xfe", nil, orchestrator.CloudEvent{Type: "dev.kiln.nats.message", Subject: o.name + ".x", ContentType: "application/octet-stream"}},
		{"nothing", "", nil, orchestrator.CloudEvent{Type: "dev.kiln.nats.message", Subject: o.name + ".x", ContentType: "text/plain; charset=utf-8"}},
		{"media type", "<a/>", []string{"content-type", "text/xml"}, orchestrator.CloudEvent{Type: "dev.kiln.nats.message", Subject: o.name + ".x", ContentType: "text/xml"}},
		{"message id", "1", []string{"Nats-Msg-Id", "m1"}, orchestrator.CloudEvent{ID: "m1", Type: "dev.kiln.nats.message", Subject: o.name + ".x", ContentType: "application/json"}},
		{"binary event", "tea", append(binary, "content-type", "text/plain"), orchestrator.CloudEvent{
			ID: "7", Source: "/shop", Type: "order.made", Subject: "tea", ContentType: "text/plain", Extensions: map[string]string{"extra": "x", "natssubject": o.name + ".x"}}},
		{"structured event", structured, []string{"Content-Type", "application/cloudevents+json; charset=utf-8"}, orchestrator.CloudEvent{
			ID: "8", Source: "/shop", Type: "order.made", ContentType: "application/json", Data: []byte(`{"a":1}`), Extensions: natsSubject}},
		{"an event without id", "1", []string{"ce-specversion", "1.0", "ce-source", "/shop", "ce-type", "x"}, orchestrator.CloudEvent{
			Type: "dev.kiln.nats.message", Subject: o.name + ".x", ContentType: "application/json"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := triggertest.NewRecorder(t)
			r := f.Start(o.source, o.trigger(orchestrator.Settings{"subjects": o.subjects("x")}))
			o.publish("x", test.data, test.header...)
			got := f.Take(1)[0]
			r.Stop()
			if test.want.Data == nil {
				test.want.Data = []byte(test.data)
			}
			if test.want.ID == "" && got.ID != "" {
				test.want.ID = got.ID
			}
			if len(got.Extensions) == 0 {
				got.Extensions = nil
			}
			if !got.Time.IsZero() {
				test.want.Time = got.Time
			}
			if len(got.Data) == 0 && len(test.want.Data) == 0 {
				got.Data, test.want.Data = nil, nil
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestOrder(t *testing.T) {
	o := embeddedServer(t)
	for order, want := range map[string]string{"none": "", "subject": o.name + ".x", "all": "nats"} {
		f := triggertest.NewRecorder(t)
		r := f.Start(o.source, o.trigger(orchestrator.Settings{"subjects": o.subjects("x"), "order": order}))
		o.publish("x", "1")
		if got := f.Take(1)[0].Extensions[orchestrator.PartitionKey]; got != want {
			t.Errorf("order %s: partition key %q, want %q", order, got, want)
		}
		r.Stop()
	}
}

// TestMachineryIsHidden: who listens to everything hears what people publish, and
// not what servers and clients say to each other.
func TestMachineryIsHidden(t *testing.T) {
	o := embeddedServer(t)
	o.stream()
	f := triggertest.NewRecorder(t)
	f.Start(o.source, o.trigger(orchestrator.Settings{"subjects": []any{">"}}))
	o.keep("x", "mine") // with a reply to an inbox
	o.publish("y", "last")
	f.Until("the last one has come", func(k triggertest.Kept) bool { return strings.HasSuffix(data(k.Events), "last") })
	for _, e := range f.Take(1) {
		if !strings.HasPrefix(e.Subject, "test") {
			t.Errorf("a message of %s was told", e.Subject)
		}
	}
}

// TestPrivateSubjectsAreHidden on a server where the gateway's own streams are.
func TestPrivateSubjectsAreHidden(t *testing.T) {
	o := embeddedServer(t)
	o.source.Private = func(subject string) bool { return strings.Contains(subject, ".private") }
	o.stream()
	f := triggertest.NewRecorder(t)
	f.Start(o.source, o.trigger(orchestrator.Settings{"subjects": o.subjects(">")}))
	g := triggertest.NewRecorder(t)
	g.Start(o.source, o.trigger(orchestrator.Settings{"stream": o.name}))
	o.keep("private", "no")
	o.keep("open", "yes")
	for _, got := range []string{data(f.Take(1)), data(g.Take(1))} {
		if got != "yes" {
			t.Errorf("got %q, want what is not private", got)
		}
	}
	o.name += "x"
	o.stream(func(c *jetstream.StreamConfig) { c.Subjects = []string{o.name + ".private.>"} })
	err := triggertest.NewRecorder(t).Begin(o.source, o.trigger(orchestrator.Settings{"stream": o.name})).Fails()
	if !errors.Is(err, orchestrator.ErrInvalid) || !strings.Contains(err.Error(), "gateway's own") {
		t.Errorf("Run on a stream of the gateway's own = %v", err)
	}
}

// TestWhatHasComeIsPutOnDisk when the trigger is stopped.
func TestWhatHasComeIsPutOnDisk(t *testing.T) {
	on(t, func(t *testing.T, o outside) {
		f := triggertest.NewRecorder(t)
		entered, gate := make(chan struct{}), make(chan struct{})
		first := true
		f.Before(func([]orchestrator.CloudEvent) error {
			if first {
				first = false
				close(entered)
				<-gate
			}
			return nil
		})
		r := f.Start(o.source, o.trigger(orchestrator.Settings{"subjects": o.subjects("x")}))
		o.publish("x", "1")
		<-entered
		const n = 500
		for i := 2; i <= n; i++ {
			o.publish("x", fmt.Sprint(i))
		}
		r.Cancel()
		close(gate)
		r.Stop()
		if got := len(f.Take(0)); got != n {
			t.Errorf("%d of %d messages that had come were delivered", got, n)
		}
	})
}

// TestTooManyAreMissed: what waits in memory is bounded, and what does not fit is
// counted.
func TestTooManyAreMissed(t *testing.T) {
	o := embeddedServer(t)
	f := triggertest.NewRecorder(t)
	entered, gate := make(chan struct{}), make(chan struct{})
	first := true
	f.Before(func([]orchestrator.CloudEvent) error {
		if first {
			first = false
			close(entered)
			<-gate
		}
		return nil
	})
	var conn *natsgo.Conn // the source's
	home := o.source.Home
	o.source.Home = func(options ...natsgo.Option) (_ *natsgo.Conn, err error) {
		conn, err = home(options...)
		return conn, err
	}
	f.Start(o.source, o.trigger(orchestrator.Settings{"subjects": o.subjects("x")}))
	o.publish("x", "1")
	<-entered
	const n, size = 80, 512 << 10 // 40 MiB, and 32 may wait
	for range n {
		o.publish("x", strings.Repeat("x", size))
	}
	if err := conn.Flush(); err != nil { // all of them have come before this is answered
		t.Fatal(err)
	}
	close(gate)
	f.Until("each was delivered or missed", func(k triggertest.Kept) bool { return len(k.Events)+k.Missed == n+1 })
	if f.Kept().Missed == 0 || f.Kept().Missed > n/2 {
		t.Errorf("%d of %d messages were missed, want some", f.Kept().Missed, n)
	}
}

func TestTooLargeIsDropped(t *testing.T) {
	on(t, func(t *testing.T, o outside) {
		f := triggertest.NewRecorder(t)
		f.Start(o.source, o.trigger(orchestrator.Settings{"subjects": o.subjects("x")}))
		o.publish("x", strings.Repeat("x", orchestrator.MaxEventData+1))
		o.publish("x", "small")
		if got := data(f.Take(1)); got != "small" {
			t.Errorf("got %.40q", got)
		}
		if len(f.Kept().Dropped) != 1 || !errors.Is(f.Kept().Dropped[0], orchestrator.ErrTooLarge) {
			t.Errorf("dropped %v, want the one that is too large", f.Kept().Dropped)
		}
	})
}

func TestNobodyListens(t *testing.T) {
	o := embeddedServer(t)
	for name, settings := range map[string]orchestrator.Settings{
		"Subjects": {"url": "nats://127.0.0.1:1", "subjects": []any{"x"}}, "Stream": {"url": "nats://127.0.0.1:1", "stream": "x"},
	} {
		t.Run(name, func(t *testing.T) {
			err := triggertest.NewRecorder(t).Begin(o.source, o.trigger(settings)).Fails()
			if !errors.Is(err, orchestrator.ErrUnavailable) || !strings.Contains(err.Error(), "nats://127.0.0.1:1") {
				t.Errorf("Run = %v, want one that says which server is not there", err)
			}
		})
	}
	t.Run("Home", func(t *testing.T) {
		o.source.Home = nil
		err := triggertest.NewRecorder(t).Begin(o.source, o.trigger(orchestrator.Settings{"subjects": []any{"x"}})).Fails()
		if !errors.Is(err, orchestrator.ErrUnavailable) {
			t.Errorf("Run = %v", err)
		}
	})
}

// TestTriggerEndsWhileItConnects to a server that says no more than its name.
func TestTriggerEndsWhileItConnects(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	o := embeddedServer(t)
	r := triggertest.NewRecorder(t).Begin(o.source, o.trigger(orchestrator.Settings{"url": "nats://" + listener.Addr().String(), "subjects": []any{"x"}}))
	conn, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("INFO {\"max_payload\": 1048576}\r\n")); err != nil {
		t.Fatal(err)
	}
	for line := bufio.NewScanner(conn); line.Scan() && line.Text() != "PING"; { // and now it waits
	}
	began := time.Now()
	r.Stop()
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("it took %s", took)
	}
}
