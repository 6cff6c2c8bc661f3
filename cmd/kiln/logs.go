package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/kilnfaas/kiln/gateway/api"
)

// defaultTail is how many lines are shown when nothing is said: a screen or two.
const defaultTail = 100

func (t *tool) logsCommand() *cobra.Command {
	var (
		follow bool
		tail   string
		since  time.Duration
	)
	cmd := &cobra.Command{
		Use:   "logs NAME",
		Short: "Show what a function's instances print",
		Long: `Show what a function's instances print, with the time and the instance in
front. With -f it goes on, with instances that start later included, until it is
interrupted or the function is removed.`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: t.functionNames(false),
		RunE: func(cmd *cobra.Command, args []string) error {
			options := api.LogOptions{Follow: follow, Tail: -1}
			if tail != "all" {
				n, err := strconv.Atoi(tail)
				if err != nil || n < 0 {
					return usagef(cmd, "--tail is %q; it can be a number of lines or all", tail)
				}
				options.Tail = n
			}
			if since > 0 {
				options.Since = time.Now().Add(-since)
			}
			return t.showLogs(cmd, args[0], options)
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on until interrupted or the function is removed")
	cmd.Flags().StringVar(&tail, "tail", strconv.Itoa(defaultTail), "lines of the past to begin with, or all")
	cmd.Flags().DurationVar(&since, "since", 0, "only lines younger than this, for example 10m")
	return cmd
}

func (t *tool) showLogs(cmd *cobra.Command, name string, options api.LogOptions) error {
	client, err := t.client()
	if err != nil {
		return err
	}
	style, encoder := styleOf(t.out), json.NewEncoder(t.out)
	encoder.SetEscapeHTML(false)
	for line, err := range client.Logs(cmd.Context(), name, options) {
		if err != nil {
			var problem *api.Error
			switch {
			case options.Follow && errors.Is(err, cmd.Context().Err()):
				return nil // interrupted, as every follower ends
			case errors.As(err, &problem) && problem.Code == api.CodeFunctionRemoved:
				fmt.Fprintln(t.err, problem.Detail+": there is nothing more to follow")
				return nil
			}
			return err
		}
		if t.format == formatJSON {
			err = encoder.Encode(line)
		} else {
			_, err = fmt.Fprintln(t.out, logPrefix(style, line)+line.Text)
		}
		if err != nil {
			return fmt.Errorf("write the logs: %w", err)
		}
	}
	return nil
}

// instanceColours are those of a terminal that are readable on dark and light.
var instanceColours = []string{"36", "35", "34", "32", "33"}

// logPrefix is the time and the instance, in a colour that stays the instance's.
func logPrefix(s style, line api.LogLine) string {
	hash := fnv.New32a()
	hash.Write([]byte(line.Instance))
	colour := instanceColours[hash.Sum32()%uint32(len(instanceColours))]
	mark := "  "
	if line.Stream == api.Stderr {
		mark = s.red("! ")
	}
	return s.dim(line.Time.Local().Format("15:04:05.000")) + " " + s.wrap(colour, short(line.Instance)) + " " + mark
}
