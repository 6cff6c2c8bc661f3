package main

import (
	"context"
	"time"
)

// killGateway kills the gateway in the middle of deploys, calls and removals.
// The next one has to answer within gatewayUp, with the warm instances adopted.
var killGateway = fault{name: "gateway killed", full: 50, short: 3, inject: func(ctx context.Context, w *world) error {
	// A build and a start take about as long.
	if err := w.pause(ctx, w.between(0, 1500*time.Millisecond)); err != nil {
		return err
	}
	return w.restartGateway(ctx, nil)
}}

// restartGateway kills the gateway and starts it again, after something was done
// in between.
func (w *world) restartGateway(ctx context.Context, between func() error) error {
	before, err := w.warm(ctx)
	if err != nil {
		return err
	}
	machine, err := w.promptness(ctx)
	if err != nil {
		return err
	}
	end := w.excuse(noGateway)
	if err := w.gateway.kill(); err != nil {
		return err
	}
	if between != nil {
		if err := between(); err != nil {
			return err
		}
	}
	took, err := w.gateway.start(ctx)
	end()
	if err != nil {
		return err
	}
	if took > gatewayUp+machineSlack*machine {
		w.broken("the gateway answered %s after its start, later than %s; to start a process that asks the engine took %s",
			took.Round(time.Millisecond), gatewayUp, machine.Round(time.Millisecond))
	}
	w.slowestStart = max(w.slowestStart, took)
	after, err := w.instances(ctx) // whether or not they were called already
	if err != nil {
		return err
	}
	for _, id := range before {
		if !after[id] && w.alive(ctx, id) {
			w.broken("the warm instance %.12s was not adopted", id)
		}
	}
	return nil
}

// promptness returns how long this machine takes now to start a process that
// asks the engine something: a measure of what else it does.
func (w *world) promptness(ctx context.Context) (time.Duration, error) {
	began := time.Now()
	_, err := w.engine.docker(ctx, "version")
	return time.Since(began), err
}
