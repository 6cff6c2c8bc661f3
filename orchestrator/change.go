package orchestrator

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Configure changes a function's settings. Settings that the gateway applies by
// itself take effect at once; others make a new revision of the same code. The
// change gets a copy of the settings and returns the new ones; it may be called
// on settings that other changes made meanwhile.
func (s *Service) Configure(ctx context.Context, name string, change func(Spec) (Spec, error)) (Function, Revision, error) {
	return s.detached(ctx, name, changeTurn, nil, func(ctx context.Context, progress func(BuildEvent)) result {
		f, err := s.Function(ctx, name)
		if err != nil {
			return result{err: err}
		}
		spec, err := change(f.Spec.Clone())
		if err != nil {
			return result{err: err}
		}
		if spec.Name != name {
			return result{err: Errorf(ErrInvalid, "name-fixed", "a function cannot be renamed from %q to %q", name, spec.Name).
				WithHint("deploy it under the new name and remove the old one")}
		}
		if f.Live == "" {
			return result{err: errNothingLive(name)}
		}
		live, err := s.Store.Revision(ctx, name, f.Live)
		if err != nil {
			return result{err: fmt.Errorf("load the live revision: %w", err)}
		}
		// Not today's template: a newer one is no reason to build when only the
		// scale changes.
		if SameInstances(f.Spec, spec) && s.BuildDigest(live.ArchiveDigest, live.TemplateDigest, spec) == live.BuildDigest {
			return s.apply(ctx, f, live, spec)
		}
		return s.deploy(ctx, Deploy{Spec: spec, ArchiveDigest: live.ArchiveDigest}, progress)
	})
}

func errNothingLive(name string) error {
	return Errorf(ErrConflict, "nothing-live", "no deploy of %q has succeeded yet", name).
		WithHint("kiln revisions %s says why; deploy it again", name)
}

// Rollback makes an earlier revision live again, with the settings it had but
// the scale, the access (with rate and CORS) and the triggers of now: going back
// in code must not open what was closed since, nor lose what happens outside. Want is an id, a number ("7" or "r7"), or empty for the one
// before the live one.
func (s *Service) Rollback(ctx context.Context, name, want string) (Function, Revision, error) {
	return s.detached(ctx, name, changeTurn, nil, func(ctx context.Context, progress func(BuildEvent)) result {
		f, err := s.Function(ctx, name)
		if err != nil {
			return result{err: err}
		}
		revisions, err := s.Store.Revisions(ctx, name)
		if err != nil {
			return result{err: err}
		}
		r, err := pick(f, revisions, want)
		if err != nil {
			return result{err: err}
		}
		if r.ID == f.Live {
			return result{function: f, revision: r}
		}
		if err := s.checkSecrets(r.Spec); err != nil {
			return result{err: err}
		}
		if err := s.checkRuntime(ctx, r.Spec); err != nil {
			return result{err: err}
		}
		if err := s.restoreImage(ctx, &r, progress); err != nil {
			return result{err: err}
		}
		spec := r.Spec.Clone()
		spec.Scale = f.Spec.Scale
		spec.Access, spec.Rate, spec.CORS = f.Spec.Access, f.Spec.Rate, f.Spec.CORS
		spec.Triggers = f.Spec.Triggers
		spec.Async = spec.Async.Completed()
		if err := s.goLive(ctx, &f, &r, spec, progress); err != nil {
			return result{err: err}
		}
		return result{function: f, revision: r}
	})
}

// restoreImage builds an image again that somebody deleted behind our back.
func (s *Service) restoreImage(ctx context.Context, r *Revision, progress func(BuildEvent)) error {
	_, err := s.Images.Image(ctx, r.Image)
	if err == nil || !errors.Is(err, ErrNotFound) {
		return err
	}
	t, err := s.Templates.Template(r.Spec.Template)
	if err != nil {
		return err
	}
	image, err := s.Builder.BuildRevision(ctx, *r, t, progress)
	if err != nil {
		return err
	}
	r.ImageID = image.ID
	return nil
}

