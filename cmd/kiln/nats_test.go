package main_test

import (
	"context"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/kilnfaas/kiln/orchestrator/natstest"
)

// natsTimeout bounds what a script asks a NATS server.
const natsTimeout = 20 * time.Second

// natsServer starts a NATS server of the script's own, again, or kills it.
func natsServer(ts *testscript.TestScript, _ bool, args []string) {
	w := worldOf(ts)
	switch {
	case len(args) == 1 && args[0] == "KILL":
		ts.Check(w.nats.Kill())
	case w.nats != nil:
		ts.Check(w.nats.Start())
	default:
		server, err := natstest.New(ts.MkAbs("."))
		ts.Check(err)
		ts.Defer(func() { ts.Check(server.Close()) })
		w.nats = server
		ts.Setenv("NATS_URL", server.URL())
		ts.Setenv("NATS_LOGIN", natstest.User+":"+natstest.Password)
	}
}

// servedNATS is what the gateway logs when it lets NATS clients in.
var servedNATS = regexp.MustCompile(`NATS clients are let in.*address=(\S+)`)

// natsOwn leads to the gateway's own server.
func natsOwn(ts *testscript.TestScript, _ bool, _ []string) {
	w := worldOf(ts)
	log, err := os.ReadFile(w.gateway.logFile())
	ts.Check(err)
	found := servedNATS.FindAllStringSubmatch(string(log), -1)
	if len(found) == 0 {
		ts.Fatalf("the gateway does not say that it lets NATS clients in")
	}
	login, err := os.ReadFile(filepath.Join(w.gateway.data(), "nats-credentials"))
	ts.Check(err)
	ts.Setenv("NATS_URL", found[len(found)-1][1])
	ts.Setenv("NATS_LOGIN", strings.TrimSpace(string(login)))
}

// askNATS has something done on the server that the script's environment names.
func askNATS(ts *testscript.TestScript, f func(ctx context.Context, conn *nats.Conn, js jetstream.JetStream) error) {
	ctx, cancel := context.WithTimeout(context.Background(), natsTimeout)
	defer cancel()
	user, password, _ := strings.Cut(ts.Getenv("NATS_LOGIN"), ":")
	conn, err := nats.Connect(ts.Getenv("NATS_URL"), nats.UserInfo(user, password), nats.Timeout(natsTimeout))
	ts.Check(err)
	defer conn.Close()
	js, err := jetstream.New(conn)
	ts.Check(err)
	ts.Check(f(ctx, conn, js))
}

func natsStream(ts *testscript.TestScript, _ bool, args []string) {
	askNATS(ts, func(ctx context.Context, _ *nats.Conn, js jetstream.JetStream) error {
		_, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: args[0], Subjects: []string{args[0] + ".>"}})
		return err
	})
}

func natsPublish(ts *testscript.TestScript, _ bool, args []string) {
	first, err := strconv.Atoi(args[1])
	ts.Check(err)
	last, err := strconv.Atoi(args[2])
	ts.Check(err)
	askNATS(ts, func(ctx context.Context, conn *nats.Conn, js jetstream.JetStream) error {
		_, err := js.StreamNameBySubject(ctx, args[0])
		kept := err == nil
		for n := first; n <= last; n++ {
			if kept {
				_, err = js.Publish(ctx, args[0], []byte(strconv.Itoa(n)))
			} else {
				err = conn.Publish(args[0], []byte(strconv.Itoa(n)))
			}
			if err != nil {
				return err
			}
		}
		return conn.FlushWithContext(ctx)
	})
}

func natsConsumers(ts *testscript.TestScript, _ bool, args []string) {
	askNATS(ts, func(ctx context.Context, _ *nats.Conn, js jetstream.JetStream) error {
		for {
			stream, err := js.Stream(ctx, args[0])
			if err != nil || strconv.Itoa(stream.CachedInfo().State.Consumers) == args[1] {
				return err
			}
			time.Sleep(pollInterval) // the server has no clock of ours
		}
	})
}
