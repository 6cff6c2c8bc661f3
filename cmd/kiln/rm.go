package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"
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
			client, err := t.client()
			if err != nil {
				return err
			}
			for _, name := range args {
				ctx, cancel := context.WithTimeout(cmd.Context(), removeTimeout)
				err := client.Remove(ctx, name)
				cancel()
				if err != nil {
					return err
				}
				if t.format == formatTable {
					fmt.Fprintf(t.out, "%s is removed\n", name)
				}
			}
			return nil
		},
	}
}
