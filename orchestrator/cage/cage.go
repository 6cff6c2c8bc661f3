// Package cage holds the steps of builds to limits of memory and processes,
// which BuildKit takes no notice of. It decorates a Builder.
//
// BuildKit makes a cgroup for each step and leaves it without limits. While a
// build runs, a Builder of this package looks for new ones often enough to find
// them while the step's first process is still being set up, and writes the
// limits into them. A step that stays at its limit of processes is ended: a fork
// bomb would else go on until the build's time is over.
//
// The gateway must be able to write to the machine's cgroup file system. Steps
// of whoever else builds on the engine meanwhile are held to the same limits, as
// nothing tells whose a step is.
package cage

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"syscall"
	"time"

	"github.com/kilnfaas/kiln/orchestrator"
)

// DefaultRoot is where the machine's cgroups are.
const DefaultRoot = "/sys/fs/cgroup"

const (
	// lookEvery is how often new steps are looked for: an engine takes 30 ms and
	// more from a step's cgroup to its first own process.
	lookEvery = 10 * time.Millisecond
	// bombAfter is how long a step may be at its limit of processes. A command
	// that cannot start what it needs ends by itself before that.
	bombAfter = time.Second
	// crowded is the part of the limit of processes that counts as being at it: a
	// bomb's processes come and go.
	crowded = 0.9
)

// Builder is an orchestrator.Builder whose steps are limited.
type Builder struct {
	orchestrator.Builder
	root   string
	limits orchestrator.Limits
	logger *slog.Logger

	mu     sync.Mutex
	inside int           // builds under way; guarded by mu
	cancel func()        // ends the watch; guarded by mu
	ended  chan struct{} // closed when it has ended; guarded by mu
}

// New decorates a builder. Of limits, Memory and Pids count, 0 is none. root is
// the cgroup file system, empty = DefaultRoot.
func New(next orchestrator.Builder, root string, limits orchestrator.Limits, logger *slog.Logger) *Builder {
	if root == "" {
		root = DefaultRoot
	}
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	return &Builder{Builder: next, root: root, limits: limits, logger: logger}
}

// Build builds, and holds the steps to the limits. Nothing of the watch goes on
// when the last build has returned.
func (b *Builder) Build(ctx context.Context, request orchestrator.BuildRequest) (orchestrator.Image, error) {
	b.enter()
	defer b.leave()
	return b.Builder.Build(ctx, request)
}

func (b *Builder) enter() {
	w := &watch{places: places(b.root), limits: b.limits, logger: b.logger}
	w.begin()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.inside++; b.inside > 1 {
		return // the first one's watch sees to all
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	b.cancel, b.ended = cancel, ended
	go func() {
		defer close(ended)
		w.run(ctx)
	}()
}

func (b *Builder) leave() {
	b.mu.Lock()
	b.inside--
	last, cancel, ended := b.inside == 0, b.cancel, b.ended
	b.mu.Unlock()
	if last {
		cancel()
		<-ended
	}
}

// watch looks after the steps of builds. It belongs to one goroutine.
type watch struct {
	places []place
	limits orchestrator.Limits
	logger *slog.Logger
	steps  map[string]*step // by path; nil = was there before
}

// begin notes the steps that are there already: they are somebody else's.
func (w *watch) begin() {
	w.steps = map[string]*step{}
	for _, p := range w.places {
		for _, path := range p.steps() {
			w.steps[path] = nil
		}
	}
}

func (w *watch) run(ctx context.Context) {
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	for {
		w.look(time.Now())
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// look limits the steps that are new, and ends those that are bombs.
func (w *watch) look(now time.Time) {
	there := map[string]bool{}
	for _, p := range w.places {
		for _, path := range p.steps() {
			there[path] = true
			s, known := w.steps[path]
			if !known {
				s = &step{path: path, kind: p.kind}
				w.steps[path] = s
				w.confine(s)
			}
			if s == nil {
				continue
			}
			told := known && s.bomb
			if !w.isBomb(s, now) {
				continue
			}
			if !told {
				w.logger.Warn("a step of a build is ended: it uses more than it may", "cgroup", path, "limits", w.limits)
			}
			s.kill() // again until none is left
		}
	}
	for path := range w.steps {
		if !there[path] {
			delete(w.steps, path)
		}
	}
}

// confine limits a new step. One that was quicker, and is over a limit already,
// is ended: the kernel takes no limit of memory that is below what is in use, and
// lets processes above theirs live.
func (w *watch) confine(s *step) {
	err := s.limit(w.limits)
	if err != nil {
		w.logger.Warn("a step of a build is not limited", "cgroup", s.path, "error", err)
	}
	s.bomb = errors.Is(err, syscall.EBUSY) || w.limits.Pids > 0 && s.kind.countsProcesses() && s.processes() > w.limits.Pids
}

func (w *watch) isBomb(s *step, now time.Time) bool {
	if w.limits.Pids == 0 || !s.kind.countsProcesses() {
		return s.bomb
	}
	if float64(s.processes()) < crowded*float64(w.limits.Pids) {
		s.crowdedAt = time.Time{}
		return s.bomb // once it is being ended, it is until it has
	}
	if s.crowdedAt.IsZero() {
		s.crowdedAt = now
	}
	s.bomb = s.bomb || now.Sub(s.crowdedAt) >= bombAfter
	return s.bomb
}
