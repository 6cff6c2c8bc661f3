package main

import (
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/kilnfaas/kiln/orchestrator"
)

// overrides are the flags that say the same as keys of function.yaml. Only
// those that were given count.
type overrides struct {
	template, handler      string
	access                 string
	env                    []string
	memory                 string
	cpu                    float64
	timeout                time.Duration
	concurrency, min, max  int
	freezeAfter, keepAlive time.Duration
	test                   bool
}

// scaleFlags adds the flags about instances.
func (o *overrides) scaleFlags(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.IntVar(&o.min, "min", 0, "instances kept warm")
	flags.IntVar(&o.max, "max", orchestrator.DefaultMax, "instances at most")
	flags.IntVar(&o.concurrency, "concurrency", orchestrator.DefaultConcurrency, "requests at once in one instance")
	flags.DurationVar(&o.freezeAfter, "freeze-after", orchestrator.DefaultFreezeAfter, "idle time after which an instance is frozen; 0 = never")
	flags.DurationVar(&o.keepAlive, "keep-alive", orchestrator.DefaultKeepAlive, "idle time after which an instance is removed")
}

// specFlags adds all.
func (o *overrides) specFlags(cmd *cobra.Command) {
	o.scaleFlags(cmd)
	flags := cmd.Flags()
	flags.StringVarP(&o.template, "template", "t", "", "the language")
	flags.StringVar(&o.handler, "handler", "", "file or name of the handler")
	flags.StringVar(&o.access, "access", string(orchestrator.AccessPublic), "who may invoke it: public, token or internal")
	complete(cmd, "access", cobra.FixedCompletions([]string{"public", "token", "internal"}, cobra.ShellCompDirectiveNoFileComp))
	flags.StringArrayVarP(&o.env, "env", "e", nil, "environment variable KEY=VALUE; may be repeated")
	flags.StringVar(&o.memory, "memory", orchestrator.DefaultMemory.String(), "memory of an instance")
	flags.Float64Var(&o.cpu, "cpu", orchestrator.DefaultCPU, "cores of an instance")
	flags.DurationVar(&o.timeout, "timeout", orchestrator.DefaultTimeout, "longest time of one invocation")
	flags.BoolVar(&o.test, "test", false, "run the function's own tests while building")
}

// patch returns the flags that were given in the shape of a spec.
func (o *overrides) patch(cmd *cobra.Command) (map[string]any, error) {
	patch := map[string]any{}
	set := func(flag string, value any, path ...string) {
		if !cmd.Flags().Changed(flag) {
			return
		}
		at := patch
		for _, key := range path[:len(path)-1] {
			if at[key] == nil {
				at[key] = map[string]any{}
			}
			at = at[key].(map[string]any)
		}
		at[path[len(path)-1]] = value
	}
	env := map[string]any{}
	for _, pair := range o.env {
		key, value, ok := strings.Cut(pair, "=")
		if !ok || key == "" {
			return nil, usagef(cmd, "--env is %q; the form is KEY=VALUE", pair)
		}
		env[key] = value
	}
	if cmd.Flags().Changed("memory") {
		if _, err := orchestrator.ParseBytes(o.memory); err != nil {
			return nil, usagef(cmd, "--memory: %w; write for example 128MiB", err)
		}
	}
	set("template", o.template, "template")
	set("handler", o.handler, "handler")
	set("access", o.access, "access")
	set("env", env, "env")
	set("memory", o.memory, "resources", "memory")
	set("cpu", o.cpu, "resources", "cpu")
	set("timeout", o.timeout.String(), "timeout")
	set("concurrency", o.concurrency, "concurrency")
	set("min", o.min, "scale", "min")
	set("max", o.max, "scale", "max")
	set("freeze-after", o.freezeAfter.String(), "scale", "freeze_after")
	set("keep-alive", o.keepAlive.String(), "scale", "keep_alive")
	set("test", o.test, "build", "test")
	return patch, nil
}
