package main

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"github.com/kilnfaas/kiln/orchestrator"
)

// TestConfigurationReference keeps docs/configuration.md true: every setting and
// every default of a function stands in it.
func TestConfigurationReference(t *testing.T) {
	page, err := os.ReadFile("../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	defaults := defaultConfig()
	defaults.Data = "/var/lib/kiln" // of root; the page says so
	for _, s := range settings() {
		want := fmt.Sprintf("| `%s` | `%s` |", s.key, s.show(defaults))
		if s.show(defaults) == "" {
			want = fmt.Sprintf("| `%s` | |", s.key)
		}
		if !strings.Contains(string(page), want) {
			t.Errorf("docs/configuration.md lacks %q", want)
		}
	}
	spec := orchestrator.DefaultSpec()
	for key, value := range map[string]any{
		"resources.memory":   spec.Resources.Memory,
		"resources.cpu":      spec.Resources.CPU,
		"resources.tmp":      spec.Resources.Tmp,
		"timeout":            spec.Timeout,
		"max_request":        spec.MaxRequest,
		"scale.min":          spec.Scale.Min,
		"scale.max":          spec.Scale.Max,
		"scale.freeze_after": spec.Scale.FreezeAfter,
		"scale.keep_alive":   spec.Scale.KeepAlive,
		"network":            spec.Network,
		"async.attempts":     spec.Async.Attempts,
		"async.backoff":      spec.Async.Backoff,
		"async.backoff_max":  spec.Async.BackoffMax,
		"async.max_age":      spec.Async.MaxAge,
	} {
		if want := fmt.Sprintf("| `%s` | `%v` |", key, value); !strings.Contains(string(page), want) {
			t.Errorf("docs/configuration.md lacks %q", want)
		}
	}
	(&tool{}).deployCommand().Flags().VisitAll(func(f *pflag.Flag) {
		if f.Name != "verbose" && !strings.Contains(string(page), "`--"+f.Name) {
			t.Errorf("docs/configuration.md lacks --%s", f.Name)
		}
	})
}
