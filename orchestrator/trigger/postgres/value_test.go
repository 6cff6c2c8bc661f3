package postgres_test

import (
	"encoding/json"
	"testing"

	"github.com/kilnfaas/kiln/orchestrator/trigger/postgres"
)

// FuzzValue: whatever PostgreSQL writes becomes one JSON value.
func FuzzValue(f *testing.F) {
	for _, text := range []string{"t", "1", "NaN", "{1,NULL,{2}}", `{"a\"b",c}`, "[0:1]={1,2}", `\x00ff`, "2026-01-31 03:30:00+00", "{{}", "{\"", "\xff"} {
		f.Add(uint32(1007), []byte(text))
		f.Add(uint32(1009), []byte(text))
		f.Add(uint32(1184), []byte(text))
		f.Add(uint32(17), []byte(text))
	}
	f.Fuzz(func(t *testing.T, oid uint32, text []byte) {
		if got := postgres.AppendValue(nil, oid, text); !json.Valid(got) {
			t.Errorf("type %d %q = %s, which is no JSON", oid, text, got)
		}
	})
}
