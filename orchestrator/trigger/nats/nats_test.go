package nats_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/kilnfaas/kiln/orchestrator"
	state "github.com/kilnfaas/kiln/orchestrator/jetstream"
	"github.com/kilnfaas/kiln/orchestrator/natstest"
	"github.com/kilnfaas/kiln/orchestrator/trigger/nats"
	"github.com/kilnfaas/kiln/orchestrator/triggertest"
)

// servers are those of this run of the tests, which tests share that leave them
// running.
var servers struct {
	sync.Mutex
	real     *natstest.Server
	embedded *state.Server
	dir      string
}

func TestMain(m *testing.M) {
	code := m.Run()
	var errs []error
	if servers.real != nil {
		errs = append(errs, servers.real.Close())
	}
	if servers.embedded != nil {
		errs = append(errs, servers.embedded.Close())
	}
	if servers.dir != "" {
		errs = append(errs, os.RemoveAll(servers.dir))
	}
	if err := errors.Join(errs...); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func folder(t testing.TB) string { // servers is locked
	t.Helper()
	if servers.dir == "" {
		dir, err := os.MkdirTemp("", "kiln-nats-")
		if err != nil {
			t.Fatal(err)
		}
		servers.dir = dir
	}
	return servers.dir
}

// realServer is a server from the distribution's package.
func realServer(t testing.TB) outside {
	t.Helper()
	natstest.Require(t)
	servers.Lock()
	defer servers.Unlock()
	if servers.real == nil {
		var err error
		if servers.real, err = natstest.New(folder(t)); err != nil {
			t.Fatal(err)
		}
	}
	return dial(t, servers.real)
}

// dial opens a connection of the test's own to a server.
func dial(t testing.TB, server *natstest.Server) outside {
	t.Helper()
	conn, err := natsgo.Connect(server.URL(), natsgo.UserInfo(natstest.User, natstest.Password), natsgo.MaxReconnects(-1), natsgo.ReconnectWait(10*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	return newOutside(t, conn, nats.Source{Secret: secret}, orchestrator.Settings{"url": server.URL(), "secret": "login"})
}

// embeddedServer is the gateway's own.
func embeddedServer(t testing.TB) outside {
	t.Helper()
	servers.Lock()
	defer servers.Unlock()
	if servers.embedded == nil {
		var err error
		if servers.embedded, err = state.Connect(context.Background(), state.Options{
			Dir: folder(t) + "/embedded", Clients: &state.Clients{Address: "127.0.0.1:0", User: natstest.User, Password: natstest.Password},
		}); err != nil {
			t.Fatal(err)
		}
	}
	conn, err := servers.embedded.Dial()
	if err != nil {
		t.Fatal(err)
	}
	return newOutside(t, conn, nats.Source{Home: servers.embedded.Dial, Private: servers.embedded.Private}, orchestrator.Settings{})
}

// fromOutside has a test on the gateway's own server come in as other programs do.
func (o outside) fromOutside() outside {
	o.source = nats.Source{Secret: secret}
	o.settings = orchestrator.Settings{"url": "nats://" + servers.embedded.ClientsAddress(), "secret": "login"}
	return o
}

func secret(_ context.Context, _, name string) ([]byte, error) {
	if name != "login" {
		return nil, orchestrator.Errorf(orchestrator.ErrNotFound, "secret-unknown", "there is no secret %q", name)
	}
	return []byte(natstest.User + ":" + natstest.Password + "\n"), nil
}

var names atomic.Int64

// outside is a server, and a stream and subjects that are a test's own.
type outside struct {
	t        testing.TB
	conn     *natsgo.Conn
	js       jetstream.JetStream
	source   nats.Source
	settings orchestrator.Settings // where the server is
	name     string                // of the stream; subjects begin with it
}

func newOutside(t testing.TB, conn *natsgo.Conn, source nats.Source, settings orchestrator.Settings) outside {
	t.Helper()
	t.Cleanup(conn.Close)
	js, err := jetstream.New(conn)
	if err != nil {
		t.Fatal(err)
	}
	return outside{t, conn, js, source, settings, fmt.Sprintf("test%d", names.Add(1))}
}

// on runs a test on both servers.
func on(t *testing.T, f func(t *testing.T, o outside)) {
	t.Run("Embedded", func(t *testing.T) { f(t, embeddedServer(t)) })
	t.Run("Real", func(t *testing.T) { f(t, realServer(t)) })
}

// stream makes the stream.
func (o outside) stream(change ...func(*jetstream.StreamConfig)) {
	o.t.Helper()
	config := jetstream.StreamConfig{Name: o.name, Subjects: []string{o.name + ".>"}}
	for _, c := range change {
		c(&config)
	}
	if _, err := o.js.CreateStream(o.t.Context(), config); err != nil {
		o.t.Fatal(err)
	}
}

// keep publishes a message to the stream, and returns once it is there.
func (o outside) keep(subject, data string) {
	o.t.Helper()
	if _, err := o.js.Publish(o.t.Context(), o.name+"."+subject, []byte(data)); err != nil {
		o.t.Fatal(err)
	}
}

// publish publishes a message, with headers in pairs.
func (o outside) publish(subject, data string, header ...string) {
	o.t.Helper()
	m := natsgo.NewMsg(o.name + "." + subject)
	m.Data = []byte(data)
	for i := 0; i < len(header); i += 2 {
		m.Header[header[i]] = append(m.Header[header[i]], header[i+1]) // as it is written
	}
	if err := errors.Join(o.conn.PublishMsg(m), o.conn.Flush()); err != nil {
		o.t.Fatal(err)
	}
}

// trigger returns one of the server, with settings besides. Subjects begin with
// the test's name.
func (o outside) trigger(settings orchestrator.Settings) orchestrator.Trigger {
	all := orchestrator.Settings{}
	for _, some := range []orchestrator.Settings{o.settings, settings} {
		for name, value := range some {
			all[name] = value
		}
	}
	return orchestrator.Trigger{Name: "t", Type: nats.Type, Settings: all}
}

func (o outside) subjects(all ...string) []any {
	var list []any
	for _, s := range all {
		list = append(list, o.name+"."+s)
	}
	return list
}

// consumer returns what the server says of the consumer of a trigger.
func (o outside) consumer(name string) (*jetstream.ConsumerInfo, error) {
	c, err := o.js.Consumer(o.t.Context(), o.name, name)
	if err != nil {
		return nil, err
	}
	return c.CachedInfo(), nil
}

// until waits for what the server says of a consumer: it learns of acknowledgements
// and counts messages in its own time.
func (o outside) until(name, what string, met func(info *jetstream.ConsumerInfo) bool) *jetstream.ConsumerInfo {
	o.t.Helper()
	for deadline := time.Now().Add(triggertest.Patience); ; time.Sleep(time.Millisecond) { // it has no clock of ours
		info, err := o.consumer(name)
		if err == nil && met(info) {
			return info
		}
		if time.Now().After(deadline) {
			o.t.Fatalf("not so within %s: %s; the consumer is %+v, %v", triggertest.Patience, what, info, err)
		}
	}
}

// acknowledged waits until all messages up to one of the stream's are.
func (o outside) acknowledged(name string, sequence uint64) {
	o.t.Helper()
	o.until(name, fmt.Sprintf("message %d is acknowledged", sequence), func(info *jetstream.ConsumerInfo) bool {
		return info.NumAckPending == 0 && info.AckFloor.Stream == sequence
	})
}

// world is a stream to which event n publishes n.
func (o outside) world() triggertest.World {
	o.stream()
	return triggertest.World{
		Source:  func() orchestrator.Source { return o.source },
		Trigger: o.trigger(orchestrator.Settings{"stream": o.name}),
		Cause: func(n int, _ triggertest.Receive) error {
			_, err := o.js.Publish(context.Background(), o.name+".happened", []byte(strconv.Itoa(n)))
			return err
		},
		Number: func(e orchestrator.CloudEvent) (int, error) { return strconv.Atoi(string(e.Data)) },
		Forgotten: func(id string) bool {
			_, err := o.consumer("kiln_" + id)
			return errors.Is(err, jetstream.ErrConsumerNotFound)
		},
	}
}

func TestConforms(t *testing.T) {
	t.Run("Embedded", func(t *testing.T) {
		triggertest.Run(t, func(t *testing.T) triggertest.World { return embeddedServer(t).world() })
	})
	t.Run("Real", func(t *testing.T) {
		natstest.Require(t)
		triggertest.Run(t, func(t *testing.T) triggertest.World { return realServer(t).world() })
	})
}

// data returns what events hold, one after another.
func data(events []orchestrator.CloudEvent) string {
	var all []string
	for _, e := range events {
		all = append(all, string(e.Data))
	}
	return strings.Join(all, " ")
}
