package events_test

import (
	"bytes"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/events"
)

// FuzzEntry: what decodes can be encoded to what decodes to the same.
func FuzzEntry(f *testing.F) {
	seed, err := events.EncodeEntry(2, orchestrator.Invocation{ID: "a", Function: "f", Tries: 3}, []byte("body"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Add([]byte{1, 2, '{', '}'})
	f.Add([]byte{4, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, data []byte) {
		kind, inv, body, err := events.DecodeEntry(data)
		if err != nil {
			return
		}
		again, err := events.EncodeEntry(kind, inv, body)
		if err != nil {
			t.Skip(err) // a time that JSON cannot say, for example
		}
		kind2, inv2, body2, err := events.DecodeEntry(again)
		if err != nil || kind2 != kind || !bytes.Equal(body, body2) {
			t.Fatalf("decoded again: kind %d, body %q, %v; want %d, %q", kind2, body2, err, kind, body)
		}
		if diff := cmp.Diff(inv, inv2); diff != "" {
			t.Fatal(diff)
		}
	})
}
