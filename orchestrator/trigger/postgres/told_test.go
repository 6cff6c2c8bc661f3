package postgres_test

import (
	"encoding/json"
	"testing"

	"github.com/kilnfaas/kiln/orchestrator"
)

// told is the data of an event.
type told struct {
	Operation, Schema, Table string
	New, Old                 json.RawMessage
	Unchanged, Omitted       []string
}

func data(t testing.TB, e orchestrator.CloudEvent) told {
	t.Helper()
	var d told
	if err := json.Unmarshal(e.Data, &d); err != nil {
		t.Fatalf("%s: %v", e.Data, err)
	}
	return d
}
