package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/kilnfaas/kiln/gateway/api"
	"github.com/kilnfaas/kiln/orchestrator"
)

// rollTimeout bounds setting a secret: the functions that use it start anew, and
// may have to wait for memory.
const rollTimeout = 6 * time.Minute

func (t *tool) secretCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "secret",
		Short: "Keep what functions need and nobody else may see",
		Long: `Set, list and remove secrets. A function that names a secret in its function.yaml
finds it in a file, /run/secrets/NAME. Nothing shows the value again: not this
command, not the gateway, not the container engine.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	addTo(cmd, "", t.secretSetCommand(), t.secretLsCommand(), t.secretRmCommand())
	return cmd
}

func (t *tool) secretSetCommand() *cobra.Command {
	var functions []string
	cmd := &cobra.Command{
		Use:   "set NAME [VALUE|@FILE|-]",
		Short: "Set or change a secret",
		Long: `Set a secret to VALUE, to the content of FILE, or with - or without a value to
what the standard input has, which on a terminal is asked for and not shown. The
bytes are kept as they are, a line's end at the end included. A value on the
command line is seen in the list of processes and kept in the shell's history.

The functions that use the secret start anew: an instance with the new value is
ready before callers leave the old ones.`,
		Example: `  kiln secret set STRIPE_KEY
  kiln secret set tls.pem @server.pem
  pass show db | kiln secret set DB_PASSWORD - --function 'shop-*'`,
		Args:              cobra.RangeArgs(1, 2),
		ValidArgsFunction: t.secretNames(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			checked := orchestrator.Secret{Name: args[0], Functions: functions}
			if err := checked.Validate(); err != nil {
				return refusedBy(cmd, err)
			}
			value, done, err := t.secretValue(cmd, args)
			if err != nil {
				return err
			}
			defer done()
			return t.setSecret(cmd.Context(), checked, value)
		},
	}
	cmd.Flags().StringSliceVar(&functions, "function", nil, "pattern of the names of functions that may use it, such as 'shop-*'; none = all functions")
	complete(cmd, "function", t.functionNames(true))
	return cmd
}

// secretValue opens the value that the arguments name.
func (t *tool) secretValue(cmd *cobra.Command, args []string) (value io.Reader, done func(), err error) {
	done = func() {}
	switch {
	case len(args) == 2 && strings.HasPrefix(args[1], "@"):
		file, err := os.Open(strings.TrimPrefix(args[1], "@"))
		if err != nil {
			return nil, done, usagef(cmd, "the value: %w", err)
		}
		// What reading the file gives was checked; closing it tells nothing more.
		return file, func() { _ = file.Close() }, nil
	case len(args) == 2 && args[1] != "-":
		return strings.NewReader(args[1]), done, nil
	}
	in, ok := t.in.(*os.File)
	if len(args) == 2 || !ok || !term.IsTerminal(int(in.Fd())) {
		return t.in, done, nil
	}
	fmt.Fprintf(t.err, "Value of %s (not shown): ", args[0])
	line, err := readHidden(cmd.Context(), int(in.Fd()))
	fmt.Fprintln(t.err)
	return strings.NewReader(string(line)), done, err
}

// readHidden reads a line that the terminal does not show. Reading does not see
// signals: when ctx ends first, the terminal is made as it was, and what still
// reads ends with the process.
func readHidden(ctx context.Context, terminal int) ([]byte, error) {
	before, err := term.GetState(terminal)
	if err != nil {
		return nil, err
	}
	var line []byte
	read := make(chan error, 1)
	go func() {
		typed, err := term.ReadPassword(terminal)
		line = typed
		read <- err
	}()
	select {
	case err := <-read:
		return line, err
	case <-ctx.Done():
		return nil, errors.Join(ctx.Err(), term.Restore(terminal, before))
	}
}

func (t *tool) setSecret(ctx context.Context, secret orchestrator.Secret, value io.Reader) error {
	client, err := t.client()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, rollTimeout)
	defer cancel()
	set, err := client.SetSecret(ctx, secret.Name, secret.Functions, value)
	if err != nil {
		return err
	}
	if t.format == formatJSON {
		if err := t.writeJSON(set); err != nil {
			return err
		}
	} else {
		fmt.Fprintf(t.out, "%s is set\n", set.Name)
	}
	for _, f := range set.Rolled {
		switch {
		case f.Error != "":
			fmt.Fprintf(t.err, "%s keeps the old value: %s\n", f.Function, f.Error)
			fmt.Fprintf(t.err, "  next: kiln logs %s, then set the secret again or deploy the function\n", f.Function)
			err = errShown
		case t.format == formatTable:
			fmt.Fprintf(t.out, "%s has the new value\n", f.Function)
		}
	}
	return err
}

func (t *tool) secretLsCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "List the secrets: their names, not what they hold",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return t.withClient(cmd, func(ctx context.Context, client *api.Client) error {
				secrets, err := client.Secrets(ctx)
				if err != nil {
					return err
				}
				if t.format == formatJSON {
					return t.writeJSON(api.SecretList{Secrets: secrets})
				}
				now := time.Now()
				rows := newTable("NAME", "FOR", "USED BY", "CHANGED")
				for _, s := range secrets {
					rows.add(s.Name, firstOf(strings.Join(s.Functions, " "), "all"), firstOf(strings.Join(s.UsedBy, " "), "-"), ago(s.UpdatedAt, now))
				}
				return rows.write(t.out)
			})
		},
	}
}

func (t *tool) secretRmCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "rm NAME...",
		Aliases:           []string{"remove"},
		Short:             "Remove secrets that no function uses",
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: t.secretNames(0),
		RunE: func(cmd *cobra.Command, args []string) error {
			return t.removeEach(cmd, args, callTimeout, (*api.Client).RemoveSecret)
		},
	}
}

// secretNames completes names of secrets; files after the first most ones, 0 =
// never.
func (t *tool) secretNames(most int) completer {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if most > 0 && len(args) >= most {
			return nil, cobra.ShellCompDirectiveDefault
		}
		return candidates(t, cmd, (*api.Client).Secrets, func(s api.Secret) (string, string) {
			return s.Name, firstOf(strings.Join(s.UsedBy, " "), "unused")
		})
	}
}
