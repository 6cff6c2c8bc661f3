package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/kilnfaas/kiln/orchestrator"
)

const (
	// settleTime is how long Kiln may take until all is as it should be. A crash
	// loop is tried again after at most a minute.
	settleTime = 90 * time.Second
	// leftoverTime is for what nobody owns to go: it is noticed within 30 s and
	// has a minute's grace.
	leftoverTime = 120 * time.Second
)

// settle waits until the gateway is ready, each steady function has its
// instances and every function answers.
func (w *world) settle(ctx context.Context) error {
	began := time.Now()
	err := waitFor(ctx, "Kiln to be well again", settleTime, func() error {
		client, err := w.gateway.client()
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(ctx, controlTimeout)
		defer cancel()
		if err := client.Ready(ctx); err != nil {
			return err
		}
		for _, name := range w.steady {
			status, err := client.Instances(ctx, name)
			if err != nil {
				return err
			}
			if status.Ready < steady.min {
				return fmt.Errorf("%s has %d of %d instances ready", name, status.Ready, steady.min)
			}
		}
		for _, name := range append([]string{sleepyName}, w.steady...) {
			if _, err := w.liveVersion(name); err != nil {
				return err
			}
		}
		return nil
	})
	w.slowestBack = max(w.slowestBack, time.Since(began))
	return err
}

// liveVersion calls a function and returns its version; gone when there is none.
func (w *world) liveVersion(name string) (int, error) {
	conn := wire{address: w.gateway.address}
	defer conn.hangUp()
	status, body, err := conn.exchange(http.MethodGet, name, "look")
	switch {
	case err != nil:
		return 0, err
	case status == http.StatusNotFound:
		return gone, nil
	case status != http.StatusOK:
		return 0, fmt.Errorf("%s answers %d: %.200s", name, status, body)
	}
	return versionOf(body)
}

// warm returns the ready instances of the steady functions.
func (w *world) warm(ctx context.Context) ([]string, error) {
	client, err := w.gateway.client()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, controlTimeout)
	defer cancel()
	var ids []string
	for _, name := range w.steady {
		status, err := client.Instances(ctx, name)
		if err != nil {
			return nil, err
		}
		for _, i := range status.Instances {
			if i.State == "ready" {
				ids = append(ids, i.ID)
			}
		}
	}
	return ids, nil
}

// functionOf returns the function whose instance a container is.
func (w *world) functionOf(ctx context.Context, id string) string {
	client, err := w.gateway.client()
	if err != nil {
		return ""
	}
	for _, name := range w.steady {
		status, err := client.Instances(ctx, name)
		if err == nil && slices.ContainsFunc(status.Instances, func(i orchestrator.InstanceStatus) bool { return i.ID == id }) {
			return name
		}
	}
	return ""
}

// alive says whether a container runs.
func (w *world) alive(ctx context.Context, id string) bool {
	c, err := w.docker.Inspect(ctx, id)
	return err == nil && c.State != orchestrator.ContainerExited
}

// instances returns all that Kiln counts as instances.
func (w *world) instances(ctx context.Context) (map[string]bool, error) {
	client, err := w.gateway.client()
	if err != nil {
		return nil, err
	}
	functions, err := client.Functions(ctx)
	if err != nil {
		return nil, err
	}
	known := map[string]bool{}
	for _, f := range functions {
		status, err := client.Instances(ctx, f.Name)
		if errors.Is(err, orchestrator.ErrNotFound) {
			continue // removed meanwhile
		}
		if err != nil {
			return nil, err
		}
		for _, i := range status.Instances {
			known[i.ID] = true
		}
	}
	return known, nil
}

func (w *world) isInstance(ctx context.Context, id string) bool {
	known, err := w.instances(ctx)
	return err == nil && known[id]
}

// leftovers returns what the engine has and Kiln does not count on.
func (w *world) leftovers(ctx context.Context) ([]string, error) {
	known, err := w.instances(ctx)
	if err != nil {
		return nil, err
	}
	containers, err := w.docker.List(ctx, w.labels())
	if err != nil {
		return nil, err
	}
	var left []string
	for _, c := range containers {
		cell := c.Labels[orchestrator.LabelKind] == orchestrator.KindCell
		if c.State == orchestrator.ContainerExited || !cell && !known[c.ID] {
			left = append(left, fmt.Sprintf("container %s (%s)", c.Name, c.State))
		}
	}
	networks, err := w.engine.list(ctx, "network", "ls", "--filter", w.filter(), "--format", "network {{.Name}}")
	if err != nil {
		return nil, err
	}
	left = append(left, slices.DeleteFunc(networks, func(n string) bool { return n == "network "+w.gateway.network })...)
	volumes, err := w.engine.list(ctx, "volume", "ls", "--filter", w.filter(), "--format", "volume {{.Name}}")
	return append(left, volumes...), err
}

// audit compares what was acknowledged with what is there. It returns how many
// changes were lost and what is left over after reconciliation.
func (w *world) audit(ctx context.Context) (lost, left []string, err error) {
	for _, name := range w.ledger.all() {
		var version int
		err := waitFor(ctx, name+" to answer", settleTime, func() (err error) {
			version, err = w.liveVersion(name)
			return err
		})
		if err == nil {
			err = w.ledger.seen(name, version)
		}
		if err != nil {
			lost = append(lost, err.Error())
		}
	}
	if w.o.short {
		return lost, nil, nil // a container that came too late for the first pass has a minute's grace: see clear
	}
	err = waitFor(ctx, "leftovers to go", leftoverTime, func() (err error) {
		if left, err = w.leftovers(ctx); err == nil && len(left) > 0 {
			err = errors.New(strings.Join(left, ", "))
		}
		return err
	})
	if len(left) > 0 {
		err = nil // they are told as such
	}
	return lost, left, err
}

// clear removes all functions and starts the gateway once more; nothing may be
// left then: no container, no image of a function, no revision.
func (w *world) clear(ctx context.Context) (left []string, err error) {
	client, err := w.gateway.client()
	if err != nil {
		return nil, err
	}
	functions, err := client.Functions(ctx)
	if err != nil {
		return nil, err
	}
	for _, f := range functions {
		if err := client.Remove(ctx, f.Name); err != nil && !errors.Is(err, orchestrator.ErrNotFound) {
			return nil, fmt.Errorf("remove %s: %w", f.Name, err)
		}
	}
	w.steady = nil
	if err := w.gateway.stop(); err != nil {
		return nil, err
	}
	if _, err := w.gateway.start(ctx); err != nil {
		return nil, err
	}
	err = waitFor(ctx, "everything to go", leftoverTime, func() (err error) {
		if left, err = w.remains(ctx); err == nil && len(left) > 0 {
			err = errors.New(strings.Join(left, ", "))
		}
		return err
	})
	if len(left) > 0 {
		err = nil
	}
	return left, err
}

// remains returns what there is of functions when there are none.
func (w *world) remains(ctx context.Context) ([]string, error) {
	left, err := w.leftovers(ctx)
	if err != nil {
		return nil, err
	}
	containers, err := w.engine.list(ctx, "ps", "--all", "--filter", w.filter(), "--format", "container {{.Names}} {{.Status}}")
	if err != nil {
		return nil, err
	}
	images, err := w.engine.list(ctx, "images", "--filter", w.filter(), "--filter", "label=dev.kiln.kind=image", "--format", "image {{.Repository}}:{{.Tag}} {{.ID}}")
	return append(append(left, containers...), images...), err
}
