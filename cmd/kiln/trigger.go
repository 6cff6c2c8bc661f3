package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/kilnfaas/kiln/gateway/api"
	"github.com/kilnfaas/kiln/orchestrator"
)

func (t *tool) triggersCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "triggers",
		Aliases: []string{"trigger"},
		Short:   "Look at what invokes functions besides callers, pause and resume it",
		Long: `Look at the triggers of functions: schedules, webhooks and others. They are part
of a function's settings (triggers: in function.yaml); each event they bring is an
asynchronous call of the function, with its retries and dead letters.`,
		Example: `  kiln triggers ls
  kiln triggers describe report nightly
  kiln triggers test report nightly --wait 30s
  kiln triggers pause report nightly`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	addBelow(cmd, t.triggersLs(), t.triggersDescribe(), t.triggersTest(),
		t.triggersChange("pause", "Let a trigger rest until it is resumed", "is paused", (*api.Client).PauseTrigger),
		t.triggersChange("resume", "Let a paused trigger go on where it was", "goes on", (*api.Client).ResumeTrigger))
	return cmd
}

func (t *tool) triggersLs() *cobra.Command {
	return &cobra.Command{
		Use:               "ls [NAME]",
		Short:             "List the triggers of a function, or of all",
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: t.functionNames(false),
		RunE: func(cmd *cobra.Command, args []string) error {
			return t.withClient(cmd, func(ctx context.Context, client *api.Client) error {
				found, err := client.Triggers(ctx, firstOf(args...))
				if err != nil {
					return err
				}
				if t.format == formatJSON {
					return t.writeJSON(api.TriggerList{Triggers: found})
				}
				now := time.Now()
				rows := newTable("FUNCTION", "TRIGGER", "TYPE", "STATE", "EVENTS", "LAG", "LAST", "NEXT", "ERROR")
				for _, s := range found {
					rows.add(s.Function, s.Trigger.Name, s.Trigger.Type, string(s.Phase), strconv.FormatUint(s.Delivered, 10), lagOf(s),
						ago(s.LastEventAt, now), nextOf(s, now), currentError(s))
				}
				return rows.write(t.out)
			})
		},
	}
}

// lagOf says how far a trigger is behind.
func lagOf(s orchestrator.TriggerStatus) string {
	switch {
	case s.Pending > 0 && s.Lag > 0:
		return fmt.Sprintf("%d, %s", s.Pending, span(time.Duration(s.Lag)))
	case s.Pending > 0:
		return strconv.FormatInt(s.Pending, 10)
	case s.Lag > 0:
		return span(time.Duration(s.Lag))
	}
	return "none"
}

// nextOf says when the next event is expected.
func nextOf(s orchestrator.TriggerStatus, now time.Time) string {
	if s.Next.IsZero() || s.Phase == orchestrator.TriggerPaused {
		return "-"
	}
	return until(s.Next, now)
}

// currentError is the error that is not over.
func currentError(s orchestrator.TriggerStatus) string {
	if !s.Failing {
		return ""
	}
	return firstLine(s.LastError)
}

func (t *tool) triggersDescribe() *cobra.Command {
	return &cobra.Command{
		Use:               "describe NAME TRIGGER",
		Short:             "Show a trigger's settings and how it does",
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: t.functionThen(t.triggerNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			return t.withClient(cmd, func(ctx context.Context, client *api.Client) error {
				s, err := client.Trigger(ctx, args[0], args[1])
				if err != nil {
					return err
				}
				if t.format == formatJSON {
					return t.writeJSON(s)
				}
				return t.describeTrigger(s, client.BaseURL, time.Now())
			})
		},
	}
}

func (t *tool) describeTrigger(s orchestrator.TriggerStatus, gateway string, now time.Time) error {
	say := func(name, format string, args ...any) {
		fmt.Fprintf(t.out, "%-12s %s\n", name, fmt.Sprintf(format, args...))
	}
	say("trigger", "%s of %s", s.Trigger.Name, s.Function)
	say("type", "%s", s.Trigger.Type)
	for _, key := range slices.Sorted(maps.Keys(s.Trigger.Settings)) {
		value, ok := s.Trigger.Settings[key].(string)
		if !ok {
			encoded, err := json.Marshal(s.Trigger.Settings[key])
			if err != nil {
				return err
			}
			value = string(encoded)
		}
		say("  "+key, "%s", value)
	}
	switch {
	case s.Phase == orchestrator.TriggerPaused && !s.Paused.IsZero():
		say("state", "paused %s", ago(s.Paused, now))
	case s.Phase == orchestrator.TriggerRetrying:
		say("state", "tried again %s", until(s.RetryAt, now))
	default:
		say("state", "%s", s.Phase)
	}
	if s.Address != "" {
		say("address", "%s%s", gateway, s.Address)
	}
	say("events", "%d delivered, %d replayed, %d dropped", s.Delivered, s.Replayed, s.Dropped)
	say("last event", "%s%s", ago(s.LastEventAt, now), parenthesis(s.LastEventID))
	if !s.Next.IsZero() {
		say("next event", "%s, %s", nextOf(s, now), s.Next.Format(time.RFC3339))
	}
	say("lag", "%s", lagOf(s))
	if s.LastError != "" {
		over := ""
		if !s.Failing {
			over = ", over"
		}
		say("last error", "%s (%s%s)", firstLine(s.LastError), ago(s.LastErrorAt, now), over)
	}
	return nil
}

func (t *tool) triggersChange(verb, short, said string, act func(*api.Client, context.Context, string, string) (orchestrator.TriggerStatus, error)) *cobra.Command {
	return &cobra.Command{
		Use:               verb + " NAME TRIGGER",
		Short:             short,
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: t.functionThen(t.triggerNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			return t.withClient(cmd, func(ctx context.Context, client *api.Client) error {
				s, err := act(client, ctx, args[0], args[1])
				switch {
				case err != nil:
					return err
				case t.format == formatJSON:
					return t.writeJSON(s)
				}
				fmt.Fprintf(t.out, "%s of %s %s\n", s.Trigger.Name, s.Function, said)
				return nil
			})
		},
	}
}

func (t *tool) triggersTest() *cobra.Command {
	var wait time.Duration
	cmd := &cobra.Command{
		Use:   "test NAME TRIGGER",
		Short: "Send the function an event as the trigger would deliver it",
		Long: `Send the function an event as the trigger would deliver it, and print the id of
its invocation; with --wait what became of it. It also works while the trigger is
paused.`,
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: t.functionThen(t.triggerNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := t.client()
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), callTimeout)
			defer cancel()
			inv, err := client.TestTrigger(ctx, args[0], args[1])
			if err == nil && wait > 0 {
				inv, err = awaitInvocation(cmd.Context(), client, inv.ID, wait)
			}
			switch {
			case err != nil:
				return err
			case wait == 0 && t.format == formatTable:
				fmt.Fprintln(t.out, inv.ID)
				return nil
			}
			return t.showOutcome(inv)
		},
	}
	cmd.Flags().DurationVar(&wait, "wait", 0, "wait for the end of the call, at most so long")
	return cmd
}
