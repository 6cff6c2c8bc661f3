// Package cell wakes functions without starting a container. A cell is a
// running container of a template, without code. Loading a revision's code into
// it over HTTP makes it an instance, in milliseconds and without the engine; it
// serves that revision, once, and ends with it.
//
// Launcher is a pool.Launcher around the one on images. For each template that
// is in use it keeps a few cells waiting, made in the background behind every
// start that a caller waits for. A caller's start takes a cell when the release
// can be loaded (Wake says so, and why not), or waits for the next that is being
// made, goes on to another when the cell turns out dead, and falls back to the
// image within the same request.
//
// A cell's life: starting -> waiting -> loading -> an instance of a pool; or
// ended from any of them.
package cell

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/capacity"
	"github.com/kilnfaas/kiln/orchestrator/launch"
	"github.com/kilnfaas/kiln/orchestrator/pool"
)

// The runtime contract of cells; docs/templates.md has it in full.
const (
	LoadPath  = "/_kiln/load"
	readyPath = "/_kiln/ready"
	EnvCell   = "KILN_CELL"
	EnvToken  = "KILN_CELL_TOKEN"
	CodePath  = "/function"
)

// Defaults of Config, and their reasons.
const (
	DefaultMin = 2 // one for a call, one for the call that comes while it is replaced
	DefaultMax = 8 // what two cores make in a second
)

// Images makes the images of cells.
type Images interface {
	// CellImage returns the image of a template's cells and makes it when it is
	// not there.
	CellImage(ctx context.Context, template orchestrator.Template) (image string, err error)
}

// CodeStore keeps the code of revisions: handler and dependencies, as they are
// in the image under CodePath.
type CodeStore interface {
	// Size returns how large a revision's code is, unpacked, and false when it is
	// not kept. It must not wait.
	Size(revision orchestrator.Revision) (orchestrator.Bytes, bool)
	// Open returns the code as an uncompressed tar with paths below "function/".
	// The caller closes it.
	Open(ctx context.Context, revision orchestrator.Revision) (io.ReadCloser, error)
}

// Preparer is a CodeStore that can get ready to open a revision's code fast.
type Preparer interface {
	Prepare(ctx context.Context, revision orchestrator.Revision) error
}

// Next is the Launcher that cells are an addition to, and that starts them.
type Next interface {
	pool.Launcher
	Bring(ctx context.Context, request launch.Request) (id, addr string, err error)
	Owns(idOrName string) bool
	Died(id string, exitCode int, oom bool)
}

// Config sets a Launcher up.
type Config struct {
	Next   Next                // required
	Engine orchestrator.Engine // required
	Images Images              // required
	Code   CodeStore           // required
	// Head returns the beginning of a load, with the environment and the secrets
	// of the function; the code's tar follows. Required: templates.LoadHead.
	Head     func(env map[string]string, secrets map[string][]byte) ([]byte, error)
	Key      orchestrator.InstanceKey // of instances' tokens
	Secrets  launch.Secrets           // opens the secrets of a function; nil = none can be had
	Capacity *capacity.Budget         // nil = without bounds
	Owner    string                   // id of the installation
	Network  string                   // of the instances
	// Min is how many cells of each template in use wait, Max how many at most; 0
	// Min = no cells.
	Min, Max int
	// Notes is a folder that remembers which instance serves what, as a cell's
	// labels cannot; the next gateway adopts by it. Empty = none.
	Notes  string
	Logger *slog.Logger // nil = discard
}

// Launcher is the pool.Launcher with cells. Open starts its work in the
// background, Close ends it and the waiting cells. All methods are safe for
// concurrent use.
type Launcher struct {
	config Config
	notes  notes

	ctx    context.Context
	cancel context.CancelFunc
	work   sync.WaitGroup
	kick   chan struct{} // capacity 1: look at the stocks
	more   chan struct{} // capacity 1: look at ahead

	mu     sync.Mutex
	stocks map[string]*stock       // by template name
	uses   map[string]string       // function -> name of the template it would be loaded into
	ahead  []orchestrator.Revision // whose code is to be prepared
	cells  map[string]*cell        // by container id: waiting, loading or being ended
	opened bool
	closed bool
}

// state is a state of a cell's life once it runs.
type state uint8

const (
	waiting state = iota
	loading
	ending
)

// cell is a container of a template. Its state is guarded by Launcher.mu.
type cell struct {
	id, addr    string
	token       string // for the load
	calls       string // for calls, once it is loaded
	client      *http.Client
	stock       *stock
	reservation *capacity.Reservation
	readyAt     time.Time
	state       state
	died        context.CancelCauseFunc // set while loading
}

// New returns a Launcher without cells.
func New(config Config) *Launcher {
	if config.Max < config.Min {
		config.Max = config.Min
	}
	if config.Capacity == nil {
		config.Capacity = capacity.New(capacity.Config{})
	}
	if config.Logger == nil {
		config.Logger = slog.New(slog.DiscardHandler)
	}
	l := &Launcher{
		config: config, notes: notes{config.Notes}, kick: make(chan struct{}, 1), more: make(chan struct{}, 1),
		stocks: map[string]*stock{}, uses: map[string]string{}, cells: map[string]*cell{},
	}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	return l
}

