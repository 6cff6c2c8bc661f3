package build

import (
	"cmp"
	"context"

	"github.com/kilnfaas/kiln/orchestrator"
)

// Dedupe returns a builder that lets builds of the same digest that are under
// way at the same time share one, each with all of its progress. A build ends
// early only when nobody waits for it any more.
func Dedupe(next orchestrator.RevisionBuilder, images orchestrator.Images) orchestrator.RevisionBuilder {
	var builds flights[orchestrator.Image]
	return builderFunc(func(ctx context.Context, r orchestrator.Revision, t orchestrator.Template, progress func(orchestrator.BuildEvent)) (orchestrator.Image, error) {
		image, leader, err := builds.do(ctx, cmp.Or(r.BuildDigest, r.Image), progress, func(ctx context.Context, progress func(orchestrator.BuildEvent)) (orchestrator.Image, error) {
			return next.BuildRevision(ctx, r, t, progress)
		})
		if err != nil || leader {
			return image, err
		}
		return tagged(ctx, images, image.ID, r.Image)
	})
}

// tagged gives an image the tag of a revision and returns it as it is now.
func tagged(ctx context.Context, images orchestrator.Images, id, tag string) (orchestrator.Image, error) {
	if err := images.Tag(ctx, id, tag); err != nil {
		return orchestrator.Image{}, err
	}
	return images.Image(ctx, tag)
}
