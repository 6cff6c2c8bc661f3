package main

import (
	"context"
	"os"
	"strings"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/jetstream"
	"github.com/kilnfaas/kiln/orchestrator/trigger"
	"github.com/kilnfaas/kiln/orchestrator/trigger/schedule"
	"github.com/kilnfaas/kiln/orchestrator/trigger/webhook"
)

// sources are the kinds of triggers by type. A new one is a line here and a
// folder below orchestrator/trigger.
func (d *daemon) sources() map[string]orchestrator.Source {
	return map[string]orchestrator.Source{
		schedule.Type: schedule.Source{Fleet: d.table},
		webhook.Type:  webhook.Source{Secret: d.secret},
	}
}

// secretVariable is how the gateway's environment names secrets for triggers:
// that of `github-hook` is KILN_SECRET_GITHUB_HOOK.
const secretVariable = "KILN_SECRET_"

// secret returns a secret for triggers.
func (d *daemon) secret(_ context.Context, _, name string) ([]byte, error) {
	variable := secretVariable + strings.ToUpper(strings.NewReplacer("-", "_", ".", "_").Replace(name))
	if value := os.Getenv(variable); value != "" {
		return []byte(value), nil
	}
	return nil, orchestrator.Errorf(orchestrator.ErrNotFound, "secret-unknown", "there is no secret %q for triggers", name).
		WithHint("start the gateway with it in %s", variable)
}

// openTriggers makes the engine of triggers, which the functions tell of theirs
// as they are loaded.
func (d *daemon) openTriggers(ctx context.Context) error {
	states, err := jetstream.NewTriggers(ctx, d.store.Server())
	if err != nil {
		return opening("the triggers", err)
	}
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
