package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/kilnfaas/kiln/orchestrator"
)

// configureTimeout bounds a change of settings: one that instances are made
// with starts and proves one.
const configureTimeout = 5 * time.Minute

func (t *tool) scaleCommand() *cobra.Command {
	var o overrides
	cmd := &cobra.Command{
		Use:   "scale NAME [--min N] [--max N] [--concurrency N] [--freeze-after D] [--keep-alive D]",
		Short: "Say how many instances a function has, and for how long",
		Long: `Change how many instances a function has and how long they stay. Without flags
it shows what is set. The change holds until the next deploy says otherwise.`,
		Example: `  kiln scale hello --min 1          always one warm
  kiln scale hello --max 20         at most twenty
  kiln scale hello --min 0 --keep-alive 30s`,
		Args:                  cobra.ExactArgs(1),
		ValidArgsFunction:     t.functionNames(false),
		DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			patch, err := o.patch(cmd)
			if err != nil {
				return err
			}
			client, err := t.client()
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), configureTimeout)
			defer cancel()
			f, err := client.Function(ctx, args[0])
			if err != nil {
				return err
			}
			if len(patch) > 0 {
				d, err := client.Configure(ctx, args[0], patch)
				if err != nil {
					return err
				}
				f = d.Function
			}
			if t.format == formatJSON {
				return t.writeJSON(f)
			}
			fmt.Fprintf(t.out, "%s: %s; %s\n", f.Name, describeScale(f.Spec), running(f.Status))
			return nil
		},
	}
	o.scaleFlags(cmd)
	return cmd
}

func describeScale(s orchestrator.Spec) string {
	return fmt.Sprintf("%d to %d instances of %d slots, frozen after %s, removed after %s",
		s.Scale.Min, s.Scale.Max, s.Concurrency, orNever(s.Scale.FreezeAfter), s.Scale.KeepAlive)
}
