package main

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"github.com/kilnfaas/kiln/orchestrator"
)

// killInstance kills an instance of a function that has another one.
var killInstance = fault{name: "instance killed", full: 20, short: 2, inject: func(ctx context.Context, w *world) error {
	victim, err := w.victim(ctx)
	if err != nil {
		return err
	}
	end := w.excuse(diedWith)
	defer end()
	if err := syscall.Kill(victim.PID, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		return err
	}
	return w.settle(ctx)
}}

// killCell kills a waiting cell, which may be about to become an instance.
var killCell = fault{name: "cell killed", full: 10, short: 1, inject: func(ctx context.Context, w *world) error {
	labels := w.labels()
	labels[orchestrator.LabelKind] = orchestrator.KindCell
	cells, err := w.docker.List(ctx, labels)
	if err != nil {
		return err
	}
	for _, i := range w.random.Perm(len(cells)) {
		c, err := w.docker.Inspect(ctx, cells[i].ID)
		if err != nil || c.PID == 0 || w.isInstance(ctx, c.ID) {
			continue
		}
		if err := syscall.Kill(c.PID, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			return err
		}
		return w.settle(ctx)
	}
	return w.settle(ctx) // all are in use: the next round
}}

// removeContainer removes a container behind Kiln's back.
var removeContainer = fault{name: "container removed", full: 20, short: 1, inject: func(ctx context.Context, w *world) error {
	victim, err := w.victim(ctx)
	if err != nil {
		return err
	}
	end := w.excuse(diedWith)
	defer end()
	if _, err := w.engine.docker(ctx, "rm", "--force", "--volumes", victim.ID); err != nil {
		return err
	}
	return w.settle(ctx)
}}

// victim returns a ready instance of a function that has another one.
func (w *world) victim(ctx context.Context) (orchestrator.Container, error) {
	if err := w.settle(ctx); err != nil {
		return orchestrator.Container{}, err
	}
	ids, err := w.warm(ctx)
	if err != nil {
		return orchestrator.Container{}, err
	}
	if len(ids) == 0 {
		return orchestrator.Container{}, fmt.Errorf("no function has a ready instance")
	}
	return w.docker.Inspect(ctx, ids[w.random.IntN(len(ids))])
}
