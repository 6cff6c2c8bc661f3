package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/kilnfaas/kiln/gateway/api"
	"github.com/kilnfaas/kiln/orchestrator"
)

func (t *tool) describeCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "describe NAME",
		Short:             "Show a function's settings, instances and troubles",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: t.functionNames(false),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := t.client()
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), callTimeout)
			defer cancel()
			f, err := client.Function(ctx, args[0])
			if err != nil {
				return err
			}
			if t.format == formatJSON {
				return t.writeJSON(f)
			}
			return describe(t.out, f, client.BaseURL, time.Now())
		},
	}
}

// accessOf says who may invoke, how often, and from where.
func accessOf(spec orchestrator.Spec) string {
	text := firstOf(string(spec.Access), string(orchestrator.AccessPublic))
	if spec.Rate.Limited() {
		text += ", " + rateOf(spec.Rate)
	}
	if spec.CORS.On() {
		text += ", pages of " + strings.Join(spec.CORS.Origins, " ")
	}
	return text
}

// describe writes a function for people to read.
func describe(w io.Writer, f api.Function, gateway string, now time.Time) error {
	style, spec, status := styleOf(w), f.Spec, f.Status
	line := func(key, format string, args ...any) {
		fmt.Fprintf(w, "%s  %s\n", style.dim(fmt.Sprintf("%-12s", key)), fmt.Sprintf(format, args...))
	}
	line("function", "%s", style.bold(f.Name))
	line("url", "%s%s", gateway, f.URL)
	line("template", "%s", spec.Template)
	if spec.Handler != "" {
		line("handler", "%s", spec.Handler)
	}
	line("revision", "%s, updated %s", firstOf(f.Live, "none live; kiln revisions "+f.Name+" says why"), ago(f.UpdatedAt, now))
	line("access", "%s", accessOf(spec))
	line("resources", "%s memory, %s cpu, %s /tmp", spec.Resources.Memory, trim(spec.Resources.CPU), spec.Resources.Tmp)
	line("limits", "timeout %s, request %s, %d at once per instance", spec.Timeout, orNone(spec.MaxRequest), spec.Concurrency)
	line("scale", "%d to %d, frozen after %s, removed after %s", spec.Scale.Min, spec.Scale.Max, orNever(spec.Scale.FreezeAfter), spec.Scale.KeepAlive)
	if spec.Network != "" && spec.Network != orchestrator.NetworkInternet {
		line("network", "%s", spec.Network)
	}
	if spec.Runtime != "" {
		line("runtime", "%s", spec.Runtime)
	}
	for _, key := range slices.Sorted(maps.Keys(spec.Env)) {
		line("env", "%s=%s", key, spec.Env[key])
	}
	if len(spec.Secrets) > 0 {
		line("secrets", "%s", strings.Join(spec.Secrets, ", "))
	}
	if status.Wake != "" {
		line("cold start", "from %s%s", status.Wake, parenthesis(status.WakeReason))
	}
	line("instances", "%s; %d requests in flight, %d waiting", running(status), status.InFlight, status.Waiting)
	if loop := status.CrashLoop; loop != nil {
		line(style.red("crash loop"), "%d starts failed in a row; next try %s", loop.Failures, until(loop.NextStart, now))
		for text := range strings.SplitSeq(strings.TrimSpace(loop.LastError), "\n") {
			line("", "%s", text)
		}
	}
	if len(status.Instances) == 0 {
		return nil
	}
	fmt.Fprintln(w)
	return instanceTable(status.Instances, now).write(w)
}

func instanceTable(instances []orchestrator.InstanceStatus, now time.Time) *table {
	rows := newTable("INSTANCE", "REVISION", "STATE", "IN FLIGHT", "STARTED", "USED", "FROM")
	for _, i := range instances {
		rows.add(short(i.ID), i.Revision, i.State, strconv.Itoa(i.InFlight), ago(i.StartedAt, now), ago(i.LastUsed, now), i.Origin)
	}
	return rows
}

func trim(f float64) string { return strconv.FormatFloat(f, 'f', -1, 64) }

func orNone(b orchestrator.Bytes) string {
	if b == 0 {
		return "unlimited"
	}
	return "up to " + b.String()
}

func orNever(d orchestrator.Duration) string {
	if d == 0 {
		return "never"
	}
	return d.String()
}

func parenthesis(text string) string {
	if text == "" {
		return ""
	}
	return " (" + text + ")"
}

// until says how long it is to a moment, as seen from now.
func until(t, now time.Time) string {
	if d := t.Sub(now); d > 0 {
		return "in " + span(d)
	}
	return "now"
}
