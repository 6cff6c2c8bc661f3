package orchestrator

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/google/uuid"
)

// Deploy is what a deploy begins with: checked settings and a stored archive.
type Deploy struct {
	Spec          Spec
	ArchiveDigest string
}

// result is how a change of a function ended.
type result struct {
	function Function
	revision Revision
	err      error
}

// Deploy builds a revision, proves one instance of it ready and makes it live.
// Any failure leaves what was live as it was. Deploys of one function happen in
// order; of those that wait, the latest wins and the others are ErrConflict.
//
// The deploy goes on when ctx ends, up to its own limits; only progress stops.
// Input equal to what is live changes nothing and returns it.
func (s *Service) Deploy(ctx context.Context, d Deploy, progress func(BuildEvent)) (Function, Revision, error) {
	if err := ValidateName(d.Spec.Name); err != nil {
		return Function{}, Revision{}, err
	}
	return s.detached(ctx, d.Spec.Name, deployTurn, progress, func(ctx context.Context, progress func(BuildEvent)) result {
		return s.deploy(ctx, d, progress)
	}, d.ArchiveDigest)
}

// detached runs a change in the function's lane, beyond the end of ctx. Until it
// has ended, needs are archives that are in use.
func (s *Service) detached(ctx context.Context, name string, kind turn, progress func(BuildEvent), change func(context.Context, func(BuildEvent)) result, needs ...string) (Function, Revision, error) {
	tap := &tap{f: progress}
	defer tap.close()
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return Function{}, Revision{}, errStopping
	}
	s.work.Add(1)
	for _, digest := range needs {
		s.needed[digest]++
	}
	s.mu.Unlock()

	done := make(chan result, 1)
	go func() {
		defer s.work.Done()
		defer s.unneed(needs)
		done <- s.inLane(s.ctx, name, kind, func(ctx context.Context) result { return change(ctx, tap.send) })
	}()
	select {
	case r := <-done:
		return r.function, r.revision, r.err
	case <-ctx.Done():
		return Function{}, Revision{}, context.Cause(ctx)
	}
}

var errStopping = Errorf(ErrUnavailable, "stopping", "the gateway is stopping").WithHint("try again in a moment")

// inLane runs a change when it is the function's turn. When the change was
// interrupted, the reason is its error.
func (s *Service) inLane(ctx context.Context, name string, kind turn, change func(context.Context) result) result {
	inner, leave, err := s.lanes.enter(ctx, name, kind)
	if err != nil {
		return result{err: s.reason(err)}
	}
	defer leave()
	r := change(inner)
	if cause := context.Cause(inner); r.err != nil && cause != nil {
		r.err = s.reason(cause)
	}
	return r
}

// reason names the gateway's stop, which cancels without saying why.
func (s *Service) reason(err error) error {
	if errors.Is(err, context.Canceled) && s.ctx.Err() != nil {
		return errStopping
	}
	return err
}

// tap hands progress on until it is closed.
type tap struct {
	mu sync.Mutex
	f  func(BuildEvent) // guarded by mu; nil once closed
}

func (t *tap) send(e BuildEvent) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.f != nil {
		t.f(e)
	}
}

func (t *tap) close() {
	t.mu.Lock()
	t.f = nil
	t.mu.Unlock()
}

// deploy runs in the function's lane.
func (s *Service) deploy(ctx context.Context, d Deploy, progress func(BuildEvent)) result {
	t, err := s.Templates.Template(d.Spec.Template)
	if err != nil {
		return result{err: err}
	}
	if err := s.checkSecrets(d.Spec); err != nil {
		return result{err: err}
	}
	if err := s.checkRuntime(ctx, d.Spec); err != nil {
		return result{err: err}
	}
	f, err := s.Function(ctx, d.Spec.Name)
	now := time.Now().UTC()
	switch {
	case errors.Is(err, ErrNotFound):
		// What a removal that was cut off has left belongs to another function.
		if err := s.clear(ctx, d.Spec.Name); err != nil {
			return result{err: err}
		}
		f = Function{Name: d.Spec.Name, Spec: d.Spec, CreatedAt: now}
	case err != nil:
		return result{err: err}
	}
	digest := s.BuildDigest(d.ArchiveDigest, t.Digest, d.Spec)
	if same, ok := s.unchanged(ctx, f, d.Spec, digest); ok {
		progress(BuildEvent{Kind: BuildStep, Time: now, Step: "unchanged", Name: "nothing changed since " + same.ID, State: StepCached})
		return s.apply(ctx, f, same, d.Spec)
	}

	f.Revision++
	f.UpdatedAt = now
	r := Revision{
		ID:             fmt.Sprintf("r%d-%s", f.Revision, uuid.NewString()[:6]),
		Function:       f.Name,
		Number:         f.Revision,
		Spec:           d.Spec.Clone(),
		ArchiveDigest:  d.ArchiveDigest,
		TemplateDigest: t.Digest,
		BuildDigest:    digest,
		Status:         RevisionBuilding,
		CreatedAt:      now,
	}
	r.Image = "kiln/" + f.Name + ":" + r.ID
	if err := s.Store.PutRevision(ctx, r); err != nil {
		return result{err: fmt.Errorf("record revision: %w", err)}
	}
	if f, err = s.record(ctx, f); err != nil {
		return result{err: s.fail(ctx, r, err)}
	}
	image, err := s.Builder.BuildRevision(ctx, r, t, progress)
	if err != nil {
		return result{err: s.fail(ctx, r, err)}
	}
	r.ImageID = image.ID
	if err := s.goLive(ctx, &f, &r, d.Spec, progress); err != nil {
		return result{err: s.fail(ctx, r, err)}
	}
	return result{function: f, revision: r}
}

