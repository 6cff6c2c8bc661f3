package main

import (
	"os"
	"testing"

	"github.com/goccy/go-yaml"
)

// fixed are the settings that docker-compose.yml decides itself, as they go with
// what it mounts.
var fixed = map[string]string{
	"listen":        "${KILN_LISTEN:-127.0.0.1:8080}",
	"data":          "/var/lib/kiln",
	"extra_ca_file": "${KILN_CA_INSIDE:-}",
}

// inside are the settings that the container has nothing else for than it has.
var inside = map[string]bool{"docker_host": true, "cgroup_root": true}

// TestComposePassesEverySettingOn keeps docker-compose.yml complete: whoever sets
// a variable gets what it says, and not silently the default.
func TestComposePassesEverySettingOn(t *testing.T) {
	data, err := os.ReadFile("../../docker-compose.yml")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Services struct {
			Gateway struct {
				Environment map[string]*string `yaml:"environment"`
			} `yaml:"gateway"`
		} `yaml:"services"`
	}
	if err := yaml.Unmarshal(data, &file); err != nil {
		t.Fatal(err)
	}
	environment := file.Services.Gateway.Environment
	for _, s := range settings() {
		value, passed := environment[s.variable()]
		delete(environment, s.variable())
		want, isFixed := fixed[s.key]
		switch {
		case passed == inside[s.key]:
			t.Errorf("%s passed on: %v, want %v", s.variable(), passed, !passed)
		case isFixed && (value == nil || *value != want):
			t.Errorf("%s is %v, want %s", s.variable(), value, want)
		case !isFixed && value != nil: // then an unset variable would not be the default
			t.Errorf("%s is %q, want nothing, which passes it on", s.variable(), *value)
		}
	}
	delete(environment, "KILN_GATEWAY") // of the health check
	for variable := range environment {
		t.Errorf("docker-compose.yml has %s, which is no setting", variable)
	}
}
