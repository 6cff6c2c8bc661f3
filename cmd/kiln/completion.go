package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/kilnfaas/kiln/gateway/api"
	"github.com/kilnfaas/kiln/orchestrator"
)

// completionTimeout is how long a person pressing Tab waits.
const completionTimeout = 2 * time.Second

// completer is what cobra asks for candidates.
type completer = func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective)

// complete registers a completion of a flag.
func complete(cmd *cobra.Command, flag string, f completer) {
	if err := cmd.RegisterFlagCompletionFunc(flag, f); err != nil {
		panic(fmt.Sprintf("completion of --%s: %v", flag, err)) // a flag that does not exist
	}
}

// candidates completes with what the gateway lists: each with a word and, if it is
// not empty, what to say of it.
func candidates[T any](t *tool, cmd *cobra.Command, list func(*api.Client, context.Context) ([]T, error), tell func(T) (word, about string)) ([]string, cobra.ShellCompDirective) {
	client, err := t.client()
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), completionTimeout)
	defer cancel()
	found, err := list(client, ctx)
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	var words []string
	for _, one := range found {
		word, about := tell(one)
		if about != "" {
			word += "\t" + about
		}
		words = append(words, word)
	}
	return words, cobra.ShellCompDirectiveNoFileComp
}

// functionNames completes the first argument, or with many every argument.
func (t *tool) functionNames(many bool) completer {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 && !many {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return candidates(t, cmd, (*api.Client).Functions, func(f api.Function) (string, string) { return f.Name, f.Spec.Template })
	}
}

// functionThen completes a name and then, once, something of that function.
func (t *tool) functionThen(of func(cmd *cobra.Command, function string) ([]string, cobra.ShellCompDirective)) completer {
	return func(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
		switch len(args) {
		case 0:
			return t.functionNames(false)(cmd, args, typed)
		case 1:
			return of(cmd, args[0])
		}
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
}

// revisionIDs completes revisions of a function.
func (t *tool) revisionIDs(cmd *cobra.Command, function string) ([]string, cobra.ShellCompDirective) {
	list := func(client *api.Client, ctx context.Context) ([]api.Revision, error) {
		return client.Revisions(ctx, function)
	}
	return candidates(t, cmd, list, func(r api.Revision) (string, string) { return r.ID, string(r.Status) })
}

// triggerNames completes triggers of a function.
func (t *tool) triggerNames(cmd *cobra.Command, function string) ([]string, cobra.ShellCompDirective) {
	list := func(client *api.Client, ctx context.Context) ([]orchestrator.TriggerStatus, error) {
		return client.Triggers(ctx, function)
	}
	return candidates(t, cmd, list, func(s orchestrator.TriggerStatus) (string, string) { return s.Trigger.Name, s.Trigger.Type })
}

// templateNames completes the name of a template.
func (t *tool) templateNames(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	return candidates(t, cmd, (*api.Client).Templates, func(t orchestrator.Template) (string, string) { return t.Name, t.Description })
}
