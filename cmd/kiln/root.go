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

	"github.com/kilnfaas/kiln/gateway/api"
	"github.com/kilnfaas/kiln/orchestrator"
)

// Exit codes.
const (
	exitOK      = 0
	exitRefused = 1 // the function or the gateway said no
	exitUsage   = 2 // the command makes no sense
)

// Environment variables of the tool.
const (
	envGateway = "KILN_GATEWAY"
	envToken   = "KILN_TOKEN"
)

// callTimeout bounds a call that the gateway answers from memory or its store.
const callTimeout = 30 * time.Second

// streams are the tool's standard streams.
type streams struct {
	in       io.Reader
	out, err io.Writer
}

// tool is what all verbs share: the global flags and the streams.
type tool struct {
	streams
	gateway string // flag; empty = not given
	token   string // flag; empty = not given
	format  string // formatTable or formatJSON
}

// Values of --output.
const (
	formatTable = "table"
	formatJSON  = "json"
)

// withClient calls the gateway within callTimeout.
func (t *tool) withClient(cmd *cobra.Command, call func(context.Context, *api.Client) error) error {
	client, err := t.client()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), callTimeout)
	defer cancel()
	return call(ctx, client)
}

// run executes a command line and returns the exit code.
func run(ctx context.Context, args []string, s streams) int {
	t := &tool{streams: s}
	root := t.root()
	root.SetArgs(args)
	root.SetIn(s.in)
	root.SetOut(s.out)
	root.SetErr(s.err)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	if usage := (usageError{}); errors.As(err, &usage) {
		fmt.Fprintf(s.err, "error: %v\n", usage.err)
		fmt.Fprintf(s.err, "  next: %s --help\n", usage.command)
		return exitUsage
	}
	if !errors.Is(err, errShown) {
		t.showError(err)
	}
	return exitRefused
}

// errShown is a failure that has been told to the user already.
var errShown = errors.New("failed")

// usageError is a command line that makes no sense.
type usageError struct {
	command string // path of the command whose help tells more
	err     error
}

// Error returns the reason.
func (e usageError) Error() string { return e.err.Error() }

// usagef returns a usageError of a command.
func usagef(cmd *cobra.Command, format string, args ...any) error {
	return usageError{command: cmd.CommandPath(), err: fmt.Errorf(format, args...)}
}

// root returns the command tree.
func (t *tool) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "kiln",
		Short: "Functions on plain Docker",
		Long: `Kiln turns a folder of code into an HTTP function on plain Docker.

  kiln new hello --template python     begin a function
  kiln deploy hello                    build it and make it live
  kiln invoke hello -d '{"name": "Ada"}'
  kiln logs -f hello                   read what it prints`,
		Args:          cobra.ArbitraryArgs,
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cmd.Help()
			}
			return unknownCommand(cmd, args[0])
		},
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			if t.format != formatTable && t.format != formatJSON {
				return usagef(cmd, "--output is %q; it can be %s or %s", t.format, formatTable, formatJSON)
			}
			return nil
		},
	}
	flags := root.PersistentFlags()
	flags.StringVar(&t.gateway, "gateway", "", "the gateway's address (env "+envGateway+")")
	flags.StringVar(&t.token, "token", "", "access token (env "+envToken+")")
	flags.StringVarP(&t.format, "output", "o", formatTable, "table or json")
	complete(root, "output", cobra.FixedCompletions([]string{formatTable, formatJSON}, cobra.ShellCompDirectiveNoFileComp))
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return usageError{cmd.CommandPath(), err} })
	root.AddGroup(
		&cobra.Group{ID: groupFunction, Title: "Functions:"},
		&cobra.Group{ID: groupGateway, Title: "The gateway:"},
	)
	root.SetHelpCommandGroupID(groupGateway)
	root.SetCompletionCommandGroupID(groupGateway)
	addTo(root, groupFunction, t.newCommand(), t.deployCommand(), t.invokeCommand(), t.invocationsCommand(), t.dlqCommand(), t.triggersCommand(), t.bucketCommand(), t.lsCommand(), t.describeCommand(), t.logsCommand(),
		t.scaleCommand(), t.revisionsCommand(), t.rollbackCommand(), t.rmCommand())
	addTo(root, groupGateway, t.serveCommand(), t.templatesCommand(), t.doctorCommand(), t.loginCommand(), t.tokenCommand(), t.secretCommand(), t.versionCommand(), t.rulesCommand())
	return root
}

// Groups of commands in the help.
const (
	groupFunction = "function"
	groupGateway  = "gateway"
)

// addTo adds commands to a group and makes their argument errors usage errors.
func addTo(root *cobra.Command, group string, commands ...*cobra.Command) {
	for _, c := range commands {
		c.GroupID = group
	}
	addBelow(root, commands...)
}

// addBelow adds commands to another and makes their argument errors usage errors.
func addBelow(parent *cobra.Command, commands ...*cobra.Command) {
	for _, c := range commands {
		if check := c.Args; check != nil {
			c.Args = func(cmd *cobra.Command, args []string) error {
				if err := check(cmd, args); err != nil {
					return usageError{cmd.CommandPath(), fmt.Errorf("%w; the form is: %s", err, cmd.UseLine())}
				}
				return nil
			}
		}
		parent.AddCommand(c)
	}
}

// unknownCommand names what was perhaps meant.
func unknownCommand(root *cobra.Command, name string) error {
	root.SuggestionsMinimumDistance = 2
	if near := root.SuggestionsFor(name); len(near) > 0 {
		return usagef(root, "there is no command %q; did you mean %s?", name, strings.Join(near, " or "))
	}
	return usagef(root, "there is no command %q", name)
}

// client returns a client of the gateway that flags, environment and the login
// file name, in this order. On the gateway's own machine its administrator needs
// no login.
func (t *tool) client() (*api.Client, error) {
	stored, err := loadLogin()
	if err != nil {
		return nil, err
	}
	gateway := firstOf(t.gateway, os.Getenv(envGateway))
	token := firstOf(t.token, os.Getenv(envToken))
	if gateway == "" {
		gateway = firstOf(stored.Gateway, api.DefaultBaseURL)
	}
	gateway = normalGateway(gateway)
	if token == "" { // a token is for the gateway that it was stored with, and no other
		token = firstOf(stored.Tokens[gateway], localToken(gateway))
	}
	return &api.Client{BaseURL: gateway, Token: token, UserAgent: "kiln/" + version}, nil
}

// normalGateway completes an address that was given as host and port.
func normalGateway(address string) string {
	if !strings.Contains(address, "://") {
		address = "http://" + address
	}
	return strings.TrimRight(address, "/")
}

func firstOf(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}

// checkName refuses a function's name early, and better than a 404 would.
func checkName(cmd *cobra.Command, name string) error {
	return refusedBy(cmd, orchestrator.ValidateName(name))
}

// refusedBy makes a check that failed here a usage error.
func refusedBy(cmd *cobra.Command, err error) error {
	if refusal := (*orchestrator.Error)(nil); errors.As(err, &refusal) {
		return usagef(cmd, "%s", strings.TrimSuffix(refusal.Detail+"; "+refusal.Hint, "; "))
	}
	return err
}
