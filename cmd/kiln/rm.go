package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/kilnfaas/kiln/gateway/api"
)

// removeTimeout bounds removing one function: its instances drain first.
const removeTimeout = 2 * time.Minute

func (t *tool) rmCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "rm NAME...",
		Aliases:           []string{"remove"},
		Short:             "Remove functions with their revisions, images and instances",
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: t.functionNames(true),
		RunE: func(cmd *cobra.Command, args []string) error {
			return t.removeEach(cmd, args, removeTimeout, (*api.Client).Remove)
		},
	}
}

// removeEach removes what has the names, one after the other, up to the first
// that fails; each may take as long as timeout.
func (t *tool) removeEach(cmd *cobra.Command, names []string, timeout time.Duration, remove func(*api.Client, context.Context, string) error) error {
	client, err := t.client()
	if err != nil {
		return err
	}
	for _, name := range names {
		ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
		err := remove(client, ctx, name)
		cancel()
		if err != nil {
			return err
		}
		if t.format == formatTable {
			fmt.Fprintf(t.out, "%s is removed\n", name)
		}
	}
	return nil
}