// checkRuntime refuses a runtime that the engine does not have, before anything
// is built for it.
func (s *Service) checkRuntime(ctx context.Context, spec Spec) error {
	if spec.Runtime == "" {
		return nil
	}
	info, err := s.Engine.Info(ctx)
	if err != nil {
		return err
	}
	return info.CheckRuntime(spec.Runtime)
}

// unchanged returns the live revision if the input would give the same again.
func (s *Service) unchanged(ctx context.Context, f Function, spec Spec, digest string) (Revision, bool) {
	if f.Live == "" || !SameInstances(f.Spec, spec) {
		return Revision{}, false
	}
	r, err := s.Store.Revision(ctx, f.Name, f.Live)
	if err != nil || r.BuildDigest != digest {
		return Revision{}, false
	}
	// An image that was deleted behind our back is built again.
	if _, err := s.Images.Image(ctx, r.Image); err != nil {
		return Revision{}, false
	}
	return r, true
}

// apply changes settings that need no new container.
func (s *Service) apply(ctx context.Context, f Function, live Revision, spec Spec) result {
	f.Spec = spec.Clone()
	f.UpdatedAt = time.Now().UTC()
	f, err := s.record(ctx, f)
	if err != nil {
		return result{err: err}
	}
	release := s.release(f.Spec, live)
	if err := s.renew(ctx, release); err != nil {
		// The settings hold all the same, for the instances that there are.
		s.Logger.Warn("the function keeps an old secret", "function", f.Name, "revision", live.ID, "error", err)
		release.Secrets = s.secretsServed(f.Name)
		s.serve(release)
	}
	return result{function: f, revision: live}
}

// goLive proves an instance of a built revision and switches to it. The switch
// is the function's record; a crash before it leaves the old revision live.
func (s *Service) goLive(ctx context.Context, f *Function, r *Revision, spec Spec, progress func(BuildEvent)) error {
	release := s.release(spec, *r)
	step := stepper(progress, "start", "start an instance and wait until it is ready")
	kept := make(chan code, 1)
	go func() { kept <- s.keepCode(ctx, release) }()
	err := s.prove(ctx, release)
	code := <-kept // also when the proof failed: the goroutine is ours
	if err != nil {
		step(StepFailed)
		return err
	}
	step(StepDone)
	changed := *f
	changed.Live = r.ID
	changed.Spec = spec.Clone()
	changed.UpdatedAt = time.Now().UTC()
	if r.Status != RevisionReady || r.CodeDigest != code.digest {
		r.Status, r.ReadyAt = RevisionReady, changed.UpdatedAt
		r.CodeDigest, r.CodeSize = code.digest, code.size
		if err := s.Store.PutRevision(ctx, *r); err != nil {
			s.Fleet.Discard(release)
			return fmt.Errorf("record revision: %w", err)
		}
	}
	changed, err = s.record(ctx, changed)
	if err != nil {
		s.Fleet.Discard(release)
		return err
	}
	*f = changed
	release.Revision = *r
	s.serve(release)
	if now := s.release(spec, *r); !maps.Equal(now.Secrets, release.Secrets) { // one was changed during the proof
		if err := s.renew(ctx, now); err != nil {
			s.Logger.Warn("the function keeps an old secret", "function", f.Name, "revision", r.ID, "error", err)
		}
	}
	return nil
}

// proveTimeout bounds a proof: waiting for memory and for a turn to start, and
// then what the instance may take to be ready.
const proveTimeout = 5 * time.Minute

// prove has one instance started. What else runs may leave no memory for it, for
// however long; the function's other changes do not wait for that.
func (s *Service) prove(ctx context.Context, release Release) error {
	bounded, cancel := context.WithTimeout(ctx, proveTimeout)
	defer cancel()
	err := s.Fleet.Prove(bounded, release)
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		return Errorf(ErrExhausted, "no-capacity", "no instance of the new revision could be started within %s", proveTimeout).
			WithHint("deploy it again when others are idle, lower the memory of functions, or raise the gateway's memory budget")
	}
	return err
}

// fail records why a revision did not come to life and returns the reason.
func (s *Service) fail(ctx context.Context, r Revision, reason error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordTimeout)
	defer cancel()
	r.Status, r.Error = RevisionFailed, reason.Error()
	if err := s.Store.PutRevision(ctx, r); err != nil {
		s.Logger.Error("failed revision not recorded", "function", r.Function, "revision", r.ID, "error", err)
	}
	return reason
}

// stepper reports a step as started and returns what reports its end.
func stepper(progress func(BuildEvent), step, name string) func(StepState) {
	start := time.Now()
	progress(BuildEvent{Kind: BuildStep, Time: start.UTC(), Step: step, Name: name, State: StepStarted})
	return func(state StepState) {
		end := time.Now()
		progress(BuildEvent{Kind: BuildStep, Time: end.UTC(), Step: step, Name: name, State: state, Duration: Duration(end.Sub(start))})
	}
}