// Open starts to keep the stocks full. It comes before containers are adopted.
func (l *Launcher) Open(ctx context.Context) error {
	if err := l.notes.open(); err != nil {
		return fmt.Errorf("open the notes of loaded cells: %w", err)
	}
	if err := l.prune(ctx); err != nil {
		// What is left over does no harm, and the engine may be back any moment.
		l.config.Logger.Warn("prune the notes of loaded cells", "error", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.opened || l.closed || l.config.Min <= 0 {
		return nil
	}
	l.opened = true
	l.config.Capacity.Join(l)
	l.work.Add(1)
	go l.tend()
	if p, ok := l.config.Code.(Preparer); ok {
		l.work.Add(1)
		go l.prepare(p)
	}
	return nil
}

// prune drops the notes of cells that ended while no gateway was there.
func (l *Launcher) prune(ctx context.Context) error {
	cells, err := l.config.Engine.List(ctx, map[string]string{
		orchestrator.LabelOwner: l.config.Owner, orchestrator.LabelKind: orchestrator.KindCell,
	})
	if err != nil {
		return err
	}
	there := make(map[string]bool, len(cells))
	for _, c := range cells {
		there[c.ID] = true
	}
	return l.notes.prune(there)
}

// Close ends the waiting cells, which are of no use to the next gateway, and
// returns when nothing of the Launcher goes on any more. Instances stay.
func (l *Launcher) Close() error {
	l.mu.Lock()
	l.closed = true
	var rest []*cell
	for _, s := range l.stocks {
		rest = append(rest, s.takeAll()...)
	}
	for _, c := range rest {
		l.end(c)
	}
	l.mu.Unlock()
	l.config.Capacity.Leave(l)
	l.cancel()
	l.work.Wait()
	return nil
}

// Serving makes a function's template one in use.
func (l *Launcher) Serving(release orchestrator.Release) {
	l.mu.Lock()
	defer l.mu.Unlock()
	name := release.Spec.Name
	delete(l.uses, name)
	if how, _ := l.Wake(release); how == pool.OriginCell {
		l.uses[name] = release.Template.Name
		l.stock(release.Template)
		l.ahead = append(l.ahead, release.Revision)
		poke(l.more)
	}
	poke(l.kick)
}

// Removed forgets a function.
func (l *Launcher) Removed(function string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.uses, function)
	poke(l.kick)
}

// Waiting returns how many cells of each template wait.
func (l *Launcher) Waiting() map[string]int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := make(map[string]int, len(l.stocks))
	for name, s := range l.stocks {
		n[name] = len(s.waiting)
	}
	return n
}

// poke wakes the goroutine that waits on a channel of capacity 1.
func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Owns says whether a container, given by id or name, is a cell, or under the
// next launcher's care.
func (l *Launcher) Owns(idOrName string) bool {
	l.mu.Lock()
	_, ours := l.cells[idOrName]
	l.mu.Unlock()
	return ours || l.config.Next.Owns(idOrName)
}

// Died tells that a container ended: a waiting cell is replaced, a load fails at
// once and goes on elsewhere.
func (l *Launcher) Died(id string, exitCode int, oom bool) {
	l.config.Next.Died(id, exitCode, oom)
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.cells[id]
	if c == nil {
		return
	}
	switch c.state {
	case waiting:
		c.stock.remove(c)
		l.config.Logger.Warn("a waiting cell died", "template", c.stock.template.Name, "container_id", id, "exit_code", exitCode, "oom", oom)
		l.end(c)
		poke(l.kick)
	case loading:
		c.died(fmt.Errorf("the cell ended with exit code %d while it was loaded", exitCode))
	}
}

// Displaced drops the cell whose address another container has got: it is gone,
// and a function's code and environment must not be sent to a stranger.
func (l *Launcher) Displaced(addr, by string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for id, c := range l.cells {
		if c.addr != addr || id == by {
			continue
		}
		switch c.state {
		case waiting:
			c.stock.remove(c)
			l.end(c)
			poke(l.kick)
		case loading:
			c.died(errors.New("another container has the cell's address"))
		}
	}
}

// endGrace is what a cell without work gets between SIGTERM and SIGKILL.
const endGrace = time.Second

// end stops and removes a cell; mu is held.
func (l *Launcher) end(c *cell) {
	c.state = ending
	c.client.CloseIdleConnections()
	l.work.Add(1)
	go func() {
		defer l.work.Done()
		ctx, cancel := context.WithTimeout(context.Background(), endTimeout)
		defer cancel()
		if err := l.config.Next.Stop(ctx, c.id, endGrace); err != nil {
			l.config.Logger.Warn("end a cell", "container_id", c.id, "error", err)
		}
		c.reservation.Release()
		l.mu.Lock()
		delete(l.cells, c.id)
		l.mu.Unlock()
	}()
}

// endTimeout bounds the end of a cell: nobody waits for it but Close.
const endTimeout = 15 * time.Second

// Freeze suspends an instance.
func (l *Launcher) Freeze(ctx context.Context, id string) error { return l.config.Next.Freeze(ctx, id) }

// Thaw resumes an instance.
func (l *Launcher) Thaw(ctx context.Context, id string) error { return l.config.Next.Thaw(ctx, id) }

// Verify says whether an instance still takes requests.
func (l *Launcher) Verify(ctx context.Context, release orchestrator.Release, instance pool.Launched) error {
	return l.config.Next.Verify(ctx, release, instance)
}

// Stop ends and removes an instance.
func (l *Launcher) Stop(ctx context.Context, id string, grace time.Duration) error {
	err := l.config.Next.Stop(ctx, id, grace)
	if err == nil {
		l.notes.drop(id)
	}
	return err
}
