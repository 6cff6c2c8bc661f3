// Package reconcile compares what runs with what should: it adopts the
// containers of an earlier gateway, tells the fleet of deaths it missed, and
// reaps containers, images, revisions and archives that nobody owns.
package reconcile

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/kilnfaas/kiln/orchestrator"
)

// Intervals and grace times.
const (
	// containersEvery is a safety net only: events tell of changes at once.
	containersEvery = 30 * time.Second
	// leftoversEvery is how often images, revisions and archives are looked at.
	leftoversEvery = 5 * time.Minute
	// containerGrace outlasts the moment between a container's start and the
	// fleet's knowing it.
	containerGrace = time.Minute
	// leftoverGrace outlasts the moment between storing an archive, or building
	// an image, and recording the revision that refers to it.
	leftoverGrace = 15 * time.Minute
	// stopGrace is what an orphan gets to end by itself; nobody waits for it.
	stopGrace = 2 * time.Second
	// retryAfter is the pause after a pass that failed, usually since the engine
	// does not answer.
	retryAfter = 2 * time.Second
)

// Functions is what the loop needs of the use cases.
type Functions interface {
	Functions(ctx context.Context) ([]orchestrator.Function, error)
	Prune(ctx context.Context) error
	// Needs says whether a deploy under way needs an archive that no revision
	// refers to yet.
	Needs(digest string) bool
}

// Loop reconciles once when opened, then after each gap in the engine's events
// and at intervals. Set the fields, Open, and Close.
type Loop struct {
	Engine    orchestrator.Engine
	Images    orchestrator.Images
	Store     orchestrator.Store
	Fleet     orchestrator.Fleet
	Functions Functions
	Owner     string
	Logger    *slog.Logger

	cancel context.CancelFunc
	done   sync.WaitGroup
	resync chan struct{}

	containers ledger // orphans seen; used by run's goroutine
	leftovers  ledger // used by tidy's
}

// Open makes the first pass, in which every container of the owner that serves is
// adopted, and starts the loop, which ends the others and removes what else an
// earlier gateway left behind. It is called before there can be a deploy. That
// the engine does not answer is no error: the loop makes up for the pass when it
// does.
func (l *Loop) Open(ctx context.Context) error {
	l.resync = make(chan struct{}, 1)
	l.containers, l.leftovers = newLedger(), newLedger()
	orphans, err := l.adopt(ctx)
	if err != nil {
		l.Logger.Warn("containers not adopted yet", "error", err)
		l.kick()
	}
	images, err := l.discard(ctx)
	if err != nil {
		l.Logger.Warn("leftovers not removed yet", "error", err)
	}
	ctx, l.cancel = context.WithCancel(context.WithoutCancel(ctx))
	reap := func(ctx context.Context) { l.reapAll(ctx, orphans) }
	tidy := func(ctx context.Context) { l.tidy(ctx, images) }
	for _, work := range []func(context.Context){l.watch, l.run, reap, tidy} {
		l.done.Add(1)
		go func() {
			defer l.done.Done()
			work(ctx)
		}()
	}
	return nil
}

// Close ends the loop and waits for it.
func (l *Loop) Close() error {
	if l.cancel != nil {
		l.cancel()
	}
	l.done.Wait()
	return nil
}

func (l *Loop) kick() {
	select {
	case l.resync <- struct{}{}:
	default:
	}
}

func (l *Loop) labels() map[string]string {
	return map[string]string{orchestrator.LabelOwner: l.Owner}
}

// watch hands the engine's events on. An out-of-memory event alone does not
// mean that the container ended: the victim may have been a child process.
func (l *Loop) watch(ctx context.Context) {
	oom := map[string]bool{}
	err := l.Engine.Events(ctx, l.labels(), func(e orchestrator.Event) {
		switch e.Kind {
		case orchestrator.EventOOM:
			oom[e.ID] = true
		case orchestrator.EventDied:
			l.Fleet.Died(e.ID, e.ExitCode, oom[e.ID])
			delete(oom, e.ID)
		case orchestrator.EventResync:
			l.kick()
		}
	})
	if err != nil && ctx.Err() == nil {
		l.Logger.Error("engine events ended", "error", err)
	}
}

// run reconciles containers.
func (l *Loop) run(ctx context.Context) {
	ticker := time.NewTicker(containersEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.resync:
		case <-ticker.C:
		}
		err := l.pass(ctx)
		if err == nil || ctx.Err() != nil {
			continue
		}
		l.Logger.Warn("reconcile", "error", err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(retryAfter):
			if errors.Is(err, orchestrator.ErrUnavailable) {
				l.kick()
			}
		}
	}
}

// tidy removes leftovers, those first that were there at the start. It has a
// goroutine of its own, because pruning waits for the builds of functions, and
// containers cannot wait for those.
func (l *Loop) tidy(ctx context.Context, first []string) {
	if err := l.removeAll(ctx, first); err != nil && ctx.Err() == nil {
		l.Logger.Warn("remove leftovers", "error", err)
	}
	ticker := time.NewTicker(leftoversEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if err := l.sweep(ctx); err != nil && ctx.Err() == nil {
			l.Logger.Warn("remove leftovers", "error", err)
		}
	}
}

