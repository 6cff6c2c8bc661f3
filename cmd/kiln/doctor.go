package main

import (
	"context"
	"fmt"
	"io"
	"net/url"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/kilnfaas/kiln/gateway/api"
	"github.com/kilnfaas/kiln/orchestrator/docker"
	"github.com/kilnfaas/kiln/orchestrator/nft"
	"github.com/kilnfaas/kiln/templates"
)

// verdict is how a check ended.
type verdict string

// The verdicts. Only verdictBad makes doctor fail.
const (
	verdictGood    verdict = "ok"
	verdictDoubt   verdict = "warn"
	verdictBad     verdict = "fail"
	verdictSkipped verdict = "skip"
)

// finding is the result of one check.
type finding struct {
	Check   string  `json:"check"`
	Verdict verdict `json:"verdict"`
	Detail  string  `json:"detail"`
	Remedy  string  `json:"remedy,omitempty"`
}

// diagnosis is the answer of `kiln doctor -o json`.
type diagnosis struct {
	Checks []finding `json:"checks"`
}

// Time that doctor gives each side.
const (
	quickTimeout  = 4 * time.Second // below the health check's 5 s
	engineTimeout = 20 * time.Second
)

func (t *tool) doctorCommand() *cobra.Command {
	var quick bool
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Check gateway, engine and machine, and say the remedies",
		Long: `Check the gateway, and where it is on this machine the container engine, its API
version, builder and network, the disk, the base images and the clock. Each
problem comes with its remedy. The exit code is 1 when a check failed.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := t.client()
			if err != nil {
				return err
			}
			if quick {
				ctx, cancel := context.WithTimeout(cmd.Context(), quickTimeout)
				defer cancel()
				return client.Ready(ctx)
			}
			return t.report(t.examine(cmd.Context(), client))
		},
	}
	cmd.Flags().BoolVar(&quick, "quick", false, "only ask the gateway whether it is ready, and print nothing when it is")
	return cmd
}

// examine runs every check.
func (t *tool) examine(ctx context.Context, client *api.Client) []finding {
	findings := checkGateway(ctx, client)
	if !isLocal(client.BaseURL) {
		return append(findings, finding{"engine", verdictSkipped, "the gateway is on another machine", "run kiln doctor there"})
	}
	ctx, cancel := context.WithTimeout(ctx, engineTimeout)
	defer cancel()
	engine, err := docker.Open(ctx, docker.Options{})
	if err != nil {
		return append(findings, bad("engine", err, "make sure that Docker runs and that you may use it: sudo deploy/bootstrap, or add yourself to the group docker"))
	}
	catalogue, err := templates.Embedded()
	if err != nil {
		return append(findings, bad("templates", err, "this binary is damaged; build it again"))
	}
	findings = append(findings, checkEngine(ctx, engine)...)
	findings = append(findings, checkNetwork(ctx, engine, ipForward), checkWalls(ctx, engine, nft.Firewall{}.Owners))
	findings = append(findings, checkBases(ctx, engine, catalogue.Templates())...)
	if err := engine.Close(); err != nil {
		findings = append(findings, bad("engine", err, "run kiln doctor again"))
	}
	return findings
}

func bad(check string, err error, remedy string) finding {
	problem := problemOf(err)
	return finding{check, verdictBad, problem.Detail, firstOf(remedy, problem.Hint)}
}

func isLocal(gateway string) bool {
	u, err := url.Parse(gateway)
	return err == nil && slices.Contains([]string{"localhost", "127.0.0.1", "::1", "0.0.0.0"}, u.Hostname())
}

// report shows the findings; a bad one makes the exit code 1.
func (t *tool) report(findings []finding) error {
	failed := 0
	for _, f := range findings {
		if f.Verdict == verdictBad {
			failed++
		}
	}
	if t.format == formatJSON {
		if err := t.writeJSON(diagnosis{findings}); err != nil {
			return err
		}
	} else {
		for _, f := range findings {
			showFinding(t.out, f)
		}
	}
	switch {
	case failed == 0:
		return nil
	case t.format == formatTable:
		fmt.Fprintf(t.err, "%d of %d checks failed\n", failed, len(findings))
	}
	return errShown
}

func showFinding(w io.Writer, f finding) {
	style := styleOf(w)
	mark := map[verdict]string{
		verdictGood:    style.green("✓"),
		verdictDoubt:   style.yellow("!"),
		verdictBad:     style.red("✗"),
		verdictSkipped: style.dim("-"),
	}[f.Verdict]
	fmt.Fprintf(w, "%s %s %s\n", mark, style.bold(fmt.Sprintf("%-10s", f.Check)), f.Detail)
	if f.Remedy != "" {
		fmt.Fprintf(w, "             %s\n", f.Remedy)
	}
}
