// Package route knows, for each function, the release that answers and its
// pool. Lookup is the first step of every invocation and takes no lock; all
// changes go through Table, which is the orchestrator's Fleet.
package route

import (
	"context"
	"log/slog"
	"maps"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/capacity"
	"github.com/kilnfaas/kiln/orchestrator/pool"
)

// tickInterval is how often active pools are looked after: the windows of the
// scaling decision count in seconds.
const tickInterval = time.Second

// Route is how a function is reached: an immutable snapshot.
type Route struct {
	Release *orchestrator.Release // the pool's
	Pool    *pool.Pool
}

// Launcher is a pool.Launcher that knows what it has in hand: containers that
// are starting and belong to no pool yet.
type Launcher interface {
	pool.Launcher
	// Owns says whether a container, given by id or name, is under the launcher's
	// care.
	Owns(idOrName string) bool
	// Died tells that a container ended.
	Died(id string, exitCode int, oom bool)
}

// Recognizer is a Launcher whose instances do not all carry the labels of what
// they serve: those that were loaded after they had been created.
type Recognizer interface {
	// Recognize completes a container's labels from what the launcher noted.
	Recognize(container orchestrator.Container) orchestrator.Container
}

// Follower is a Launcher that prepares for the functions that answer.
type Follower interface {
	// Serving tells of a release that answers from now on. It must not wait.
	Serving(release orchestrator.Release)
	// Removed tells of a function that answers no more. It must not wait.
	Removed(function string)
}

// Waker is a Launcher that knows how a release is woken from zero.
type Waker interface {
	// Wake returns pool.OriginCell or pool.OriginImage, and why.
	Wake(release orchestrator.Release) (how, reason string)
}

// Config sets a Table up.
type Config struct {
	Launcher Launcher                       // required
	Capacity *capacity.Budget               // nil = without bounds
	NewConns func(pool.Launched) pool.Conns // of the data plane; may be nil
	Key      orchestrator.InstanceKey       // of instances' tokens
	Observer pool.Observer                  // may be nil
	Logger   *slog.Logger                   // nil = discard
	// NeverFreeze keeps idle instances running until they are removed.
	NeverFreeze bool
}

// Table is the routing table. Open starts what keeps the pools going, Close
// ends it. All methods are safe for concurrent use.
type Table struct {
	launcher Launcher
	key      orchestrator.InstanceKey
	pools    pool.Config // shared by all pools
	routes   atomic.Pointer[map[string]*Route]
	active   activeSet

	ctx    context.Context
	cancel context.CancelFunc
	work   sync.WaitGroup

	mu       sync.Mutex // guards changes of routes, and what follows
	proving  map[*pool.Pool]struct{}
	proven   map[string]*pool.Pool
	leaving  map[*pool.Pool]string // draining -> function
	isOpen   bool
	isClosed bool
}

var _ orchestrator.Fleet = (*Table)(nil)

// New returns an empty Table.
func New(config Config) *Table {
	t := &Table{
		launcher: config.Launcher, key: config.Key, proving: map[*pool.Pool]struct{}{},
		proven: map[string]*pool.Pool{}, leaving: map[*pool.Pool]string{},
	}
	if config.Capacity == nil {
		config.Capacity = capacity.New(capacity.Config{})
	}
	t.pools = pool.Config{
		Launcher: config.Launcher, Capacity: config.Capacity, NewConns: config.NewConns,
		Observer: config.Observer, Logger: config.Logger,
		NeverFreeze: config.NeverFreeze, Activity: t.active.set,
	}
	t.ctx, t.cancel = context.WithCancel(context.Background())
	t.routes.Store(&map[string]*Route{})
	return t
}

// Open starts the loop that looks after active pools once a second: minimum
// instances, freezing, keep-alive, scale-down. At start-up it is called after
// the running containers have been adopted, or minimum instances would be
// started beside them.
func (t *Table) Open() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.isOpen || t.isClosed {
		return
	}
	t.isOpen = true
	t.work.Add(1)
	go t.tick()
}

func (t *Table) tick() {
	defer t.work.Done()
	ticker := time.NewTicker(tickInterval)
	defer ticker.Stop()
	var due []*pool.Pool
	for {
		select {
		case <-t.ctx.Done():
			return
		case <-ticker.C:
		}
		due = t.active.snapshot(due[:0])
		for _, p := range due {
			p.Tick()
		}
		clear(due)
	}
}

// Lookup returns a function's route, or nil. It takes no lock and allocates
// nothing.
func (t *Table) Lookup(name string) *Route { return (*t.routes.Load())[name] }

// Each calls f for each function that answers, in no order, until it returns
// false.
func (t *Table) Each(f func(name string, r *Route) bool) {
	for name, r := range *t.routes.Load() {
		if !f(name, r) {
			return
		}
	}
}

