package main

import (
	"context"
	"time"
)

// restartEngine stops the engine, which ends all containers, and starts it
// again. Until instances are back nothing can answer.
var restartEngine = fault{name: "engine restarted", full: 2, own: true, inject: func(ctx context.Context, w *world) error {
	end := w.excuse(anything)
	defer end()
	if err := w.engine.stop(); err != nil {
		return err
	}
	if err := w.pause(ctx, w.between(0, 2*time.Second)); err != nil {
		return err
	}
	if err := w.engine.start(ctx); err != nil {
		return err
	}
	return w.settle(ctx)
}}
