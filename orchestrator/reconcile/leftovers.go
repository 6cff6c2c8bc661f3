package reconcile

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/kilnfaas/kiln/orchestrator"
)

// Prefixes of the ledger's keys, one a kind of leftover.
const (
	imagePrefix    = "image "
	revisionPrefix = "revision "
	archivePrefix  = "archive "
)

// ourTags is what the tags of revisions begin with. Another tag of such an image
// is somebody's own.
const ourTags = "kiln/"

// sweep prunes old revisions, then removes revisions without a function,
// archives without a revision and images without a revision, once each has been
// so for leftoverGrace.
func (l *Loop) sweep(ctx context.Context) error {
	var failures []error
	if err := l.Functions.Prune(ctx); err != nil { // of one function; the others' leftovers go all the same
		failures = append(failures, err)
	}
	orphans, err := l.orphans(ctx)
	if err != nil {
		return errors.Join(append(failures, err)...)
	}
	return errors.Join(append(failures, l.removeAll(ctx, l.leftovers.overdue(time.Now(), leftoverGrace, orphans)))...)
}

// discard removes what an earlier gateway left behind. Nothing is being deployed
// yet, so what nothing refers to is a leftover for certain. The images among it
// are returned, to be removed later: the engine takes its time. The others cannot
// wait, as an archive may be sent again, and be needed, with the first deploy.
func (l *Loop) discard(ctx context.Context) (images []string, err error) {
	orphans, err := l.orphans(ctx)
	if err != nil {
		return nil, err
	}
	var stored []string
	for _, key := range orphans {
		if strings.HasPrefix(key, imagePrefix) {
			images = append(images, key)
		} else {
			stored = append(stored, key)
		}
	}
	return images, l.removeAll(ctx, stored)
}

// removeAll removes leftovers, given by their keys.
func (l *Loop) removeAll(ctx context.Context, keys []string) error {
	var failures []error
	for _, key := range keys {
		switch err := l.remove(ctx, key); {
		case errors.Is(err, orchestrator.ErrConflict): // an image that a container still uses: next time
		case err != nil:
			failures = append(failures, fmt.Errorf("remove %s: %w", key, err))
		default:
			l.Logger.Info("removed a leftover", "what", key)
		}
	}
	return errors.Join(failures...)
}

func (l *Loop) remove(ctx context.Context, key string) error {
	if ref, ok := strings.CutPrefix(key, imagePrefix); ok {
		return l.Images.RemoveImage(ctx, ref)
	}
	if digest, ok := strings.CutPrefix(key, archivePrefix); ok {
		if l.Functions.Needs(digest) { // since it was listed
			return orchestrator.Errorf(orchestrator.ErrConflict, "archive-in-use", "archive %s is being deployed", digest)
		}
		return l.Store.DeleteArchive(ctx, digest)
	}
	name, id, _ := strings.Cut(strings.TrimPrefix(key, revisionPrefix), " ")
	return l.Store.DeleteRevision(ctx, name, id)
}

// orphans lists what nothing refers to, as keys of the ledger.
func (l *Loop) orphans(ctx context.Context) ([]string, error) {
	functions, err := l.Functions.Functions(ctx)
	if err != nil {
		return nil, fmt.Errorf("list functions: %w", err)
	}
	live := map[string]string{} // function -> revision
	for _, f := range functions {
		live[f.Name] = f.Live
	}
	revisions, err := l.Store.AllRevisions(ctx)
	if err != nil {
		return nil, fmt.Errorf("list revisions: %w", err)
	}
	var orphans []string
	archives, images := map[string]bool{}, map[string]bool{}
	for _, r := range revisions {
		if _, known := live[r.Function]; !known {
			orphans = append(orphans, revisionPrefix+r.Function+" "+r.ID)
			continue
		}
		if r.Status == orchestrator.RevisionReady || r.Status == orchestrator.RevisionBuilding || r.ID == live[r.Function] {
			archives[r.ArchiveDigest], archives[r.CodeDigest], images[r.Image] = true, true, true
		}
	}
	stored, err := l.Store.Archives(ctx)
	if err != nil {
		return nil, fmt.Errorf("list archives: %w", err)
	}
	for _, digest := range stored {
		if !archives[digest] && !l.Functions.Needs(digest) {
			orphans = append(orphans, archivePrefix+digest)
		}
	}
	labels := maps.Clone(l.labels())
	labels[orchestrator.LabelKind] = orchestrator.KindImage
	built, err := l.Images.Images(ctx, labels)
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	for _, image := range built {
		for _, tag := range image.Tags {
			if !images[tag] && strings.HasPrefix(tag, ourTags) {
				orphans = append(orphans, imagePrefix+tag)
			}
		}
		if len(image.Tags) == 0 {
			orphans = append(orphans, imagePrefix+image.ID)
		}
	}
	return orphans, nil
}