// replace changes the routes; mu is held.
func (t *Table) replace(name string, r *Route) {
	routes := maps.Clone(*t.routes.Load())
	if r == nil {
		delete(routes, name)
	} else {
		routes[name] = r
	}
	t.routes.Store(&routes)
}

// identity tells releases apart whose instances cannot serve each other.
func identity(r orchestrator.Release) string {
	return r.Spec.Name + "/" + r.Revision.ID + "/" + r.ConfigHash()
}

// Prove starts one instance of a release and returns once it is ready. The error
// is the Launcher's, ctx's, or ErrUnavailable when the table is closed.
func (t *Table) Prove(ctx context.Context, release orchestrator.Release) error {
	name, id := release.Spec.Name, identity(release)
	t.mu.Lock()
	if t.isClosed {
		t.mu.Unlock()
		return orchestrator.Errorf(orchestrator.ErrUnavailable, "shutting-down", "the gateway is shutting down")
	}
	p := pool.New(&t.pools, release)
	t.proving[p] = struct{}{}
	t.mu.Unlock()

	err := p.Prove(ctx)

	t.mu.Lock()
	delete(t.proving, p)
	stale := p
	if err == nil {
		stale, t.proven[id] = t.proven[id], p
	}
	t.mu.Unlock()
	if stale != nil {
		t.retire(stale, name)
	}
	return err
}

// Discard ends what Prove started.
func (t *Table) Discard(release orchestrator.Release) {
	t.mu.Lock()
	p := t.proven[identity(release)]
	delete(t.proven, identity(release))
	t.mu.Unlock()
	if p != nil {
		t.retire(p, release.Spec.Name)
	}
}

// Serve makes a release the one that answers for its function.
func (t *Table) Serve(release orchestrator.Release) {
	stale := t.serve(release)
	if stale != nil {
		t.retire(stale, release.Spec.Name)
	}
	if f, ok := t.launcher.(Follower); ok {
		f.Serving(release)
	}
}

// serve changes the route and returns the pool that it made superfluous, or nil.
func (t *Table) serve(release orchestrator.Release) *pool.Pool {
	name, id := release.Spec.Name, identity(release)
	t.mu.Lock()
	defer t.mu.Unlock()
	old := t.Lookup(name)
	proven := t.proven[id]
	delete(t.proven, id)
	if old != nil && identity(*old.Release) == id {
		old.Pool.Configure(release)
		t.replace(name, &Route{Release: old.Pool.Release(), Pool: old.Pool})
		return proven
	}
	if proven == nil {
		proven = pool.New(&t.pools, release)
	}
	proven.Configure(release)
	t.replace(name, &Route{Release: proven.Release(), Pool: proven})
	if old == nil {
		return nil
	}
	proven.Inherit(old.Pool)
	return old.Pool
}

