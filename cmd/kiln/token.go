package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/kilnfaas/kiln/gateway/api"
	"github.com/kilnfaas/kiln/orchestrator"
)

func (t *tool) tokenCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "token",
		Short: "Say who may do what: make, list and remove tokens",
		Long: `Make, list and remove access tokens. A token has scopes:

  read     look at functions, their logs and the metrics; and files-read
  deploy   deploy, change, roll back and remove functions; and read and files
  invoke   call functions whose access is "token"
  files    write and read objects of buckets; files-read only reads
  admin    everything, tokens included`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	addTo(cmd, "", t.tokenCreateCommand(), t.tokenLsCommand(), t.tokenRmCommand())
	return cmd
}

func (t *tool) tokenCreateCommand() *cobra.Command {
	var scopes, functions []string
	var expires time.Duration
	var rate orchestrator.Rate
	cmd := &cobra.Command{
		Use:   "create NAME --scope SCOPE",
		Short: "Make a token; it is shown this once",
		Long: `Make a token and print it, alone on a line of the standard output. The gateway
keeps its SHA-256, so that it can never be shown again.`,
		Example: `  kiln token create ci --scope deploy --function 'team-a-*' --expires 720h
  kiln token create phone --scope invoke --function thumbnails --rate 20
  kiln login http://build-box:8080 --token "$(kiln token create laptop --scope admin)"`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			want := api.NewToken{Name: args[0], Functions: functions, Rate: rate, ExpiresIn: orchestrator.Duration(expires)}
			for _, scope := range scopes {
				want.Scopes = append(want.Scopes, orchestrator.Scope(scope))
			}
			checked := orchestrator.Token{Name: want.Name, Scopes: want.Scopes, Functions: functions, Rate: rate}
			if err := checked.Validate(); err != nil {
				return refusedBy(cmd, err)
			}
			return t.withClient(cmd, func(ctx context.Context, client *api.Client) error {
				made, err := client.CreateToken(ctx, want)
				if err != nil {
					return err
				}
				if t.format == formatJSON {
					return t.writeJSON(made)
				}
				fmt.Fprintf(t.err, "The token %s is shown only now; the gateway does not keep it:\n", made.Name)
				fmt.Fprintln(t.out, made.Secret)
				return nil
			})
		},
	}
	flags := cmd.Flags()
	flags.StringSliceVar(&scopes, "scope", nil, "admin, deploy, invoke, read, files or files-read; several with commas")
	flags.StringSliceVar(&functions, "function", nil, "pattern of function names, such as 'team-a-*'; none = all functions")
	flags.DurationVar(&expires, "expires", 0, "time until the token expires, such as 720h; 0 = never")
	flags.Float64Var(&rate.PerSecond, "rate", 0, "requests per second on average; 0 = no bound")
	flags.IntVar(&rate.Burst, "burst", 0, "requests at once; 0 = what a second allows")
	complete(cmd, "scope", cobra.FixedCompletions(scopeCompletions(), cobra.ShellCompDirectiveNoFileComp))
	complete(cmd, "function", t.functionNames(true))
	return cmd
}

func scopeCompletions() (all []string) {
	for _, scope := range orchestrator.Scopes() {
		all = append(all, string(scope))
	}
	return all
}

func (t *tool) tokenLsCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "List the tokens: their rights, not the tokens themselves",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return t.withClient(cmd, func(ctx context.Context, client *api.Client) error {
				tokens, err := client.Tokens(ctx)
				if err != nil {
					return err
				}
				if t.format == formatJSON {
					return t.writeJSON(api.TokenList{Tokens: tokens})
				}
				now := time.Now()
				rows := newTable("NAME", "SCOPES", "FUNCTIONS", "RATE", "EXPIRES", "LAST USED")
				for _, token := range tokens {
					rows.add(token.Name, scopesOf(token), firstOf(strings.Join(token.Functions, " "), "all"), rateOf(token.Rate), expiryOf(token, now), ago(token.LastUsed, now))
				}
				return rows.write(t.out)
			})
		},
	}
}

func scopesOf(token api.Token) string {
	var all []string
	for _, scope := range token.Scopes {
		all = append(all, string(scope))
	}
	return strings.Join(all, " ")
}

func rateOf(rate orchestrator.Rate) string {
	if !rate.Limited() {
		return "-"
	}
	return fmt.Sprintf("%s/s, %d at once", trim(rate.PerSecond), rate.AtOnce())
}

func expiryOf(token api.Token, now time.Time) string {
	switch {
	case token.ExpiresAt.IsZero():
		return "never"
	case !now.Before(token.ExpiresAt):
		return "expired"
	}
	return "in " + token.ExpiresAt.Sub(now).Round(time.Second).String()
}

func (t *tool) tokenRmCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "rm NAME...",
		Aliases:           []string{"remove"},
		Short:             "Remove tokens; they are refused from then on",
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: t.tokenNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			return t.removeEach(cmd, args, callTimeout, (*api.Client).RemoveToken)
		},
	}
}

// tokenNames completes names of tokens.
func (t *tool) tokenNames(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	return candidates(t, cmd, (*api.Client).Tokens, func(token api.Token) (string, string) { return token.Name, scopesOf(token) })
}
