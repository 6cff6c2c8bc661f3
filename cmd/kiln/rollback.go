package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"
)

// rollbackTimeout bounds a rollback: an instance is proven ready first, and an
// image that somebody deleted is built again.
const rollbackTimeout = 10 * time.Minute

func (t *tool) rollbackCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "rollback NAME [REVISION]",
		Short: "Make an earlier revision live again",
		Long: `Make an earlier revision live again, with the settings it had. Without a
revision it is the one before the live one. A number (7) or the id (r7-3fa9c1)
names a revision; kiln revisions shows them.`,
		Args:              cobra.RangeArgs(1, 2),
		ValidArgsFunction: t.functionThen(t.revisionIDs),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := t.client()
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), rollbackTimeout)
			defer cancel()
			revision := ""
			if len(args) == 2 {
				revision = args[1]
			}
			d, err := client.Rollback(ctx, args[0], revision)
			if err != nil {
				return err
			}
			if t.format == formatJSON {
				return t.writeJSON(d)
			}
			fmt.Fprintf(t.out, "%s answers with %s again\n", args[0], d.Revision.ID)
			return nil
		},
	}
}
