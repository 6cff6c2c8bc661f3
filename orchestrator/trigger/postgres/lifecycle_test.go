package postgres_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/pgtest"
	"github.com/kilnfaas/kiln/orchestrator/trigger/postgres"
	"github.com/kilnfaas/kiln/orchestrator/triggertest"
)

// TestServerComesAndGoes: PostgreSQL is restarted and killed while a transaction
// is told, and while nobody looks; nothing is lost.
func TestServerComesAndGoes(t *testing.T) {
	pgtest.Require(t)
	dir, err := os.MkdirTemp("", "kiln-postgres-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil { // for who runs the server
		t.Fatal(err)
	}
	cluster, err := pgtest.New(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cluster.Close() })
	d := in(t, cluster, "CREATE TABLE happened (id int PRIMARY KEY)")
	trigger := d.trigger(orchestrator.Settings{"tables": []any{d.table("happened")}})
	f := triggertest.NewRecorder(t)
	refuses(t, f, trigger, "its wal_level is replica", "ALTER SYSTEM SET wal_level = logical")

	d.sql("ALTER SYSTEM SET wal_level = logical")
	restart := func(end func() error) {
		t.Helper()
		d.conn.Close(t.Context())
		if err := errors.Join(end(), cluster.Start()); err != nil {
			t.Fatal(err)
		}
		d.dial()
	}
	restart(cluster.Stop)
	run := f.Start(source(), trigger)
	d.sql("INSERT INTO happened VALUES (1)")
	f.Take(1)
	// Stopping waits for what is told to be confirmed: it is not held up.
	restart(cluster.Stop)
	if err := run.Fails(); !errors.Is(err, orchestrator.ErrUnavailable) {
		t.Errorf("Run = %v when PostgreSQL stops, want the class unavailable", err)
	}
	d.sql("INSERT INTO happened VALUES (2)")
	run = f.Start(source(), trigger)
	f.Take(1)

	// Killed in the middle of a transaction that is being told.
	middle := make(chan struct{}, 1)
	kill := make(chan struct{})
	n := 0
	f.Before(func(events []orchestrator.CloudEvent) error {
		if n += len(events); n > 500 {
			select {
			case middle <- struct{}{}:
			default:
			}
			<-kill
		}
		return nil
	})
	d.sql("INSERT INTO happened SELECT generate_series(3, 2002)")
	<-middle
	d.conn.Close(t.Context())
	if err := cluster.Kill(); err != nil {
		t.Fatal(err)
	}
	close(kill)
	if err := run.Fails(); !errors.Is(err, orchestrator.ErrUnavailable) {
		t.Errorf("Run = %v when PostgreSQL is killed, want the class unavailable", err)
	}
	refuses(t, f, trigger, fmt.Sprintf("PostgreSQL at 127.0.0.1:%d/postgres is not there", cluster.Port))
	if err := cluster.Start(); err != nil {
		t.Fatal(err)
	}
	d.dial()
	run = f.Start(source(), trigger)
	before := d.sql("SELECT pg_current_wal_lsn() - '0/0'")
	d.sql("INSERT INTO happened VALUES (2003)")
	for i, e := range f.Take(2001) {
		if got := string(data(t, e).New); got != fmt.Sprintf(`{"id":%d}`, i+3) {
			t.Fatalf("event %d is row %s, want %d", i, got, i+3)
		}
	}
	f.Until("the position is behind the last row", func(k triggertest.Kept) bool { return behind(t, k.Position, before) })
	// A crash of PostgreSQL's puts the slot back to its last checkpoint: what was
	// told since is not told again, even to a queue that has forgotten it.
	d.conn.Close(t.Context())
	if err := cluster.Kill(); err != nil {
		t.Fatal(err)
	}
	run.Fails()
	if err := cluster.Start(); err != nil {
		t.Fatal(err)
	}
	d.dial()
	f.Forget()
	run = f.Start(source(), trigger)
	d.sql("INSERT INTO happened VALUES (2004)")
	if got := f.Take(1); len(got) != 1 || f.Kept().Again > 0 {
		t.Errorf("%d events were told again", len(got)-1+f.Kept().Again)
	}
	run.Stop()
	if len(f.Kept().Dropped) > 0 {
		t.Errorf("dropped: %v", f.Kept().Dropped)
	}
}

// behind says whether a position is behind a place in the log, a number.
func behind(t *testing.T, position []byte, place string) bool {
	t.Helper()
	var p struct {
		LSN uint64 `json:"lsn"`
	}
	at, err := strconv.ParseUint(place, 10, 64)
	if err := errors.Join(err, json.Unmarshal(position, &p)); err != nil {
		t.Fatalf("%s: %v", position, err)
	}
	return p.LSN > at
}

