package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"
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

// functionNames completes the first argument, or with many every argument.
func (t *tool) functionNames(many bool) completer {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		client, err := t.client()
		if err != nil || (len(args) > 0 && !many) {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), completionTimeout)
		defer cancel()
		functions, err := client.Functions(ctx)
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		var names []string
		for _, f := range functions {
			names = append(names, f.Name+"\t"+f.Spec.Template)
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

// functionThenRevision completes a name and then one of its revisions.
func (t *tool) functionThenRevision(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
	if len(args) == 0 {
		return t.functionNames(false)(cmd, args, typed)
	}
	client, err := t.client()
	if err != nil || len(args) > 1 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), completionTimeout)
	defer cancel()
	revisions, err := client.Revisions(ctx, args[0])
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	var ids []string
	for _, r := range revisions {
		ids = append(ids, fmt.Sprintf("%s\t%s", r.ID, r.Status))
	}
	return ids, cobra.ShellCompDirectiveNoFileComp
}

// templateNames completes the name of a template.
func (t *tool) templateNames(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	client, err := t.client()
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), completionTimeout)
	defer cancel()
	templates, err := client.Templates(ctx)
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	var names []string
	for _, template := range templates {
		names = append(names, template.Name+"\t"+template.Description)
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}
