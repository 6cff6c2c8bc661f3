package postgres_test

import (
	"context"
	"os"
	"strings"
	"testing"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/trigger/postgres"
	"github.com/kilnfaas/kiln/orchestrator/triggertest"
)

// TestPage: with what the page has an administrator do, its role may do all that
// the trigger needs.
func TestPage(t *testing.T) {
	d := in(t, server(t), "CREATE TABLE orders (id int PRIMARY KEY)")
	page, err := os.ReadFile("../../../docs/triggers/postgres.md")
	if err != nil {
		t.Fatal(err)
	}
	_, block, _ := strings.Cut(string(page), "\n```sql\n")
	block, _, found := strings.Cut(block, "```\n")
	if !found {
		t.Fatal("the page has no statements")
	}
	t.Cleanup(func() {
		for _, statement := range []string{"DROP PUBLICATION kiln_orders", "DROP ROLE kiln"} {
			d.sql(statement)
		}
	})
	const password = "of the role"
	for statement := range strings.Lines(block) { // one by one, as psql sends them
		d.sql(strings.Replace(statement, "…", password, 1))
	}
	kiln := postgres.Source{Secret: func(context.Context, string, string) ([]byte, error) { return []byte(password), nil }}
	f := triggertest.NewRecorder(t)
	trigger := d.trigger(orchestrator.Settings{"user": "kiln", "publication": "kiln_orders"})
	run := f.Start(kiln, trigger)
	d.sql("INSERT INTO orders VALUES (7)")
	if got := string(data(t, f.Take(1)[0]).New); got != `{"id":7}` {
		t.Errorf("got the row %s", got)
	}
	run.Stop()
	if err := kiln.Forget(t.Context(), trigger, f.ID(), f.Position()); err != nil {
		t.Error(err)
	}
}