// refuses checks that a run fails, saying each of texts, and does not say the
// password.
func refuses(t *testing.T, f *triggertest.Recorder, trigger orchestrator.Trigger, texts ...string) {
	t.Helper()
	err := f.Begin(source(), trigger).Fails()
	classed, ok := errors.AsType[*orchestrator.Error](err)
	if !ok {
		t.Errorf("Run = %v, want an error of a class", err)
		return
	}
	for _, text := range texts {
		if !strings.Contains(classed.Detail, text) {
			t.Errorf("Run fails with %q, want it to say %q", classed.Detail, text)
		}
	}
	if strings.Contains(err.Error(), pgtest.Password) {
		t.Errorf("the password is in %q", err)
	}
}

// TestRefusals: people are told what to do.
func TestRefusals(t *testing.T) {
	d := in(t, server(t), `CREATE TABLE happened (id int PRIMARY KEY); CREATE TABLE unkeyed (id int);
		DO $$ BEGIN CREATE ROLE plain LOGIN PASSWORD 'a password of tests'; CREATE ROLE replicator REPLICATION LOGIN PASSWORD 'a password of tests'; END $$`)
	happened := []any{d.table("happened")}
	for name, test := range map[string]struct {
		settings orchestrator.Settings
		texts    []string
	}{
		"password":     {orchestrator.Settings{"tables": happened, "secret": nil}, []string{"refuses the password of " + pgtest.Superuser, "secret: NAME"}},
		"secret":       {orchestrator.Settings{"tables": happened, "secret": "none"}, []string{`no secret "none"`}},
		"role":         {orchestrator.Settings{"tables": happened, "user": "nobody"}, []string{"nobody"}},
		"database":     {orchestrator.Settings{"tables": happened, "database": "nowhere"}, []string{`database "nowhere" does not exist`}},
		"replication":  {orchestrator.Settings{"tables": happened, "user": "plain"}, []string{`ALTER ROLE "plain" REPLICATION`}},
		"owner":        {orchestrator.Settings{"tables": happened, "user": "replicator"}, []string{"replicator may not publish the tables", "publication: name"}},
		"table":        {orchestrator.Settings{"tables": []any{d.table("Happened")}}, []string{"there is no table " + d.table("Happened")}},
		"key":          {orchestrator.Settings{"tables": []any{d.table("unkeyed")}}, []string{"has no key", "REPLICA IDENTITY FULL"}},
		"publication":  {orchestrator.Settings{"publication": "none"}, []string{"there is no publication none", `CREATE PUBLICATION "none"`}},
		"slot":         {orchestrator.Settings{"tables": happened, "slot": "none"}, []string{"there is no replication slot none"}},
		"encryption":   {orchestrator.Settings{"tables": happened, "sslmode": "require"}, []string{"does not offer TLS"}},
		"notification": {orchestrator.Settings{"channel": "x", "port": float64(1)}, []string{"is not there: connect: connection refused"}},
	} {
		t.Run(name, func(t *testing.T) {
			f := triggertest.NewRecorder(t)
			refuses(t, f, d.trigger(test.settings), test.texts...)
			if got := d.slots(f.ID()); name != "slot" && got != "0/0" {
				t.Errorf("slots and publications %s are left of a trigger that never was", got)
			}
		})
	}
	// A slot has one reader.
	f := triggertest.NewRecorder(t)
	trigger := d.trigger(orchestrator.Settings{"tables": happened})
	run := f.Start(source(), trigger)
	refuses(t, f.Twin(), trigger, "is active for PID", "one reader at a time")
	run.Stop()
}

