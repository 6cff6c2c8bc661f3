package jetstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/google/uuid"

	"github.com/kilnfaas/kiln/orchestrator"
)

// Names of the buckets. Renaming one loses what is in it.
const (
	functionsBucket = "kiln-functions" // key NAME
	revisionsBucket = "kiln-revisions" // key NAME.ID
	metaBucket      = "kiln-meta"      // key ownerKey
	archivesBucket  = "kiln-archives"
	ownerKey        = "owner"
)

// Store is an orchestrator.Store on JetStream.
type Store struct {
	server    *Server
	owned     bool   // Close closes the server too
	lease     *lease // nil when embedded, or when the server is shared
	functions *bucket
	revisions *bucket
	meta      *bucket
	archives  *archives
	closing   sync.Once
}

var _ orchestrator.Store = (*Store)(nil)

// Open connects and opens the store, whose only owner it then is; Close ends
// both. Errors are Connect's and NewStore's, and ErrConflict, code
// "store-in-use", when another gateway has the store of an external server.
func Open(ctx context.Context, options Options) (*Store, error) {
	server, err := Connect(ctx, options)
	if err != nil {
		return nil, err
	}
	store, err := NewStore(ctx, server)
	if err != nil {
		return nil, errors.Join(err, server.Close())
	}
	store.owned = true
	if options.URL != "" {
		if store.lease, err = takeLease(ctx, store.meta, options.Dir, options.LeaseLife); err != nil {
			return nil, errors.Join(classify(ctx, "take the store", err), store.Close())
		}
	}
	return store, nil
}

// NewStore opens the store on a server, making what is missing of it. The
// server remains the caller's. Errors: ErrInvalid when a stream of the name
// exists that is no store, ErrUnavailable, ErrExhausted.
func NewStore(ctx context.Context, server *Server) (*Store, error) {
	s := &Store{server: server}
	err := s.open(ctx)
	if err != nil {
		return nil, classify(ctx, "open the store", err)
	}
	return s, nil
}

func (s *Store) open(ctx context.Context) (err error) {
	if s.functions, err = s.server.openBucket(ctx, functionsBucket, "Kiln: functions by name"); err != nil {
		return err
	}
	if s.revisions, err = s.server.openBucket(ctx, revisionsBucket, "Kiln: revisions by function and id"); err != nil {
		return err
	}
	if s.meta, err = s.server.openBucket(ctx, metaBucket, "Kiln: the installation"); err != nil {
		return err
	}
	if s.archives, err = s.server.openArchives(ctx); err != nil {
		return err
	}
	return s.archives.sweep(ctx)
}

// Server returns what the store is built on, for more to be built on it.
func (s *Store) Server() *Server { return s.server }

// Close ends the server when Open started it. It may be called more than once.
func (s *Store) Close() error {
	if !s.owned {
		return nil
	}
	s.closing.Do(s.lease.release)
	return s.server.Close()
}

// Function implements orchestrator.Store.
func (s *Store) Function(ctx context.Context, name string) (orchestrator.Function, error) {
	k, ok := key(name)
	if !ok {
		return orchestrator.Function{}, noFunction(name)
	}
	got, err := s.functions.get(ctx, k)
	switch {
	case absent(err):
		return orchestrator.Function{}, noFunction(name)
	case err != nil:
		return orchestrator.Function{}, classify(ctx, "read function "+name, err)
	}
	return decodeFunction(got)
}

// Functions implements orchestrator.Store.
func (s *Store) Functions(ctx context.Context) ([]orchestrator.Function, error) {
	found, err := s.functions.list(ctx, "*")
	if err != nil {
		return nil, classify(ctx, "list functions", err)
	}
	return decodeAll(found, decodeFunction)
}

// PutFunction implements orchestrator.Store.
func (s *Store) PutFunction(ctx context.Context, f orchestrator.Function) (orchestrator.Function, error) {
	k, ok := key(f.Name)
	if !ok {
		return orchestrator.Function{}, orchestrator.Errorf(orchestrator.ErrInvalid, "name-invalid", "%q is no name of a function", f.Name)
	}
	if err := s.lease.check(); err != nil {
		return orchestrator.Function{}, err
	}
	value, err := json.Marshal(f)
	if err != nil {
		return orchestrator.Function{}, orchestrator.Errorf(orchestrator.ErrInvalid, "function-invalid", "encode function %s: %w", f.Name, err)
	}
	version, err := s.functions.put(ctx, k, value, f.Version)
	switch {
	case conflicting(err) && f.Version == 0:
		return orchestrator.Function{}, orchestrator.Errorf(orchestrator.ErrConflict, "function-exists", "function %s exists", f.Name)
	case conflicting(err):
		return orchestrator.Function{}, changed(f.Name)
	case err != nil:
		return orchestrator.Function{}, classify(ctx, "write function "+f.Name, err)
	}
	f.Version = version
	return f, nil
}

