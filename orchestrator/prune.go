package orchestrator

import (
	"context"
	"errors"
	"fmt"
)

// Revisions kept per function: images for rollback, records for reading.
const (
	keepImages = 5
	keepFailed = 5
)

// Prune retires the images of revisions beyond the last keepImages of each
// function and forgets failed revisions beyond the last keepFailed. What is
// live is always kept.
func (s *Service) Prune(ctx context.Context) error {
	all, err := s.Store.AllRevisions(ctx)
	if err != nil {
		return fmt.Errorf("prune: %w", err)
	}
	counts := map[string]int{}
	for _, r := range all {
		counts[r.Function]++
	}
	var failures []error
	for name, n := range counts {
		if n <= min(keepImages, keepFailed) {
			continue
		}
		r := s.inLane(ctx, name, changeTurn, func(ctx context.Context) result {
			return result{err: s.prune(ctx, name)}
		})
		if r.err != nil && !errors.Is(r.err, ErrNotFound) {
			failures = append(failures, r.err)
		}
	}
	return errors.Join(failures...)
}

// prune runs in the function's lane.
func (s *Service) prune(ctx context.Context, name string) error {
	f, err := s.Function(ctx, name)
	if err != nil {
		return err
	}
	revisions, err := s.Store.Revisions(ctx, name)
	if err != nil {
		return err
	}
	for _, r := range excess(revisions, f.Live) {
		// An image that still has a container is left for the next time.
		err := s.Images.RemoveImage(ctx, r.Image)
		if errors.Is(err, ErrConflict) {
			continue
		}
		if err != nil {
			return fmt.Errorf("prune image %s: %w", r.Image, err)
		}
		if r.Status == RevisionReady {
			r.Status = RevisionRetired
			err = s.Store.PutRevision(ctx, r)
		} else {
			err = s.Store.DeleteRevision(ctx, name, r.ID)
		}
		if err != nil {
			return fmt.Errorf("prune revision %s of %s: %w", r.ID, name, err)
		}
	}
	return nil
}

// excess picks from revisions, newest first, those beyond what is kept: ready
// ones to retire, failed and retired ones to forget.
func excess(revisions []Revision, live string) []Revision {
	var over []Revision
	var ready, dead int
	for _, r := range revisions {
		switch {
		case r.Status == RevisionBuilding:
		case r.Status == RevisionReady:
			if ready++; ready > keepImages && r.ID != live {
				over = append(over, r)
			}
		default:
			if dead++; dead > keepFailed {
				over = append(over, r)
			}
		}
	}
	return over
}
