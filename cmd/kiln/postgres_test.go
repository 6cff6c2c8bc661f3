package main_test

import (
	"os"
	"strconv"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/kilnfaas/kiln/orchestrator/pgtest"
)

// startPostgres starts a PostgreSQL of the script's own.
func startPostgres(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: postgres NAME")
	}
	dir, err := os.MkdirTemp("", "kiln-postgres-")
	ts.Check(err)
	ts.Defer(func() { ts.Check(os.RemoveAll(dir)) })
	ts.Check(os.Chmod(dir, 0o755)) // for who runs the server
	cluster, err := pgtest.New(dir, "wal_level=logical")
	ts.Check(err)
	ts.Defer(func() { ts.Check(cluster.Close()) })
	_, err = cluster.SQL("postgres", "CREATE DATABASE "+args[0])
	ts.Check(err)
	for name, value := range map[string]string{
		"PGHOST": "127.0.0.1", "PGPORT": strconv.Itoa(cluster.Port), "PGUSER": pgtest.Superuser, "PGPASSWORD": pgtest.Password, "PGDATABASE": args[0],
	} {
		ts.Setenv(name, value)
	}
}
