package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/kilnfaas/kiln/gateway/api"
	"github.com/kilnfaas/kiln/orchestrator"
)

// pollWait is how long one request of `kiln invocations get --wait` waits; it
// asks again until its time is over.
const pollWait = 30 * time.Second

func (t *tool) invocationsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "invocations",
		Aliases: []string{"invocation", "inv"},
		Short:   "Look at asynchronous calls, have them tried again, end them",
		Long: `Look at the calls that kiln invoke --async and POST /async/NAME queued. Results
are kept for an hour unless the gateway is told otherwise; calls that failed for
good are dead letters (kiln dlq) and are kept until somebody decides.`,
		Example: `  kiln invocations ls hello --status waiting
  kiln invocations get 0198c0de-1111-7222-8333-444455556666 --wait 30s
  kiln invocations retry 0198c0de-1111-7222-8333-444455556666`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	addBelow(cmd, t.invocationsLs(), t.invocationsGet(), t.invocationsRetry(), t.invocationsCancel())
	return cmd
}

func (t *tool) invocationsLs() *cobra.Command {
	var filter api.InvocationFilter
	var status string
	cmd := &cobra.Command{
		Use:               "ls [NAME]",
		Short:             "List asynchronous calls, newest first",
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: t.functionNames(false),
		RunE: func(cmd *cobra.Command, args []string) error {
			filter.Status = orchestrator.InvocationStatus(status)
			if len(args) == 1 {
				filter.Function = args[0]
			}
			return t.withClient(cmd, func(ctx context.Context, client *api.Client) error {
				found, err := client.Invocations(ctx, filter)
				if err != nil {
					return err
				}
				return t.showInvocations(found)
			})
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&status, "status", "", "only those that are waiting, running, succeeded, failed or canceled")
	flags.StringVar(&filter.Before, "before", "", "only those before this id, for the next page")
	flags.IntVar(&filter.Limit, "limit", 0, "at most so many (default 100)")
	complete(cmd, "status", cobra.FixedCompletions([]string{"waiting", "running", "succeeded", "failed", "canceled"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func (t *tool) invocationsGet() *cobra.Command {
	var wait time.Duration
	cmd := &cobra.Command{
		Use:   "get ID",
		Short: "Tell what became of an asynchronous call",
		Long: `Tell what became of an asynchronous call, with its attempts and its result. With
--wait it waits that long for the end. A call that failed gives the exit code 1.`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: t.invocationIDs(api.InvocationFilter{}),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := t.client()
			if err != nil {
				return err
			}
			inv, err := awaitInvocation(cmd.Context(), client, args[0], wait)
			if err != nil {
				return err
			}
			return t.showOutcome(inv)
		},
	}
	cmd.Flags().DurationVar(&wait, "wait", 0, "wait for the end of the call, at most so long")
	return cmd
}

// awaitInvocation returns an invocation once it has ended, or as it is after wait.
func awaitInvocation(ctx context.Context, client *api.Client, id string, wait time.Duration) (api.AsyncInvocation, error) {
	for end := time.Now().Add(wait); ; {
		step := min(max(0, time.Until(end)), pollWait)
		bounded, cancel := context.WithTimeout(ctx, step+callTimeout)
		inv, err := client.Invocation(bounded, id, step)
		cancel()
		if err == nil && inv.Next != "" { // of a sequence the last result counts
			id = inv.Next
			continue
		}
		if err != nil || inv.Status.Ended() || !time.Now().Before(end) {
			return inv, err
		}
	}
}

func (t *tool) invocationsRetry() *cobra.Command {
	return &cobra.Command{
		Use:   "retry ID...",
		Short: "Have asynchronous calls tried again",
		Long: `Have asynchronous calls tried again: one that failed or was canceled with all of
its attempts before it, one that waits for its next attempt at once.`,
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: t.invocationIDs(api.InvocationFilter{}),
		RunE: func(cmd *cobra.Command, args []string) error {
			return t.eachInvocation(cmd, args, "is tried again", (*api.Client).RetryInvocation)
		},
	}
}

func (t *tool) invocationsCancel() *cobra.Command {
	return &cobra.Command{
		Use:               "cancel ID...",
		Short:             "End asynchronous calls that have not ended",
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: t.invocationIDs(api.InvocationFilter{}),
		RunE: func(cmd *cobra.Command, args []string) error {
			return t.eachInvocation(cmd, args, "", (*api.Client).CancelInvocation)
		},
	}
}

// eachInvocation does something to each and says what it is then.
func (t *tool) eachInvocation(cmd *cobra.Command, ids []string, said string, act func(*api.Client, context.Context, string) (api.AsyncInvocation, error)) error {
	return t.withClient(cmd, func(ctx context.Context, client *api.Client) error {
		list := api.InvocationList{Invocations: []api.AsyncInvocation{}}
		for _, id := range ids {
			inv, err := act(client, ctx, id)
			if err != nil {
				return err
			}
			list.Invocations = append(list.Invocations, inv)
			if t.format == formatTable {
				fmt.Fprintf(t.out, "%s %s\n", inv.ID, firstOf(said, "is "+string(inv.Status)))
			}
		}
		if t.format == formatJSON {
			return t.writeJSON(list)
		}
		return nil
	})
}

// invocationIDs completes ids of invocations.
func (t *tool) invocationIDs(filter api.InvocationFilter) completer {
	list := func(client *api.Client, ctx context.Context) ([]api.AsyncInvocation, error) {
		return client.Invocations(ctx, filter)
	}
	return func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		return candidates(t, cmd, list, func(inv api.AsyncInvocation) (string, string) {
			return inv.ID, fmt.Sprintf("%s, %s", inv.Function, inv.Status)
		})
	}
}

// showInvocations prints a list.
func (t *tool) showInvocations(found []api.AsyncInvocation) error {
	if t.format == formatJSON {
		return t.writeJSON(api.InvocationList{Invocations: found})
	}
	now := time.Now()
	rows := newTable("INVOCATION", "FUNCTION", "STATUS", "TRIES", "CREATED", "ERROR")
	for _, inv := range found {
		function := inv.Function
		if inv.Target != "" {
			function += " > " + inv.Target
		}
		rows.add(inv.ID, function, string(inv.Status), strconv.Itoa(inv.Tries), ago(inv.CreatedAt, now), firstLine(lastError(inv)))
	}
	return rows.write(t.out)
}

// lastError is why an invocation failed, or is tried again.
func lastError(inv api.AsyncInvocation) string {
	if inv.Error != "" || len(inv.Attempts) == 0 || inv.Status == orchestrator.InvocationSucceeded {
		return inv.Error
	}
	return inv.Attempts[len(inv.Attempts)-1].Error
}

// showOutcome is showInvocation, and an error when the call failed for good.
func (t *tool) showOutcome(inv api.AsyncInvocation) error {
	if err := t.showInvocation(inv); err != nil {
		return err
	}
	if inv.Status == orchestrator.InvocationFailed {
		return errShown
	}
	return nil
}

// showInvocation prints everything about one.
func (t *tool) showInvocation(inv api.AsyncInvocation) error {
	if t.format == formatJSON {
		return t.writeJSON(inv)
	}
	now := time.Now()
	say := func(name, format string, args ...any) {
		fmt.Fprintf(t.out, "%-12s %s\n", name, fmt.Sprintf(format, args...))
	}
	say("invocation", "%s", inv.ID)
	say("function", "%s", inv.Function)
	if inv.Target != "" {
		say("target", "%s", inv.Target)
	}
	if len(inv.Then) > 0 {
		say("then", "%s%s", strings.Join(inv.Then, ", "), parenthesis(inv.Next))
	}
	say("status", "%s", inv.Status)
	if inv.Error != "" {
		say("error", "%s", inv.Error)
	}
	say("created", "%s", ago(inv.CreatedAt, now))
	if inv.NextAt.After(now) {
		say("next", "in %s", span(inv.NextAt.Sub(now)))
	}
	if len(inv.Attempts) > 0 {
		fmt.Fprintln(t.out)
		rows := newTable("ATTEMPT", "STARTED", "TOOK", "STATUS", "REVISION", "ERROR")
		for i, a := range inv.Attempts {
			status := "none"
			if a.Status > 0 {
				status = strconv.Itoa(a.Status)
			}
			rows.add(strconv.Itoa(i+1), ago(a.StartedAt, now), span(time.Duration(a.Duration)), status, firstOf(a.Revision, "none"), firstLine(a.Error))
		}
		if err := rows.write(t.out); err != nil {
			return err
		}
	}
	if inv.Result == nil {
		return nil
	}
	switch {
	case inv.Body != "":
		fmt.Fprintf(t.out, "\n%s\n", inv.Body)
	case len(inv.BodyBase64) > 0:
		fmt.Fprintf(t.out, "\n%d bytes that are not text; -o json has them\n", len(inv.BodyBase64))
	}
	return nil
}
