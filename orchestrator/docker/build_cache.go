package docker

import (
	"context"
	"errors"
	"time"

	"github.com/docker/docker/api/types"
	"github.com/docker/docker/api/types/build"
	"github.com/docker/docker/api/types/filters"

	"github.com/kilnfaas/kiln/orchestrator"
)

// clockSlack is by how much the engine's clock may be behind.
const clockSlack = time.Second

// DropBuildCache removes what builds have left in BuildKit's cache since then
// and nothing uses: the steps that a build had finished when it was ended. The
// classic builder keeps such steps as images, which are not looked at.
func (c *Client) DropBuildCache(ctx context.Context, since time.Time) error {
	usage, err := c.api.DiskUsage(ctx, types.DiskUsageOptions{Types: []types.DiskUsageObject{types.BuildCacheObject}})
	if err != nil {
		return translate(ctx, "look at the build cache", err)
	}
	var errs []error
	for _, record := range usage.BuildCache {
		if record == nil || record.InUse || record.CreatedAt.Before(since.Add(-clockSlack)) {
			continue
		}
		_, err := c.api.BuildCachePrune(ctx, build.CachePruneOptions{All: true, Filters: filters.NewArgs(filters.Arg("id", record.ID))})
		if err = translate(ctx, "prune the build cache", err); err != nil && !errors.Is(err, orchestrator.ErrNotFound) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
