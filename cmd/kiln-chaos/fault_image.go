package main

import "context"

// deleteImage deletes the images of all functions and of the cells. What runs goes on, and what
// has to start gets its image built again.
var deleteImage = fault{name: "images deleted", full: 3, short: 1, inject: func(ctx context.Context, w *world) error {
	tags, err := w.engine.list(ctx, "images", "--filter", w.filter(), "--filter", "dangling=false", "--format", "{{.Repository}}:{{.Tag}}")
	if err != nil {
		return err
	}
	for _, tag := range tags {
		// One that is being started is refused, one of a deploy may be gone.
		if _, err := w.engine.docker(ctx, "rmi", "--force", tag); err != nil {
			w.o.say("  %v", err)
		}
	}
	return w.settle(ctx)
}}
