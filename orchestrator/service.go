package orchestrator

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// Catalogue knows the templates.
type Catalogue interface {
	// Template returns one template; ErrNotFound.
	Template(name string) (Template, error)
	// Templates returns all, by name.
	Templates() []Template
}

// Service is the use cases: it deploys, changes, rolls back and removes
// functions. It keeps every function in memory, so that reading never waits for
// the store, and writes through: what a method returned is stored.
//
// One Service owns the functions of a store. Set the fields, call Open, and
// Close when done; Close waits for the deploys that run.
type Service struct {
	Store     Store
	Images    Images
	Engine    Engine
	Builder   RevisionBuilder
	Fleet     Fleet
	Templates Catalogue
	Vault     Vault // nil = functions cannot have secrets
	// Code reads the code for cells out of images; nil = no code is kept, and
	// revisions start from their images only.
	Code CodeSource
	// Triggers run those of live functions; nil = functions have none.
	Triggers TriggerHost
	// BuildDigest identifies all that decides an image.
	BuildDigest func(archiveDigest, templateDigest string, spec Spec) string
	Logger      *slog.Logger

	lanes  *lanes
	ctx    context.Context // of the deploys; ended by Close
	cancel context.CancelFunc
	work   sync.WaitGroup // deploys

	mu        sync.RWMutex
	functions map[string]Function // guarded by mu
	closed    bool                // guarded by mu
	// served are the secrets of the releases that answer, by function; guarded by mu.
	served map[string]map[string]uint64
	needed map[string]int // archives of deploys that wait or run, by digest; guarded by mu
}

// recordTimeout bounds writes that must happen although the caller has gone.
const recordTimeout = 10 * time.Second

// Open loads every function and makes the live ones answer. It starts no
// instance; the fleet does, when asked or for Scale.Min. Revisions that an
// earlier process left building are marked failed.
func (s *Service) Open(ctx context.Context) error {
	functions, err := s.Store.Functions(ctx)
	if err != nil {
		return fmt.Errorf("load functions: %w", err)
	}
	revisions, err := s.Store.AllRevisions(ctx)
	if err != nil {
		return fmt.Errorf("load revisions: %w", err)
	}
	s.lanes = newLanes()
	s.ctx, s.cancel = context.WithCancel(context.WithoutCancel(ctx))
	s.functions = make(map[string]Function, len(functions))
	s.needed = map[string]int{}
	s.served = map[string]map[string]uint64{}
	live := make(map[string]Revision, len(functions))
	for _, f := range functions {
		f.Spec.Async = f.Spec.Async.Completed()
		s.functions[f.Name] = f
	}
	for _, r := range revisions {
		if r.Status == RevisionBuilding {
			r.Status, r.Error = RevisionFailed, "the gateway stopped during the deploy"
			if err := s.Store.PutRevision(ctx, r); err != nil {
				return fmt.Errorf("mark revision %s of %s: %w", r.ID, r.Function, err)
			}
		}
		if s.functions[r.Function].Live == r.ID {
			live[r.Function] = r
		}
	}
	for name, r := range live {
		s.serve(s.release(s.functions[name].Spec, r))
	}
	return nil
}

// Close ends the deploys that run and waits for them.
func (s *Service) Close() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	if s.cancel != nil {
		s.cancel()
	}
	s.work.Wait()
	return nil
}

// release joins a revision with settings and the secrets of now. A template that this Kiln no longer
// has leaves only its name: instances of built images still run.
func (s *Service) release(spec Spec, r Revision) Release {
	t, err := s.Templates.Template(spec.Template)
	if err != nil {
		t = Template{Name: spec.Template}
	}
	return Release{Spec: spec, Revision: r, Template: t, Secrets: s.secretVersions(spec)}
}

// serve makes a release the one that answers, and its triggers those that run. It
// remembers which secrets its instances have.
func (s *Service) serve(release Release) {
	spec := release.Spec
	s.mu.Lock()
	s.served[spec.Name] = release.Secrets
	s.mu.Unlock()
	s.Fleet.Serve(release)
	if s.Triggers != nil {
		s.Triggers.Serve(spec.Name, spec.Triggers)
	}
}

// Function returns one function.
func (s *Service) Function(_ context.Context, name string) (Function, error) {
	s.mu.RLock()
	f, ok := s.functions[name]
	s.mu.RUnlock()
	if !ok {
		return Function{}, unknownFunction(name)
	}
	return f, nil
}

// Functions returns all, by name.
func (s *Service) Functions(context.Context) ([]Function, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	all := slices.Collect(maps.Values(s.functions))
	slices.SortFunc(all, func(a, b Function) int { return strings.Compare(a.Name, b.Name) })
	return all, nil
}

// Revisions returns those of a function, newest first.
func (s *Service) Revisions(ctx context.Context, name string) ([]Revision, error) {
	if _, err := s.Function(ctx, name); err != nil {
		return nil, err
	}
	return s.Store.Revisions(ctx, name)
}

// Status describes what runs for a function; nothing for an unknown one.
func (s *Service) Status(name string) FunctionStatus {
	status, _ := s.Fleet.Status(name)
	return status
}

func unknownFunction(name string) error {
	return Errorf(ErrNotFound, "function-unknown", "there is no function %q", name).
		WithHint("kiln ls shows those that are deployed")
}

func (s *Service) keep(f Function) {
	s.mu.Lock()
	s.functions[f.Name] = f
	s.mu.Unlock()
}

func (s *Service) forget(name string) {
	s.mu.Lock()
	delete(s.functions, name)
	delete(s.served, name)
	s.mu.Unlock()
}

// Needs says whether a deploy that waits or runs needs an archive. Its revision
// is recorded only when its turn has come.
func (s *Service) Needs(digest string) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.needed[digest] > 0
}

func (s *Service) unneed(digests []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, digest := range digests {
		if s.needed[digest]--; s.needed[digest] == 0 {
			delete(s.needed, digest)
		}
	}
}