// adopt is the first pass: nothing has been started yet by this gateway, so
// what cannot be adopted is an orphan for certain. Ending those is left to the
// loop: the engine may take its time, and callers wait for the gateway.
func (l *Loop) adopt(ctx context.Context) (orphans []orchestrator.Container, err error) {
	running, err := l.Engine.List(ctx, l.labels())
	if err != nil {
		return nil, err
	}
	for _, c := range running {
		if c.State != orchestrator.ContainerExited && l.Fleet.Adopt(c) {
			l.Logger.Info("adopted", "function", c.Labels[orchestrator.LabelFunction], "container_id", c.ID, "state", c.State)
			continue
		}
		if ours(c) {
			orphans = append(orphans, c)
		}
	}
	return orphans, nil
}

// reapAll ends the orphans of the first pass, all at once. Their end may fail: one
// that the engine was starting for the gateway before is not to be had until it has
// started. Later passes see to what is still there after their grace time.
func (l *Loop) reapAll(ctx context.Context, orphans []orchestrator.Container) {
	ctx, cancel := context.WithTimeout(ctx, containerGrace)
	defer cancel()
	var stops sync.WaitGroup
	for _, c := range orphans {
		stops.Go(func() {
			for !l.reap(ctx, c) {
				select {
				case <-ctx.Done():
					return
				case <-time.After(retryAfter):
				}
			}
		})
	}
	stops.Wait()
}

// ours says whether a container may be reaped: what serves, in any state, and
// what else Kiln made once it has ended. The steps of builds, which end by
// themselves, and what others start from Kiln's images have the labels of their
// image; of those only steps are Kiln's. A step is a container of an image's id,
// where others name the image. Who does start an image by its whole id loses the
// container once it has ended; the steps that a crash left behind go for it.
func ours(c orchestrator.Container) bool {
	switch c.Labels[orchestrator.LabelKind] {
	case orchestrator.KindInstance, orchestrator.KindCell:
		return true
	case orchestrator.KindEntry, orchestrator.KindRules:
		return c.State == orchestrator.ContainerExited
	}
	return c.State == orchestrator.ContainerExited && strings.HasPrefix(c.Image, imageID)
}

// imageID is how the id of an image begins.
const imageID = "sha256:"

// reap removes an orphan, and says whether it is none any more. It is looked at
// again: the list gives the id of an image whose name has moved on to another.
func (l *Loop) reap(ctx context.Context, c orchestrator.Container) bool {
	again, err := l.Engine.Inspect(ctx, c.ID)
	if errors.Is(err, orchestrator.ErrNotFound) || err == nil && !ours(again) {
		return true
	}
	if err == nil {
		err = l.Engine.Stop(ctx, c.ID, stopGrace)
	}
	if err != nil {
		l.Logger.Warn("orphan not removed", "container_id", c.ID, "error", err)
		return false
	}
	l.Logger.Info("removed an orphan", "function", c.Labels[orchestrator.LabelFunction], "container_id", c.ID)
	return true
}

// pass tells the fleet of instances that are gone and reaps orphans. What the
// fleet knows is read before the engine's list: an instance known then and
// absent after is gone, never just not listed yet.
func (l *Loop) pass(ctx context.Context) error {
	known, err := l.known(ctx)
	if err != nil {
		return err
	}
	running, err := l.Engine.List(ctx, l.labels())
	if err != nil {
		return fmt.Errorf("list containers: %w", err)
	}
	alive := map[string]bool{}
	var orphans []orchestrator.Container
	for _, c := range running {
		alive[c.ID] = c.State != orchestrator.ContainerExited
		if l.Fleet.Owns(c.ID) {
			if !alive[c.ID] {
				l.ended(ctx, c.ID)
			}
			continue
		}
		if alive[c.ID] && l.Fleet.Adopt(c) {
			continue
		}
		if ours(c) {
			orphans = append(orphans, c)
		}
	}
	for _, id := range known {
		if !alive[id] {
			l.Fleet.Died(id, 0, false)
		}
	}
	overdue := l.containers.overdue(time.Now(), containerGrace, ids(orphans))
	for _, c := range orphans {
		if slices.Contains(overdue, c.ID) && !l.Fleet.Owns(c.ID) {
			l.reap(ctx, c)
		}
	}
	return nil
}

// ended tells of the end of a container that is in use: also of those that
// belong to no function yet. When it was listed it may only have been created,
// so it is looked at again.
func (l *Loop) ended(ctx context.Context, id string) {
	c, err := l.Engine.Inspect(ctx, id)
	if err == nil && c.State == orchestrator.ContainerExited || errors.Is(err, orchestrator.ErrNotFound) {
		l.Fleet.Died(id, c.ExitCode, c.OOMKilled)
	}
}

// known returns the containers that the fleet counts on.
func (l *Loop) known(ctx context.Context) ([]string, error) {
	functions, err := l.Functions.Functions(ctx)
	if err != nil {
		return nil, fmt.Errorf("list functions: %w", err)
	}
	var known []string
	for _, f := range functions {
		status, _ := l.Fleet.Status(f.Name)
		for _, i := range status.Instances {
			if i.ID != "" {
				known = append(known, i.ID)
			}
		}
	}
	return known, nil
}

func ids(containers []orchestrator.Container) []string {
	ids := make([]string, len(containers))
	for i, c := range containers {
		ids[i] = c.ID
	}
	return ids
}