// pick finds the revision to roll back to among revisions, newest first.
func pick(f Function, revisions []Revision, want string) (Revision, error) {
	const hint = "kiln revisions %s shows what there is"
	if want == "" {
		current := 0
		for _, r := range revisions {
			if r.ID == f.Live {
				current = r.Number
			}
		}
		for _, r := range revisions {
			if r.Number < current && r.Status == RevisionReady {
				return r, nil
			}
		}
		return Revision{}, Errorf(ErrConflict, "no-earlier-revision", "function %q has no earlier revision to go back to", f.Name).WithHint(hint, f.Name)
	}
	number, _ := strconv.Atoi(strings.TrimPrefix(want, "r"))
	for _, r := range revisions {
		if r.ID != want && (number == 0 || r.Number != number) {
			continue
		}
		if r.Status != RevisionReady {
			return Revision{}, Errorf(ErrConflict, "revision-not-ready", "revision %s is %s", r.ID, r.Status).WithHint(hint, f.Name)
		}
		return r, nil
	}
	return Revision{}, Errorf(ErrNotFound, "revision-unknown", "function %q has no revision %q", f.Name, want).WithHint(hint, f.Name)
}

// Remove deletes a function with its instances, revisions and images. It ends a
// deploy that runs. It goes on when ctx ends. Once the record is gone the removal
// is certain; what a crash leaves behind, the reconciler reaps.
func (s *Service) Remove(ctx context.Context, name string) error {
	if _, err := s.Function(ctx, name); err != nil {
		return err
	}
	s.lanes.interrupt(name, errRemoved)
	_, _, err := s.detached(ctx, name, removeTurn, nil, func(ctx context.Context, _ func(BuildEvent)) result {
		return result{err: s.remove(ctx, name)}
	})
	return err
}

// remove runs in the function's lane.
func (s *Service) remove(ctx context.Context, name string) error {
	f, err := s.Function(ctx, name)
	if err != nil {
		return err
	}
	if err := s.erase(ctx, f); err != nil {
		return err
	}
	s.forget(name)
	if s.Triggers != nil {
		s.Triggers.Remove(name)
	}
	if err := s.Fleet.Remove(ctx, name); err != nil {
		s.Logger.Warn("instances left to the reconciler", "function", name, "error", err)
	}
	if err := s.clear(ctx, name); err != nil {
		s.Logger.Warn("revisions left to the reconciler", "function", name, "error", err)
	}
	return nil
}

// clear removes the revisions, with their images, of a function that is gone.
func (s *Service) clear(ctx context.Context, name string) error {
	revisions, err := s.Store.Revisions(ctx, name)
	if err != nil {
		return fmt.Errorf("list what is left of %s: %w", name, err)
	}
	patience := time.Now().Add(imagePatience)
	var failures []error
	for _, r := range revisions {
		if err := s.Store.DeleteRevision(ctx, name, r.ID); err != nil {
			failures = append(failures, fmt.Errorf("remove revision %s of %s: %w", r.ID, name, err))
			continue
		}
		if err := s.removeImage(ctx, r.Image, patience); err != nil {
			s.Logger.Warn("image left to the reconciler", "image", r.Image, "error", err)
		}
	}
	return errors.Join(failures...)
}

const (
	// imagePatience is how long a removal waits for the containers of its images.
	// A busy engine takes seconds to let go of one whose start was abandoned.
	imagePatience = 20 * time.Second
	// imagePause is between two looks.
	imagePause = 200 * time.Millisecond
)

// removeImage removes an image as soon as no container of Kiln's uses it, until
// the time given has passed. The function's lane is held meanwhile: a deploy of the
// same code would make an image of the same name. Containers that others started
// from it may run for ever, so nobody waits for them.
func (s *Service) removeImage(ctx context.Context, ref string, until time.Time) error {
	for waits := true; ; {
		err := s.Images.RemoveImage(ctx, ref)
		if !errors.Is(err, ErrConflict) || !waits || time.Now().After(until) {
			return err
		}
		if waits, err = s.uses(ctx, ref); err != nil {
			return err
		}
		if !waits {
			continue // the last one may have gone since
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(imagePause):
		}
	}
}

// uses says whether a container of Kiln's uses an image of a function.
func (s *Service) uses(ctx context.Context, ref string) (bool, error) {
	for _, kind := range []string{KindInstance, KindEntry} {
		containers, err := s.Engine.List(ctx, map[string]string{LabelKind: kind})
		if err != nil {
			return false, fmt.Errorf("list who uses %s: %w", ref, err)
		}
		if slices.ContainsFunc(containers, func(c Container) bool { return c.Image == ref }) {
			return true, nil
		}
	}
	return false, nil
}
