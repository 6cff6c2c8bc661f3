package docker_test

import (
	"testing"

	"github.com/kilnfaas/kiln/orchestrator/docker"
)

// TestBuilderKind: without a wish the engine's API decides, else the wish.
func TestBuilderKind(t *testing.T) {
	for _, tt := range []struct {
		api           string
		builder, want docker.BuilderMode
	}{
		{"1.40", "", docker.BuilderClassic},
		{"1.40", docker.BuilderAuto, docker.BuilderClassic},
		{"1.41", "", docker.BuilderBuildKit},
		{"1.41", docker.BuilderAuto, docker.BuilderBuildKit},
		{"1.40", docker.BuilderBuildKit, docker.BuilderBuildKit},
		{"1.41", docker.BuilderClassic, docker.BuilderClassic},
	} {
		t.Run(tt.api+string(tt.builder), func(t *testing.T) {
			d := startDaemon(t)
			d.api = tt.api
			got, err := d.open(t, docker.Options{Builder: tt.builder}).BuilderKind(t.Context())
			if err != nil || got != tt.want {
				t.Errorf("got %q, %v, want %q", got, err, tt.want)
			}
		})
	}
}