// DeleteFunction implements orchestrator.Store.
func (s *Store) DeleteFunction(ctx context.Context, name string, version uint64) error {
	f, err := s.Function(ctx, name)
	if err != nil {
		return err
	}
	if f.Version != version {
		return changed(name)
	}
	if err := s.lease.check(); err != nil {
		return err
	}
	err = s.functions.remove(ctx, name, version)
	if conflicting(err) {
		return changed(name)
	}
	return classify(ctx, "delete function "+name, err)
}

// Revision implements orchestrator.Store.
func (s *Store) Revision(ctx context.Context, function, id string) (orchestrator.Revision, error) {
	k, ok := key(function, id)
	if !ok {
		return orchestrator.Revision{}, noRevision(function, id)
	}
	got, err := s.revisions.get(ctx, k)
	switch {
	case absent(err):
		return orchestrator.Revision{}, noRevision(function, id)
	case err != nil:
		return orchestrator.Revision{}, classify(ctx, "read revision "+k, err)
	}
	return decodeRevision(got)
}

// Revisions implements orchestrator.Store.
func (s *Store) Revisions(ctx context.Context, function string) ([]orchestrator.Revision, error) {
	if _, ok := key(function); !ok {
		return nil, nil
	}
	return s.listRevisions(ctx, function+".*")
}

// AllRevisions implements orchestrator.Store. They are ordered by function,
// newest first.
func (s *Store) AllRevisions(ctx context.Context) ([]orchestrator.Revision, error) {
	return s.listRevisions(ctx, "*.*")
}

func (s *Store) listRevisions(ctx context.Context, filter string) ([]orchestrator.Revision, error) {
	found, err := s.revisions.list(ctx, filter)
	if err != nil {
		return nil, classify(ctx, "list revisions", err)
	}
	revisions, err := decodeAll(found, decodeRevision)
	if err != nil {
		return nil, err
	}
	slices.SortStableFunc(revisions, func(a, b orchestrator.Revision) int {
		if a.Function != b.Function {
			return strings.Compare(a.Function, b.Function)
		}
		return b.Number - a.Number
	})
	return revisions, nil
}

// PutRevision implements orchestrator.Store.
func (s *Store) PutRevision(ctx context.Context, r orchestrator.Revision) error {
	k, ok := key(r.Function, r.ID)
	if !ok {
		return orchestrator.Errorf(orchestrator.ErrInvalid, "revision-invalid", "%q is no id of a revision of %q", r.ID, r.Function)
	}
	if err := s.lease.check(); err != nil {
		return err
	}
	value, err := json.Marshal(r)
	if err != nil {
		return orchestrator.Errorf(orchestrator.ErrInvalid, "revision-invalid", "encode revision %s: %w", k, err)
	}
	return classify(ctx, "write revision "+k, s.revisions.set(ctx, k, value))
}

// DeleteRevision implements orchestrator.Store.
func (s *Store) DeleteRevision(ctx context.Context, function, id string) error {
	k, ok := key(function, id)
	if !ok {
		return nil
	}
	err := s.revisions.drop(ctx, k)
	if absent(err) {
		return nil
	}
	return classify(ctx, "delete revision "+k, err)
}

// Owner implements orchestrator.Store.
func (s *Store) Owner(ctx context.Context) (string, error) {
	got, err := s.meta.get(ctx, ownerKey)
	if absent(err) {
		owner := uuid.NewString()
		if _, err = s.meta.put(ctx, ownerKey, []byte(owner), 0); err == nil {
			return owner, nil
		}
		if conflicting(err) { // another gateway was first
			got, err = s.meta.get(ctx, ownerKey)
		}
	}
	if err != nil {
		return "", classify(ctx, "read the owner", err)
	}
	return string(got.value), nil
}

func decodeFunction(e entry) (orchestrator.Function, error) {
	var f orchestrator.Function
	if err := json.Unmarshal(e.value, &f); err != nil {
		return orchestrator.Function{}, fmt.Errorf("decode function %s: %w", e.key, err)
	}
	f.Version = e.sequence
	return f, nil
}

func decodeRevision(e entry) (orchestrator.Revision, error) {
	var r orchestrator.Revision
	if err := json.Unmarshal(e.value, &r); err != nil {
		return orchestrator.Revision{}, fmt.Errorf("decode revision %s: %w", e.key, err)
	}
	return r, nil
}

// decodeAll decodes entries in the order of their keys.
func decodeAll[T any](found map[string]entry, decode func(entry) (T, error)) ([]T, error) {
	all := make([]T, 0, len(found))
	for _, k := range slices.Sorted(maps.Keys(found)) {
		v, err := decode(found[k])
		if err != nil {
			return nil, err
		}
		all = append(all, v)
	}
	return all, nil
}

func noFunction(name string) error {
	return orchestrator.Errorf(orchestrator.ErrNotFound, "function-not-found", "there is no function %q", name).
		WithHint("`kiln ls` lists those there are")
}

func noRevision(function, id string) error {
	return orchestrator.Errorf(orchestrator.ErrNotFound, "revision-not-found", "function %q has no revision %q", function, id).
		WithHint("`kiln revisions NAME` lists those there are")
}

func changed(name string) error {
	return orchestrator.Errorf(orchestrator.ErrConflict, "function-changed", "function %s was changed meanwhile", name).
		WithHint("read it again and repeat")
}
