package postgres_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/pgtest"
	"github.com/kilnfaas/kiln/orchestrator/trigger/postgres"
	"github.com/kilnfaas/kiln/orchestrator/triggertest"
)

// clusters are those of this run of the tests, by what they are for.
var clusters struct {
	sync.Mutex
	shared *pgtest.Cluster
	dir    string
}

func TestMain(m *testing.M) {
	code := m.Run()
	if clusters.shared != nil {
		if err := clusters.shared.Close(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
		os.RemoveAll(clusters.dir)
	}
	os.Exit(code)
}

// server returns the cluster that tests share which leave it running.
func server(t testing.TB) *pgtest.Cluster {
	t.Helper()
	pgtest.Require(t)
	clusters.Lock()
	defer clusters.Unlock()
	if clusters.shared == nil {
		dir, err := os.MkdirTemp("", "kiln-postgres-")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(dir, 0o755); err != nil { // for who runs the server
			t.Fatal(err)
		}
		clusters.dir = dir
		if clusters.shared, err = pgtest.New(dir, "wal_level=logical", "max_replication_slots=30", "max_wal_senders=30"); err != nil {
			t.Fatal(err)
		}
	}
	return clusters.shared
}

var names atomic.Int64

// database is one of a cluster, and a schema in it that is a test's own.
type database struct {
	t       testing.TB
	cluster *pgtest.Cluster
	schema  string
	conn    *pgconn.PgConn
}

// in returns a schema of the test's own, in which statements were run.
func in(t testing.TB, cluster *pgtest.Cluster, statements string) database {
	t.Helper()
	d := database{t: t, cluster: cluster, schema: fmt.Sprintf("test%d", names.Add(1))}
	d.dial()
	t.Cleanup(func() { d.conn.Close(context.Background()) })
	d.sql("CREATE SCHEMA " + d.schema)
	d.sql("SET search_path TO " + d.schema)
	d.sql(statements)
	return d
}

// dial opens the connection, again after the server was away.
func (d *database) dial() {
	d.t.Helper()
	config, err := pgconn.ParseConfig(fmt.Sprintf("host=127.0.0.1 port=%d user=%s dbname=postgres sslmode=disable", d.cluster.Port, pgtest.Superuser))
	if err != nil {
		d.t.Fatal(err)
	}
	config.Password = pgtest.Password
	if d.schema != "" {
		config.RuntimeParams["search_path"] = d.schema
	}
	if d.conn, err = pgconn.ConnectConfig(context.Background(), config); err != nil {
		d.t.Fatal(err)
	}
}

// try runs statements, all in one transaction, and returns the first value of the
// last one.
func (d database) try(statements string) (string, error) {
	results, err := d.conn.Exec(context.Background(), statements).ReadAll()
	if err != nil || len(results) == 0 || len(results[len(results)-1].Rows) == 0 {
		return "", err
	}
	return string(results[len(results)-1].Rows[0][0]), nil
}

func (d database) sql(statements string) string {
	d.t.Helper()
	out, err := d.try(statements)
	if err != nil {
		d.t.Fatalf("%.200s: %v", statements, err)
	}
	return out
}

// table returns the name of a table as the settings have it.
func (d database) table(name string) string { return d.schema + "." + name }

// slots returns how many slots and publications there are for a trigger.
func (d database) slots(id string) string {
	name := "kiln_" + strings.ToLower(id)
	return d.sql("SELECT (SELECT count(*) FROM pg_replication_slots WHERE slot_name = '" + name + "') || '/' || (SELECT count(*) FROM pg_publication WHERE pubname = '" + name + "')")
}

// trigger returns one of the database, with settings besides.
func (d database) trigger(settings orchestrator.Settings) orchestrator.Trigger {
	all := orchestrator.Settings{
		"host": "127.0.0.1", "port": float64(d.cluster.Port), "database": "postgres", "user": pgtest.Superuser, "secret": "db", "sslmode": "disable",
	}
	for name, value := range settings {
		all[name] = value
	}
	return orchestrator.Trigger{Name: "t", Type: postgres.Type, Settings: all}
}

func secret(_ context.Context, _, name string) ([]byte, error) {
	if name != "db" {
		return nil, orchestrator.Errorf(orchestrator.ErrNotFound, "secret-unknown", "there is no secret %q", name)
	}
	return []byte(pgtest.Password + "\n"), nil
}

func source() orchestrator.Source { return postgres.Source{Secret: secret} }

// row is what events of the tables of these tests hold.
type row struct {
	New struct {
		ID int `json:"id"`
	} `json:"new"`
}

// world is a table into which event n inserts row n.
func world(t *testing.T) triggertest.World {
	d := in(t, server(t), "CREATE TABLE happened (id int PRIMARY KEY)")
	return triggertest.World{
		Source:  source,
		Trigger: d.trigger(orchestrator.Settings{"tables": []any{d.table("happened")}}),
		Cause: func(n int, _ triggertest.Receive) error {
			_, err := d.try(fmt.Sprintf("INSERT INTO happened VALUES (%d)", n))
			return err
		},
		Number: func(e orchestrator.CloudEvent) (int, error) {
			var r row
			err := json.Unmarshal(e.Data, &r)
			return r.New.ID, err
		},
		Forgotten: func(id string) bool { return d.slots(id) == "0/0" },
	}
}

// TestConforms on the real database. The suite leaves slots behind, which go with
// the cluster.
func TestConforms(t *testing.T) {
	pgtest.Require(t)
	triggertest.Run(t, world)
}
