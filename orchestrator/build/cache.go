package build

import (
	"context"
	"errors"
	"slices"

	"github.com/kilnfaas/kiln/orchestrator"
)

// Cache returns a builder that gives an image of the same digest the tag of the
// revision, if the installation has one, and builds only if not.
func Cache(next orchestrator.RevisionBuilder, images orchestrator.Images, owner string) orchestrator.RevisionBuilder {
	return builderFunc(func(ctx context.Context, r orchestrator.Revision, t orchestrator.Template, progress func(orchestrator.BuildEvent)) (orchestrator.Image, error) {
		if r.BuildDigest == "" {
			return next.BuildRevision(ctx, r, t, progress)
		}
		found, err := images.Images(ctx, map[string]string{
			orchestrator.LabelOwner: owner,
			orchestrator.LabelKind:  orchestrator.KindImage,
			orchestrator.LabelBuild: r.BuildDigest,
		})
		if err != nil {
			return orchestrator.Image{}, err
		}
		if len(found) > 0 {
			newest := slices.MaxFunc(found, func(a, b orchestrator.Image) int { return a.CreatedAt.Compare(b.CreatedAt) })
			image, err := tagged(ctx, images, newest.ID, r.Image)
			if err == nil {
				passed(progress, "cache", "[image] the same was built before")
				return image, nil
			}
			if !errors.Is(err, orchestrator.ErrNotFound) { // not found: pruned this moment
				return orchestrator.Image{}, err
			}
		}
		return next.BuildRevision(ctx, r, t, progress)
	})
}
