package main

import (
	"context"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/jetstream"
	"github.com/kilnfaas/kiln/orchestrator/trigger"
	"github.com/kilnfaas/kiln/orchestrator/trigger/nats"
	"github.com/kilnfaas/kiln/orchestrator/trigger/object"
	"github.com/kilnfaas/kiln/orchestrator/trigger/postgres"
	"github.com/kilnfaas/kiln/orchestrator/trigger/schedule"
	"github.com/kilnfaas/kiln/orchestrator/trigger/webhook"
)

// sources are the kinds of triggers by type. A new one is a line here and a
// folder below orchestrator/trigger.
func (d *daemon) sources() map[string]orchestrator.Source {
	server := d.store.Server()
	return map[string]orchestrator.Source{
		object.Type:   object.Source{Buckets: d.buckets},
		schedule.Type: schedule.Source{Fleet: d.table},
		webhook.Type:  webhook.Source{Secret: d.secret},
		postgres.Type: postgres.Source{Secret: d.secret, Logger: d.logger},
		nats.Type:     nats.Source{Home: server.Dial, Private: server.Private, Secret: d.secret, Logger: d.logger},
	}
}

// secret returns a secret for the triggers of a function.
func (d *daemon) secret(_ context.Context, function, name string) ([]byte, error) {
	values, err := d.vault.Values(function, []string{name})
	return values[name], err
}

// openTriggers makes the engine of triggers, which the functions tell of theirs
// as they are loaded.
func (d *daemon) openTriggers(ctx context.Context) error {
	states, err := jetstream.NewTriggers(ctx, d.store.Server())
	if err != nil {
		return opening("the triggers", err)
	}
	if d.buckets, err = jetstream.NewBuckets(ctx, d.store.Server()); err != nil {
		return opening("the buckets", err)
	}
	d.closers.add(d.buckets.Close)
	d.triggers = trigger.New(trigger.Config{Sources: d.sources(), Store: states, Logger: d.logger})
	return nil
}

// runTriggers begins to run them. They end before the queue that they fill.
func (d *daemon) runTriggers(ctx context.Context) error {
	if err := d.triggers.Open(ctx, d.queue); err != nil {
		return opening("the triggers", err)
	}
	d.closers.add(d.triggers.Close)
	return nil
}
