package postgres_test

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/trigger/postgres"
	"github.com/kilnfaas/kiln/orchestrator/triggertest"
)

// TestChanges: what the event of each kind of change holds.
func TestChanges(t *testing.T) {
	d := in(t, server(t), `CREATE TABLE orders (id int PRIMARY KEY, note text, body text);
		CREATE TABLE full_rows (id int PRIMARY KEY, note text, body text);
		ALTER TABLE full_rows REPLICA IDENTITY FULL;
		ALTER TABLE orders ALTER body SET STORAGE EXTERNAL; ALTER TABLE full_rows ALTER body SET STORAGE EXTERNAL;
		CREATE TABLE other (id int PRIMARY KEY)`)
	f := triggertest.NewRecorder(t)
	run := f.Start(source(), d.trigger(orchestrator.Settings{"tables": []any{d.table("orders"), d.table("full_rows")}}))
	long := "repeat('x', 5000)"
	for _, statement := range []string{
		"INSERT INTO other VALUES (1)",
		"INSERT INTO orders VALUES (1, NULL, " + long + ")",
		"UPDATE orders SET note = 'a \"b\"'",
		"UPDATE orders SET id = 2",
		"DELETE FROM orders",
		"INSERT INTO full_rows VALUES (1, 'a', " + long + ")",
		"UPDATE full_rows SET note = 'b'",
		"DELETE FROM full_rows",
		"TRUNCATE orders, other",
		"INSERT INTO orders VALUES (3, repeat('y', 600000), 'z')",
	} {
		d.sql(statement)
	}
	events := f.Take(9)
	var got []string
	for _, e := range events {
		c := data(t, e)
		line := strings.TrimPrefix(e.Type, "dev.kiln.postgres.") + " " + c.Operation + " " + strings.TrimPrefix(e.Subject, d.schema+".") + "/" + c.Table
		if len(c.New) > 0 {
			line += " new " + string(c.New)
		}
		if len(c.Old) > 0 {
			line += " old " + string(c.Old)
		}
		line += fmt.Sprint(" ", c.Unchanged, c.Omitted)
		got = append(got, strings.ReplaceAll(line, strings.Repeat("x", 5000), "LONG"))
		if e.Extensions[orchestrator.PartitionKey] != "commit" || e.ContentType != "application/json" || time.Since(e.Time) > time.Hour || c.Schema != d.schema {
			t.Errorf("event %+v", e)
		}
	}
	want := []string{
		`inserted insert orders/orders new {"id":1,"note":null,"body":"LONG"} [] []`,
		`updated update orders/orders new {"id":1,"note":"a \"b\""} [body] []`,
		`updated update orders/orders new {"id":2,"note":"a \"b\""} old {"id":1} [body] []`,
		`deleted delete orders/orders old {"id":2} [] []`,
		`inserted insert full_rows/full_rows new {"id":1,"note":"a","body":"LONG"} [] []`,
		`updated update full_rows/full_rows new {"id":1,"note":"b","body":"LONG"} old {"id":1,"note":"a","body":"LONG"} [] []`,
		`deleted delete full_rows/full_rows old {"id":1,"note":"b","body":"LONG"} [] []`,
		`truncated truncate orders/orders [] []`,
		`inserted insert orders/orders new {"id":3,"body":"z"} [] [note]`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
	run.Stop()
}

// TestTypes: values of PostgreSQL's types as JSON, of the real output functions.
func TestTypes(t *testing.T) {
	d := in(t, server(t), "CREATE TABLE things (id int PRIMARY KEY)")
	values := []struct{ kind, value, want string }{
		{"bool", "true", `true`},
		{"int8", "9223372036854775807", `9223372036854775807`},
		{"numeric", "12345678901234567890.10", `12345678901234567890.10`},
		{"numeric", "'NaN'", `"NaN"`},
		{"float8", "0.1", `0.1`},
		{"float8", "1e300", `1e+300`},
		{"float4", "'-Infinity'", `"-Infinity"`},
		{"json", `'{"a": [1, null]}'`, `{"a": [1, null]}`},
		{"jsonb", `'"text"'`, `"text"`},
		{"bytea", `'\x00ff'`, `"AP8="`},
		{"timestamptz", "'2026-01-31 03:30:00.25+01'", `"2026-01-31T02:30:00.25Z"`},
		{"timestamp", "'2026-01-31 03:30:00'", `"2026-01-31T03:30:00"`},
		{"timestamptz", "'infinity'", `"infinity"`},
		{"date", "'2026-01-31'", `"2026-01-31"`},
		{"interval", "'1 day 2 hours'", `"P1DT2H"`},
		{"uuid", "'6e0c0be4-4e15-4a5e-8f44-4ad10e8b2a52'", `"6e0c0be4-4e15-4a5e-8f44-4ad10e8b2a52"`},
		{"inet", "'10.0.0.1'", `"10.0.0.1"`},
		{"int[]", "'{1,NULL,3}'", `[1,null,3]`},
		{"int[]", "'[0:1]={1,2}'", `[1,2]`},
		{"text[]", `'{a,"b \"c\", {d}","NULL",""}'`, `["a","b \"c\", {d}","NULL",""]`},
		{"int[]", "'{{1,2},{3,4}}'", `[[1,2],[3,4]]`},
		{"jsonb[]", `ARRAY['{"a": 1}'::jsonb]`, `[{"a": 1}]`},
		{"int[]", "'{}'", `[]`},
		{"text", "E'\\u00e9\\n<'", `"é\n\u003c"`},
	}
	var columns, row []string
	for i, v := range values {
		columns = append(columns, fmt.Sprintf("ADD COLUMN c%d %s", i, v.kind))
		row = append(row, v.value)
	}
	d.sql("ALTER TABLE things " + strings.Join(columns, ", "))
	f := triggertest.NewRecorder(t)
	run := f.Start(source(), d.trigger(orchestrator.Settings{"tables": []any{d.table("things")}}))
	d.sql("INSERT INTO things VALUES (1, " + strings.Join(row, ", ") + ")")
	want := `{"id":1`
	for i, v := range values {
		want += fmt.Sprintf(`,"c%d":%s`, i, v.want)
	}
	if got := string(data(t, f.Take(1)[0]).New); got != want+"}" {
		t.Errorf("row %s\nwant %s}", got, want)
	}
	run.Stop()
}

// TestOperationsAndTables: settings that change reach the publication.
func TestOperationsAndTables(t *testing.T) {
	d := in(t, server(t), "CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY); CREATE TABLE unkeyed (id int)")
	f := triggertest.NewRecorder(t)
	run := f.Start(source(), d.trigger(orchestrator.Settings{"tables": []any{d.table("a")}}))
	d.sql("INSERT INTO a VALUES (1)")
	f.Take(1)
	run.Stop()
	run = f.Start(source(), d.trigger(orchestrator.Settings{
		"tables": []any{d.table("b"), d.table("unkeyed")}, "operations": []any{"insert"}, "order": "table",
	}))
	d.sql("INSERT INTO a VALUES (2)")
	d.sql("INSERT INTO b VALUES (3)")
	d.sql("DELETE FROM b")
	d.sql("INSERT INTO unkeyed VALUES (4)")
	d.sql("DELETE FROM unkeyed") // is not refused
	d.sql("INSERT INTO b VALUES (5)")
	var got []string
	for _, e := range f.Take(3) {
		got = append(got, e.Extensions[orchestrator.PartitionKey]+string(data(t, e).New))
	}
	want := []string{d.table("b") + `{"id":3}`, d.table("unkeyed") + `{"id":4}`, d.table("b") + `{"id":5}`}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
	run.Stop()
}

// TestLargeTransaction: one that is cut off in the middle, more than once, is told
// whole and in order, in pieces that are bounded.
func TestLargeTransaction(t *testing.T) {
	const rows = 3000
	d := in(t, server(t), "CREATE TABLE many (id int PRIMARY KEY)")
	trigger := d.trigger(orchestrator.Settings{"tables": []any{d.table("many")}})
	f := triggertest.NewRecorder(t)
	largest, fail, total := 0, 500, 0
	f.Before(func(events []orchestrator.CloudEvent) error {
		largest = max(largest, len(events))
		if total += len(events); fail > 0 && total > fail {
			return orchestrator.Errorf(orchestrator.ErrUnavailable, "cut", "cut off")
		}
		return nil
	})
	run := f.Start(source(), trigger)
	d.sql(fmt.Sprintf("INSERT INTO many SELECT generate_series(1, %d)", rows))
	if err := run.Fails(); err == nil || err.Error() != "cut off" {
		t.Fatalf("Run = %v", err)
	}
	fail, total = 1500, 0
	run = f.Begin(source(), trigger)
	if err := run.Fails(); err == nil || err.Error() != "cut off" {
		t.Fatalf("Run = %v", err)
	}
	fail = 0
	run = f.Start(source(), trigger)
	d.sql("INSERT INTO many VALUES (0)")
	events := f.Take(rows + 1)
	for i, e := range events {
		if want, got := (i+1)%(rows+1), string(data(t, e).New); got != fmt.Sprintf(`{"id":%d}`, want) {
			t.Fatalf("event %d is row %s, want %d", i, got, want)
		}
	}
	run.Stop() // the transaction's end may still be on its way
	if f.Kept().Again == 0 {
		t.Error("nothing was read again, so nothing was cut off")
	}
	if largest > 256 {
		t.Errorf("%d events were delivered together", largest)
	}
}

// TestIdleConfirms: what happens to other tables is not held back.
func TestIdleConfirms(t *testing.T) {
	d := in(t, server(t), "CREATE TABLE watched (id int PRIMARY KEY); CREATE TABLE other (id int PRIMARY KEY)")
	f := triggertest.NewRecorder(t)
	run := f.Start(source(), d.trigger(orchestrator.Settings{"tables": []any{d.table("watched")}}))
	d.sql("INSERT INTO other SELECT generate_series(1, 1000)")
	at := d.sql("SELECT pg_current_wal_lsn()")
	for deadline := time.Now().Add(triggertest.Patience); d.sql("SELECT confirmed_flush_lsn >= '"+at+"' FROM pg_replication_slots WHERE slot_name = 'kiln_"+strings.ToLower(f.ID())+"'") != "t"; {
		if time.Now().After(deadline) {
			t.Fatal("the slot is not moved on")
		}
	}
	run.Stop()
}

// TestWarnsOfRetainedLog while what a function does not take in piles up.
func TestWarnsOfRetainedLog(t *testing.T) {
	d := in(t, server(t), "CREATE TABLE heaps (id int PRIMARY KEY)")
	f := triggertest.NewRecorder(t)
	run := f.Start(postgres.Source{Secret: secret, Retained: 1, LookEvery: 10 * time.Millisecond}, d.trigger(orchestrator.Settings{"tables": []any{d.table("heaps")}}))
	f.Until("people are warned", func(k triggertest.Kept) bool { return len(k.Failed) > 0 })
	if got := f.Kept().Failed[0].Error(); !strings.Contains(got, "of its log for the replication slot kiln_"+strings.ToLower(f.ID())) {
		t.Errorf("the warning is %q", got)
	}
	run.Stop()
}

// TestNotifications come while somebody listens.
func TestNotifications(t *testing.T) {
	d := in(t, server(t), "SELECT 1")
	channel := `Mixed "case" ` + d.schema
	f := triggertest.NewRecorder(t)
	run := f.Start(source(), d.trigger(orchestrator.Settings{"channel": channel}))
	for _, payload := range []string{"plain", `{"a": 1}`, ""} {
		d.sql("SELECT pg_notify('" + channel + "', '" + payload + "')")
	}
	var got []string
	for _, e := range f.Take(3) {
		got = append(got, e.Type, e.Subject, e.ContentType, string(e.Data))
	}
	want := []string{
		"dev.kiln.postgres.notified", channel, "text/plain; charset=utf-8", "plain",
		"dev.kiln.postgres.notified", channel, "application/json", `{"a": 1}`,
		"dev.kiln.postgres.notified", channel, "text/plain; charset=utf-8", "",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
	run.Stop()
}

// BenchmarkCommitToDelivery tells how long after a commit its event is handed over.
func BenchmarkCommitToDelivery(b *testing.B) {
	d := in(b, server(b), "CREATE TABLE timed (id int PRIMARY KEY)")
	f := triggertest.NewRecorder(b)
	run := f.Start(source(), d.trigger(orchestrator.Settings{"tables": []any{d.table("timed")}}))
	for n := 0; b.Loop(); n++ {
		if _, err := d.conn.Exec(context.Background(), "INSERT INTO timed VALUES ("+strconv.Itoa(n)+")").ReadAll(); err != nil {
			b.Fatal(err)
		}
		f.Take(1)
	}
	b.StopTimer()
	run.Stop()
}

// TestConfirmsAfterDelivery: what could not be delivered is there in the next run.
func TestConfirmsAfterDelivery(t *testing.T) {
	const rows = 20
	d := in(t, server(t), "CREATE TABLE happened (id int PRIMARY KEY)")
	trigger := d.trigger(orchestrator.Settings{"tables": []any{d.table("happened")}})
	f := triggertest.NewRecorder(t)
	begun, committed := make(chan struct{}), make(chan struct{})
	first := true
	// The first delivery waits until there are whole transactions behind it, and the
	// next one, of those, fails.
	f.Before(func(events []orchestrator.CloudEvent) error {
		switch {
		case len(events) == 0:
			return nil
		case first:
			first = false
			close(begun)
			<-committed
			return nil
		}
		return orchestrator.Errorf(orchestrator.ErrUnavailable, "cut", "cut off")
	})
	run := f.Start(source(), trigger)
	for i := range rows {
		d.sql(fmt.Sprintf("INSERT INTO happened VALUES (%d)", i))
		if i == 0 {
			<-begun // else they may all be in it
		}
	}
	close(committed)
	if err := run.Fails(); err == nil || err.Error() != "cut off" {
		t.Fatalf("Run = %v", err)
	}
	f.Before(nil)
	run = f.Start(source(), trigger)
	for i, e := range f.Take(rows) {
		if got := string(data(t, e).New); got != fmt.Sprintf(`{"id":%d}`, i) {
			t.Errorf("event %d is row %s", i, got)
		}
	}
	run.Stop()
}