// TestForget leaves nothing of Kiln's behind, and what is somebody else's alone.
func TestForget(t *testing.T) {
	d := in(t, server(t), "CREATE TABLE happened (id int PRIMARY KEY)")
	d.sql("CREATE PUBLICATION theirs FOR TABLE happened")
	d.sql("SELECT pg_create_logical_replication_slot('theirs', 'pgoutput')")
	forgetter := source().(orchestrator.Forgetter)
	for name, test := range map[string]struct {
		settings   orchestrator.Settings
		while, own string
	}{
		"all":      {orchestrator.Settings{"tables": []any{d.table("happened")}}, "1/1", "0/0"},
		"slot":     {orchestrator.Settings{"publication": "theirs"}, "1/0", "0/0"},
		"nothing":  {orchestrator.Settings{"publication": "theirs", "slot": "theirs"}, "0/0", "0/0"},
		"channel":  {orchestrator.Settings{"channel": "x"}, "0/0", "0/0"},
		"prefixed": {orchestrator.Settings{"tables": []any{d.table("happened")}, "slot": "theirs"}, "0/1", "0/0"},
	} {
		t.Run(name, func(t *testing.T) {
			f := triggertest.NewRecorder(t)
			trigger := d.trigger(test.settings)
			run := f.Start(source(), trigger)
			if test.settings["channel"] == nil {
				d.sql("INSERT INTO happened SELECT coalesce(max(id), 0) + 1 FROM happened")
				f.Take(1)
			}
			run.Stop()
			if got := d.slots(f.ID()); got != test.while {
				t.Errorf("slots and publications %s while it runs, want %s", got, test.while)
			}
			for range 2 {
				// As the engine does: a busy server lets go of the slot a while after the
				// connection has ended.
				for end := time.Now().Add(triggertest.Patience); ; time.Sleep(50 * time.Millisecond) {
					err := forgetter.Forget(t.Context(), trigger, f.ID(), f.Position())
					if err == nil {
						break
					}
					if time.Now().After(end) {
						t.Fatal(err)
					}
				}
			}
			if got := d.slots(f.ID()); got != test.own {
				t.Errorf("slots and publications %s are left", got)
			}
		})
	}
	if got := d.sql("SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'theirs'"); got != "1" {
		t.Errorf("somebody else's slot is gone")
	}
	d.sql("SELECT pg_drop_replication_slot('theirs'); DROP PUBLICATION theirs")
	if err := forgetter.Forget(t.Context(), d.trigger(nil), "never", nil); err != nil {
		t.Errorf("Forget of a trigger that never ran = %v", err)
	}
}

// TestSettingsThatMove: what earlier settings made does not stay behind.
func TestSettingsThatMove(t *testing.T) {
	d := in(t, server(t), "CREATE TABLE happened (id int PRIMARY KEY)")
	d.sql("CREATE PUBLICATION named FOR TABLE happened")
	f := triggertest.NewRecorder(t)
	for i, step := range []struct {
		settings orchestrator.Settings
		want     string
	}{
		{orchestrator.Settings{"tables": []any{d.table("happened")}}, "1/1"},
		{orchestrator.Settings{"publication": "named"}, "1/0"},
		{orchestrator.Settings{"tables": []any{d.table("happened")}}, "1/1"},
		{orchestrator.Settings{"tables": []any{d.table("happened")}, "host": "localhost"}, "1/1"}, // another name of the same
		{orchestrator.Settings{"channel": "x"}, "0/0"},
		{orchestrator.Settings{"publication": "named"}, "1/0"},
	} {
		run := f.Start(source(), d.trigger(step.settings))
		if got := d.slots(f.ID()); got != step.want {
			t.Errorf("step %d: slots and publications %s, want %s", i, got, step.want)
		}
		if step.settings["channel"] == nil {
			d.sql(fmt.Sprintf("INSERT INTO happened VALUES (%d)", i))
			if got := string(data(t, f.Take(1)[0]).New); got != fmt.Sprintf(`{"id":%d}`, i) {
				t.Errorf("step %d: row %s", i, got)
			}
		}
		run.Stop()
		if i == 2 { // the next step goes on where this one was
			d.sql("INSERT INTO happened VALUES (100)")
			run := f.Start(source(), d.trigger(orchestrator.Settings{"tables": []any{d.table("happened")}, "host": "localhost"}))
			f.Take(1)
			run.Stop()
		}
	}
	if len(f.Kept().Dropped) > 0 {
		t.Errorf("dropped: %v", f.Kept().Dropped)
	}
	if err := source().(orchestrator.Forgetter).Forget(t.Context(), d.trigger(nil), f.ID(), f.Position()); err != nil {
		t.Error(err)
	}
}

