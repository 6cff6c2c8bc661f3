package events

import (
	"context"
	"net/netip"

	"github.com/kilnfaas/kiln/orchestrator"
)

// Tidy does what the janitor does now and then.
func (q *Queue) Tidy(ctx context.Context) error { return q.tidy(ctx) }

// Public says whether an address is on the public internet.
func Public(addr netip.Addr) bool { return public(addr) }

// EncodeEntry and DecodeEntry are the form of the journal's entries.
func EncodeEntry(kind byte, inv orchestrator.Invocation, body []byte) ([]byte, error) {
	return entry{entryKind(kind), inv, body}.encode()
}

func DecodeEntry(data []byte) (byte, orchestrator.Invocation, []byte, error) {
	e, err := decodeEntry(data)
	return byte(e.kind), e.invocation, e.body, err
}
