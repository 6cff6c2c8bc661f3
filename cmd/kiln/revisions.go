package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/kilnfaas/kiln/gateway/api"
)

func (t *tool) revisionsCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "revisions NAME",
		Short:             "List a function's revisions, newest first",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: t.functionNames(false),
		RunE: func(cmd *cobra.Command, args []string) error {
			return t.withClient(cmd, func(ctx context.Context, client *api.Client) error {
				revisions, err := client.Revisions(ctx, args[0])
				if err != nil {
					return err
				}
				if t.format == formatJSON {
					return t.writeJSON(api.RevisionList{Revisions: revisions})
				}
				now := time.Now()
				rows := newTable("REVISION", "STATUS", "CREATED", "ERROR")
				for _, r := range revisions {
					status := string(r.Status)
					if r.Live {
						status = "live"
					}
					rows.add(r.ID, status, ago(r.CreatedAt, now), firstLine(r.Error))
				}
				return rows.write(t.out)
			})
		},
	}
}
