package storetest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/google/uuid"

	"github.com/kilnfaas/kiln/orchestrator"
)

// Fake is a Store in memory. It keeps values as JSON, as real ones do, so that
// a field that is not written is not read either.
type Fake struct {
	owner     string
	functions *records[string, orchestrator.Function] // by name

	mu        sync.Mutex
	revisions map[[2]string][]byte // guarded by mu: by function and id
	archives  map[string][]byte    // guarded by mu
}

var _ orchestrator.Store = (*Fake)(nil)

// NewFake returns an empty Store.
func NewFake() *Fake {
	return &Fake{
		owner:     uuid.NewString(),
		functions: newRecords("function", strings.Compare, func(f *orchestrator.Function) *uint64 { return &f.Version }),
		revisions: map[[2]string][]byte{},
		archives:  map[string][]byte{},
	}
}

func ended(ctx context.Context) error {
	if ctx.Err() != nil {
		return orchestrator.Errorf(orchestrator.ErrDeadline, "store-deadline", "%w", context.Cause(ctx))
	}
	return nil
}

// Function implements orchestrator.Store.
func (s *Fake) Function(ctx context.Context, name string) (orchestrator.Function, error) {
	f, ok, err := s.functions.get(ctx, name)
	if err == nil && !ok {
		err = noFunction(name)
	}
	return f, err
}

func noFunction(name string) error {
	return orchestrator.Errorf(orchestrator.ErrNotFound, "function-not-found", "there is no function %q", name)
}

// Functions implements orchestrator.Store.
func (s *Fake) Functions(ctx context.Context) ([]orchestrator.Function, error) {
	return s.functions.list(ctx)
}

// PutFunction implements orchestrator.Store.
func (s *Fake) PutFunction(ctx context.Context, f orchestrator.Function) (orchestrator.Function, error) {
	return s.functions.put(ctx, f.Name, f)
}

// DeleteFunction implements orchestrator.Store.
func (s *Fake) DeleteFunction(ctx context.Context, name string, version uint64) error {
	ok, err := s.functions.remove(ctx, name, func(there uint64) error {
		if there != version {
			return s.functions.changed(name)
		}
		return nil
	})
	if err == nil && !ok {
		err = noFunction(name)
	}
	return err
}

// Revision implements orchestrator.Store.
func (s *Fake) Revision(ctx context.Context, function, id string) (r orchestrator.Revision, err error) {
	if err := ended(ctx); err != nil {
		return r, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	value, ok := s.revisions[[2]string{function, id}]
	if !ok {
		return r, orchestrator.Errorf(orchestrator.ErrNotFound, "revision-not-found", "function %q has no revision %q", function, id)
	}
	return r, json.Unmarshal(value, &r)
}

// Revisions implements orchestrator.Store.
func (s *Fake) Revisions(ctx context.Context, function string) ([]orchestrator.Revision, error) {
	return s.listRevisions(ctx, func(key [2]string) bool { return key[0] == function })
}

// AllRevisions implements orchestrator.Store.
func (s *Fake) AllRevisions(ctx context.Context) ([]orchestrator.Revision, error) {
	return s.listRevisions(ctx, func([2]string) bool { return true })
}

func (s *Fake) listRevisions(ctx context.Context, wanted func([2]string) bool) ([]orchestrator.Revision, error) {
	if err := ended(ctx); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	all := []orchestrator.Revision{}
	for key, value := range s.revisions {
		if !wanted(key) {
			continue
		}
		var r orchestrator.Revision
		if err := json.Unmarshal(value, &r); err != nil {
			return nil, fmt.Errorf("decode revision %s: %w", key, err)
		}
		all = append(all, r)
	}
	slices.SortFunc(all, func(a, b orchestrator.Revision) int {
		if a.Function != b.Function {
			return strings.Compare(a.Function, b.Function)
		}
		return b.Number - a.Number
	})
	return all, nil
}

// PutRevision implements orchestrator.Store.
func (s *Fake) PutRevision(ctx context.Context, r orchestrator.Revision) error {
	if err := ended(ctx); err != nil {
		return err
	}
	value, err := json.Marshal(r)
	if err != nil {
		return orchestrator.Errorf(orchestrator.ErrInvalid, "revision-invalid", "encode revision %s: %w", r.ID, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.revisions[[2]string{r.Function, r.ID}] = value
	return nil
}

// DeleteRevision implements orchestrator.Store.
func (s *Fake) DeleteRevision(ctx context.Context, function, id string) error {
	if err := ended(ctx); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.revisions, [2]string{function, id})
	return nil
}

// PutArchive implements orchestrator.Store.
func (s *Fake) PutArchive(ctx context.Context, r io.Reader) (string, int64, error) {
	data, err := io.ReadAll(r)
	if ended := ended(ctx); ended != nil {
		return "", 0, ended
	}
	if err != nil {
		if classed := (*orchestrator.Error)(nil); errors.As(err, &classed) {
			return "", 0, err
		}
		return "", 0, orchestrator.Errorf(orchestrator.ErrInvalid, "archive-unreadable", "read the archive: %w", err)
	}
	digest := digestOf(data)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.archives[digest] = data
	return digest, int64(len(data)), nil
}

// Archive implements orchestrator.Store.
func (s *Fake) Archive(ctx context.Context, digest string) (io.ReadCloser, error) {
	if err := ended(ctx); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	data, ok := s.archives[digest]
	if !ok {
		return nil, orchestrator.Errorf(orchestrator.ErrNotFound, "archive-not-found", "there is no archive %s", digest)
	}
	return &memoryReader{Reader: bytes.NewReader(data)}, nil
}

// Archives implements orchestrator.Store.
func (s *Fake) Archives(ctx context.Context) ([]string, error) {
	if err := ended(ctx); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.archives)), nil
}

// DeleteArchive implements orchestrator.Store.
func (s *Fake) DeleteArchive(ctx context.Context, digest string) error {
	if err := ended(ctx); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.archives, digest)
	return nil
}

// Owner implements orchestrator.Store.
func (s *Fake) Owner(ctx context.Context) (string, error) {
	return s.owner, ended(ctx)
}

type memoryReader struct {
	io.Reader
}

// Close makes further reads fail, as those of a real archive do.
func (r *memoryReader) Close() error {
	r.Reader = &errReader{err: errors.New("read of a closed archive")}
	return nil
}
