package main

import (
	"context"
	"fmt"
	"runtime"
	"runtime/debug"
	"time"

	"github.com/spf13/cobra"

	"github.com/kilnfaas/kiln/gateway/api"
)

// version is set by the linker (Makefile).
var version = "dev"

// thisBuild says what this binary is.
func thisBuild() api.Version {
	v := api.Version{Version: version, Go: runtime.Version()}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, setting := range info.Settings {
			if setting.Key == "vcs.revision" {
				v.Commit = setting.Value
			}
		}
	}
	return v
}

// versionTimeout bounds asking a gateway that may not be there.
const versionTimeout = 2 * time.Second

// versions is the answer of `kiln version -o json`.
type versions struct {
	Client  api.Version  `json:"client"`
	Gateway *api.Version `json:"gateway,omitempty"` // absent when it does not answer
}

func (t *tool) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Say which Kiln this is, and which the gateway is",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := t.client()
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), versionTimeout)
			defer cancel()
			both := versions{Client: thisBuild()}
			there, gatewayErr := client.Version(ctx)
			if gatewayErr == nil {
				both.Gateway = &there
			}
			if t.format == formatJSON {
				return t.writeJSON(both)
			}
			fmt.Fprintf(t.out, "client   %s\n", describeVersion(both.Client))
			if both.Gateway == nil {
				fmt.Fprintf(t.out, "gateway  %s does not answer\n", client.BaseURL)
				return nil
			}
			fmt.Fprintf(t.out, "gateway  %s at %s\n", describeVersion(there), client.BaseURL)
			return nil
		},
	}
}

func describeVersion(v api.Version) string {
	text := v.Version
	if v.Commit != "" {
		text += " (" + short(v.Commit) + ")"
	}
	return text + " " + v.Go
}
