package storetest

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/kilnfaas/kiln/orchestrator"
)

// records is a compare-and-set map in memory: what the fakes of stores that write
// by version have in common. It keeps values as JSON, as real stores do, so that a
// field that is not written is not read either, and no caller shares memory with it.
type records[K comparable, V any] struct {
	noun    string // for messages and codes
	order   func(a, b K) int
	version func(*V) *uint64 // the field that holds a value's version

	mu       sync.Mutex
	sequence uint64       // guarded by mu: version given last
	values   map[K]stored // guarded by mu
}

type stored struct {
	value   []byte
	version uint64
}

func newRecords[K comparable, V any](noun string, order func(a, b K) int, version func(*V) *uint64) *records[K, V] {
	return &records[K, V]{noun: noun, order: order, version: version, values: map[K]stored{}}
}

// get returns the value of a key; ok is false when there is none.
func (r *records[K, V]) get(ctx context.Context, key K) (value V, ok bool, err error) {
	if err := ended(ctx); err != nil {
		return value, false, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	got, ok := r.values[key]
	if !ok {
		return value, false, nil
	}
	value, err = r.decode(key, got)
	return value, true, err
}

// list returns all values in the order of their keys.
func (r *records[K, V]) list(ctx context.Context) ([]V, error) {
	if err := ended(ctx); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	all := make([]V, 0, len(r.values))
	for _, key := range slices.SortedFunc(maps.Keys(r.values), r.order) {
		value, err := r.decode(key, r.values[key])
		if err != nil {
			return nil, err
		}
		all = append(all, value)
	}
	return all, nil
}

func (r *records[K, V]) decode(key K, s stored) (value V, err error) {
	if err := json.Unmarshal(s.value, &value); err != nil {
		return value, fmt.Errorf("decode %s %v: %w", r.noun, key, err)
	}
	*r.version(&value) = s.version
	return value, nil
}

// put writes a value if its version is still that of what is there, 0 for
// nothing, and returns it with its new one; else ErrConflict.
func (r *records[K, V]) put(ctx context.Context, key K, value V) (put V, err error) {
	if err := ended(ctx); err != nil {
		return put, err
	}
	encoded, err := json.Marshal(value)
	if err != nil {
		return put, orchestrator.Errorf(orchestrator.ErrInvalid, r.noun+"-invalid", "encode %s %v: %w", r.noun, key, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.values[key].version != *r.version(&value) {
		return put, r.changed(key)
	}
	r.sequence++
	*r.version(&value) = r.sequence
	r.values[key] = stored{value: encoded, version: r.sequence}
	return value, nil
}

// remove deletes the value of a key if may, given its version, says no error; ok
// is false when there is none.
func (r *records[K, V]) remove(ctx context.Context, key K, may func(version uint64) error) (ok bool, err error) {
	if err := ended(ctx); err != nil {
		return false, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	got, ok := r.values[key]
	if !ok {
		return false, nil
	}
	if err := may(got.version); err != nil {
		return true, err
	}
	delete(r.values, key)
	return true, nil
}

// whatever lets remove delete every version.
func whatever(uint64) error { return nil }

func (r *records[K, V]) changed(key K) error {
	return orchestrator.Errorf(orchestrator.ErrConflict, r.noun+"-changed", "%s %v was changed meanwhile", r.noun, key)
}
