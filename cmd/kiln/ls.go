package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/kilnfaas/kiln/gateway/api"
)

func (t *tool) lsCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "List the functions, and what runs of them",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return t.withClient(cmd, func(ctx context.Context, client *api.Client) error {
				functions, err := client.Functions(ctx)
				if err != nil {
					return err
				}
				if t.format == formatJSON {
					return t.writeJSON(api.FunctionList{Functions: functions})
				}
				if len(functions) == 0 {
					fmt.Fprintln(t.out, "No functions yet. Next:  kiln new hello --template python && kiln deploy hello")
					return nil
				}
				now := time.Now()
				rows := newTable("NAME", "TEMPLATE", "REVISION", "INSTANCES", "UPDATED")
				for _, f := range functions {
					rows.add(f.Name, f.Spec.Template, firstOf(f.Live, "none live"), running(f.Status), ago(f.UpdatedAt, now))
				}
				return rows.write(t.out)
			})
		},
	}
}
