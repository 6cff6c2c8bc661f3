package main

import (
	"context"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kilnfaas/kiln/gateway/api"
)

func (t *tool) templatesCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "templates",
		Short: "List the languages a function can be written in",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return t.withClient(cmd, func(ctx context.Context, client *api.Client) error {
				templates, err := client.Templates(ctx)
				if err != nil {
					return err
				}
				if t.format == formatJSON {
					return t.writeJSON(api.TemplateList{Templates: templates})
				}
				rows := newTable("TEMPLATE", "HANDLER", "CONCURRENCY", "DESCRIPTION")
				for _, template := range templates {
					concurrency := "default"
					if n := template.Defaults.Concurrency; n > 0 {
						concurrency = strconv.Itoa(n)
					}
					rows.add(template.Name, strings.Join(template.Handlers, ", "), concurrency, template.Description)
				}
				return rows.write(t.out)
			})
		},
	}
}