// Remove stops answering for a function and ends its instances.
func (t *Table) Remove(ctx context.Context, name string) error {
	t.mu.Lock()
	old := t.Lookup(name)
	if old != nil {
		t.replace(name, nil)
	}
	t.mu.Unlock()
	if old != nil {
		t.retire(old.Pool, name)
		if f, ok := t.launcher.(Follower); ok {
			f.Removed(name)
		}
	}
	for _, p := range t.leavingOf(name) {
		select {
		case <-p.Gone():
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// retire drains a pool in the background and keeps it known until it is gone.
func (t *Table) retire(p *pool.Pool, name string) {
	t.mu.Lock()
	if t.isClosed {
		t.mu.Unlock()
		p.Drain()
		return
	}
	t.leaving[p] = name
	t.work.Add(1)
	t.mu.Unlock()
	p.Drain()
	go func() {
		defer t.work.Done()
		select {
		case <-p.Gone():
			t.mu.Lock()
			delete(t.leaving, p)
			t.mu.Unlock()
		case <-t.ctx.Done():
		}
	}()
}

func (t *Table) leavingOf(name string) []*pool.Pool {
	t.mu.Lock()
	defer t.mu.Unlock()
	var pools []*pool.Pool
	for p, n := range t.leaving {
		if n == name {
			pools = append(pools, p)
		}
	}
	return pools
}

// all returns every pool there is.
func (t *Table) all() []*pool.Pool {
	t.mu.Lock()
	defer t.mu.Unlock()
	routes := *t.routes.Load()
	pools := make([]*pool.Pool, 0, len(routes)+len(t.proven)+len(t.leaving))
	for _, r := range routes {
		pools = append(pools, r.Pool)
	}
	for p := range t.proving {
		pools = append(pools, p)
	}
	for _, p := range t.proven {
		pools = append(pools, p)
	}
	for p := range t.leaving {
		pools = append(pools, p)
	}
	return pools
}

// Adopt hands over a container that an earlier gateway started. One that is
// being started by this one, and is not in a pool yet, is in good hands too.
func (t *Table) Adopt(c orchestrator.Container) bool {
	if t.launcher.Owns(c.ID) || t.launcher.Owns(c.Name) {
		return true
	}
	if c.State != orchestrator.ContainerRunning && c.State != orchestrator.ContainerFrozen || c.Addr == "" {
		return false
	}
	if r, ok := t.launcher.(Recognizer); ok {
		c = r.Recognize(c)
	}
	r := t.Lookup(c.Labels[orchestrator.LabelFunction])
	if r == nil || r.Release.Revision.ID != c.Labels[orchestrator.LabelRevision] || r.Release.ConfigHash() != c.Labels[orchestrator.LabelConfig] {
		return false
	}
	token, ok := t.key.Recall(c)
	if !ok {
		return false
	}
	addr := net.JoinHostPort(c.Addr, strconv.Itoa(orchestrator.InstancePort))
	launched := pool.Launched{ID: c.ID, Addr: addr, Origin: pool.OriginAdopted, Token: token}
	return r.Pool.Adopt(launched, c.State == orchestrator.ContainerFrozen, c.CreatedAt)
}

// Died tells that a container ended.
func (t *Table) Died(id string, exitCode int, oom bool) {
	t.launcher.Died(id, exitCode, oom)
	for _, p := range t.all() {
		if p.Died(id, exitCode, oom) {
			return
		}
	}
}

// Placed tells that a container was started at an address, "IP:port": whoever
// else was known to be there is gone.
func (t *Table) Placed(id, addr string) {
	if d, ok := t.launcher.(interface{ Displaced(addr, by string) }); ok {
		d.Displaced(addr, id)
	}
	for _, p := range t.all() {
		p.Displaced(addr, id)
	}
}

// Owns says whether a container is in use.
func (t *Table) Owns(id string) bool {
	if t.launcher.Owns(id) {
		return true
	}
	for _, p := range t.all() {
		if p.Owns(id) {
			return true
		}
	}
	return false
}

// Status describes the instances of a function, those of replaced revisions
// that still finish requests among them.
func (t *Table) Status(name string) (orchestrator.FunctionStatus, bool) {
	r := t.Lookup(name)
	if r == nil {
		return orchestrator.FunctionStatus{}, false
	}
	s := r.Pool.Status()
	for _, p := range t.leavingOf(name) {
		o := p.Status()
		s.Ready, s.Frozen, s.Starting = s.Ready+o.Ready, s.Frozen+o.Frozen, s.Starting+o.Starting
		s.Draining, s.InFlight = s.Draining+o.Draining, s.InFlight+o.InFlight
		s.Instances = append(s.Instances, o.Instances...)
	}
	s.Wake, s.WakeReason = pool.OriginImage, ""
	if w, ok := t.launcher.(Waker); ok {
		s.Wake, s.WakeReason = w.Wake(*r.Release)
	}
	return s, true
}

// Slots returns how many requests the ready instances of a function can have at
// one time, at least those of one instance; 1 for an unknown function.
func (t *Table) Slots(name string) int {
	if r := t.Lookup(name); r != nil {
		return r.Pool.Slots()
	}
	return 1
}

// Backlog tells how many asynchronous calls of a function are due and wait.
func (t *Table) Backlog(name string, calls int) {
	if r := t.Lookup(name); r != nil {
		r.Pool.Backlog(calls)
	}
}

// WakeTime returns how long before a call that is foreseen a function should be
// woken; 0 for an unknown one.
func (t *Table) WakeTime(name string) time.Duration {
	if r := t.Lookup(name); r != nil {
		return r.Pool.WakeTime()
	}
	return 0
}

// Expect tells that a call of a function comes soon: it is woken if it sleeps.
func (t *Table) Expect(name string) {
	if r := t.Lookup(name); r != nil {
		r.Pool.Expect()
	}
}

// Close ends the table and leaves the instances running for the next gateway to
// adopt. It waits for requests in flight until ctx ends.
func (t *Table) Close(ctx context.Context) error {
	t.mu.Lock()
	t.isClosed = true
	t.mu.Unlock()
	// All at once: none takes requests while another waits for its last.
	var pools sync.WaitGroup
	errs := make(chan error, 1)
	for _, p := range t.all() {
		pools.Go(func() {
			if err := p.Close(ctx); err != nil {
				select {
				case errs <- err:
				default: // one tells enough
				}
			}
		})
	}
	pools.Wait()
	t.cancel()
	t.work.Wait()
	select {
	case err := <-errs:
		return err
	default:
		return nil
	}
}