// TestLossIsTold: a slot that somebody dropped cannot be read any more. People
// hear of it, and the trigger goes on.
func TestLossIsTold(t *testing.T) {
	d := in(t, server(t), "CREATE TABLE happened (id int PRIMARY KEY)")
	trigger := d.trigger(orchestrator.Settings{"tables": []any{d.table("happened")}})
	f := triggertest.NewRecorder(t)
	name := "kiln_" + strings.ToLower(f.ID())
	for i, statement := range []string{
		"SELECT pg_drop_replication_slot('" + name + "')",
		"DROP PUBLICATION " + name,
	} {
		f.Start(source(), trigger).Stop()
		for deadline := time.Now().Add(triggertest.Patience); d.sql("SELECT active FROM pg_replication_slots WHERE slot_name = '"+name+"'") != "f"; time.Sleep(time.Millisecond) { // the server has no clock of ours
			if time.Now().After(deadline) {
				t.Fatal("the slot stays active")
			}
		}
		d.sql(statement)
		d.sql(fmt.Sprintf("INSERT INTO happened VALUES (%d)", 10*i))
		run := f.Start(source(), trigger)
		d.sql(fmt.Sprintf("INSERT INTO happened VALUES (%d)", 10*i+1))
		if got := string(data(t, f.Take(1)[0]).New); got != fmt.Sprintf(`{"id":%d}`, 10*i+1) {
			t.Errorf("after %s: row %s", statement, got)
		}
		run.Stop()
		if len(f.Kept().Dropped) != i+1 || !strings.Contains(f.Kept().Dropped[i].Error(), "may be lost") {
			t.Errorf("after %s: dropped %v, want to be told", statement, f.Kept().Dropped)
		}
	}
	if err := source().(orchestrator.Forgetter).Forget(t.Context(), trigger, f.ID(), f.Position()); err != nil {
		t.Error(err)
	}
}

// TestCheck refuses at deploy what cannot be.
func TestCheck(t *testing.T) {
	base := orchestrator.Settings{"host": "db", "database": "x", "user": "u"}
	for setting, cases := range map[string][]orchestrator.Settings{
		"tables": {
			{}, {"tables": []any{}}, {"tables": []any{"a."}}, {"tables": []any{"a"}, "channel": "c"}, {"publication": "p", "channel": "c"},
			{"tables": []any{strings.Repeat("a", 64)}}, {"tables": "a"}, {"tables": slices.Repeat([]any{"a"}, 101)},
		},
		"host":        {{"host": nil, "tables": []any{"a"}}, {"host": "/run/postgresql", "channel": "c"}, {"host": "a,b", "channel": "c"}},
		"port":        {{"port": float64(0), "channel": "c"}},
		"sslmode":     {{"sslmode": "allow", "channel": "c"}},
		"slot":        {{"slot": "Mine", "tables": []any{"a"}}, {"slot": "a; DROP", "tables": []any{"a"}}},
		"operations":  {{"operations": []any{"select"}, "tables": []any{"a"}}},
		"order":       {{"order": "row", "tables": []any{"a"}}, {"order": "commit", "channel": "c"}},
		"publication": {{"publication": strings.Repeat("p", 64)}},
		"url": {
			{"url": "postgres://u:hunter2@db/x", "host": nil, "database": nil, "user": nil, "channel": "c"},
			{"url": "postgres://u:hunter2@[/x", "host": nil, "database": nil, "user": nil, "channel": "c"},
			{"url": "postgres://u@db/x?sslrootcert=/etc/shadow", "host": nil, "database": nil, "user": nil, "channel": "c"},
			{"url": "postgres://u@%2frun%2fpostgresql/x", "host": nil, "database": nil, "user": nil, "channel": "c"},
			{"url": "http://u@db/x", "host": nil, "database": nil, "user": nil, "channel": "c"},
			{"url": "postgres://db/x", "host": nil, "database": nil, "user": nil, "channel": "c"},
		},
	} {
		for _, settings := range cases {
			all := orchestrator.Settings{}
			for _, from := range []orchestrator.Settings{base, settings} {
				for name, value := range from {
					all[name] = value
				}
			}
			err := postgres.Source{}.Check(orchestrator.Trigger{Name: "t", Type: postgres.Type, Settings: all})
			place, ok := errors.AsType[*orchestrator.SettingError](err)
			want := setting
			if setting == "order" && settings["channel"] != nil {
				want = "order" // unknown there
			}
			if !ok || place.Setting != want {
				t.Errorf("Check of %v = %v, want an error about %s", settings, err, want)
			}
			if err != nil && strings.Contains(err.Error(), "hunter2") {
				t.Errorf("the password is in %q", err)
			}
		}
	}
	good := orchestrator.Settings{"url": "postgresql://u@db.example.com:6432/x?sslmode=verify-full", "tables": []any{"a", `s.b "c".d`}, "operations": []any{"insert"}, "order": "none"}
	if err := (postgres.Source{}).Check(orchestrator.Trigger{Settings: good}); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff("dev.kiln.postgres.inserted", postgres.Source{}.Sample(orchestrator.Trigger{Settings: good}).Type); diff != "" {
		t.Error(diff)
	}
}
