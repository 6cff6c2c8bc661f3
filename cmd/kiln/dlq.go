package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/kilnfaas/kiln/gateway/api"
	"github.com/kilnfaas/kiln/orchestrator"
)

func (t *tool) dlqCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "dlq",
		Aliases: []string{"dead-letters"},
		Short:   "Look at dead letters: asynchronous calls that failed for good",
		Long: `Look at dead letters: asynchronous calls that failed with all of their attempts,
or with an error that trying again cannot mend. Each is kept with its body and the
errors of its attempts, until it is replayed or dropped.`,
		Example: `  kiln dlq ls hello
  kiln dlq replay hello
  kiln dlq drop hello 0198c0de-1111-7222-8333-444455556666`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	addBelow(cmd, t.dlqLs(), t.dlqReplay(), t.dlqDrop())
	return cmd
}

func (t *tool) dlqLs() *cobra.Command {
	var filter api.InvocationFilter
	cmd := &cobra.Command{
		Use:               "ls NAME",
		Short:             "List the dead letters of a function, newest first",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: t.functionNames(false),
		RunE: func(cmd *cobra.Command, args []string) error {
			return t.withClient(cmd, func(ctx context.Context, client *api.Client) error {
				found, err := client.DeadLetters(ctx, args[0], filter)
				if err != nil {
					return err
				}
				return t.showInvocations(found)
			})
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&filter.Before, "before", "", "only those before this id, for the next page")
	flags.IntVar(&filter.Limit, "limit", 0, "at most so many (default 100)")
	return cmd
}

func (t *tool) dlqReplay() *cobra.Command {
	return &cobra.Command{
		Use:   "replay NAME [ID...]",
		Short: "Have dead letters tried again: the named ones, or all",
		Args:  cobra.MinimumNArgs(1),
		Example: `  kiln dlq replay hello
  kiln dlq replay hello 0198c0de-1111-7222-8333-444455556666`,
		ValidArgsFunction: t.functionThenDeadLetter,
		RunE: func(cmd *cobra.Command, args []string) error {
			return t.deadLetters(cmd, args, "tried again", (*api.Client).ReplayDeadLetters)
		},
	}
}

func (t *tool) dlqDrop() *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:               "drop NAME [ID...]",
		Short:             "Forget dead letters: the named ones, or --all",
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: t.functionThenDeadLetter,
		RunE: func(cmd *cobra.Command, args []string) error {
			if all == (len(args) > 1) {
				return usagef(cmd, "name the dead letters to drop, or give --all")
			}
			return t.deadLetters(cmd, args, "dropped", (*api.Client).DropDeadLetters)
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "all of the function")
	return cmd
}

// deadLetters does something to the dead letters of a function and says to how
// many.
func (t *tool) deadLetters(cmd *cobra.Command, args []string, said string, act func(*api.Client, context.Context, string, []string) (api.DeadLettersDone, error)) error {
	return t.withClient(cmd, func(ctx context.Context, client *api.Client) error {
		done, err := act(client, ctx, args[0], args[1:])
		switch {
		case err != nil:
			return err
		case t.format == formatJSON:
			return t.writeJSON(done)
		case done.Count == 1:
			fmt.Fprintf(t.out, "1 dead letter of %s is %s\n", args[0], said)
		default:
			fmt.Fprintf(t.out, "%d dead letters of %s are %s\n", done.Count, args[0], said)
		}
		return nil
	})
}

// functionThenDeadLetter completes a name and then the dead letters of it.
func (t *tool) functionThenDeadLetter(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
	if len(args) == 0 {
		return t.functionNames(false)(cmd, args, typed)
	}
	return t.invocationIDs(api.InvocationFilter{Function: args[0], Status: orchestrator.InvocationFailed})(cmd, args, typed)
}
