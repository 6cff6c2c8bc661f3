package events

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/kilnfaas/kiln/orchestrator"
)

// entryKind says what an entry of the journal carries besides the state of an
// invocation. The state of an invocation is that of its last entry.
type entryKind byte

const (
	entryState  entryKind = 1 + iota // nothing
	entryCall                        // the body of the call
	entryResult                      // the body of the result
	entryGone                        // the invocation was dropped; only its id is there
)

// entry is a record in the journal: kind, length of the state, state in JSON, body.
type entry struct {
	kind       entryKind
	invocation orchestrator.Invocation
	body       []byte
}

func (e entry) encode() ([]byte, error) {
	state, err := json.Marshal(e.invocation)
	if err != nil {
		return nil, fmt.Errorf("encode invocation %s: %w", e.invocation.ID, err)
	}
	data := make([]byte, 0, 1+binary.MaxVarintLen32+len(state)+len(e.body))
	data = append(data, byte(e.kind))
	data = binary.AppendUvarint(data, uint64(len(state)))
	data = append(data, state...)
	return append(data, e.body...), nil
}

var errNoEntry = errors.New("it is no entry of the queue")

// decodeEntry reads an entry. Its body shares the memory of data.
func decodeEntry(data []byte) (e entry, err error) {
	kind, state, body, err := splitEntry(data)
	if err != nil {
		return e, err
	}
	if err := json.Unmarshal(state, &e.invocation); err != nil {
		return e, fmt.Errorf("decode an invocation: %w", err)
	}
	if e.invocation.ID == "" {
		return e, errNoEntry
	}
	e.kind, e.body = kind, body
	return e, nil
}

// splitEntry returns the parts of an entry, which share its memory.
func splitEntry(data []byte) (kind entryKind, state, body []byte, err error) {
	if len(data) == 0 || data[0] < byte(entryState) || data[0] > byte(entryGone) {
		return 0, nil, nil, errNoEntry
	}
	n, used := binary.Uvarint(data[1:])
	if used <= 0 || n > uint64(len(data)-1-used) {
		return 0, nil, nil, errNoEntry
	}
	rest := data[1+used:]
	return entryKind(data[0]), rest[:n], rest[n:], nil
}
