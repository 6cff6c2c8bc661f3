package main

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestLoadConfigPrecedence(t *testing.T) {
	file := filepath.Join(t.TempDir(), "kiln.yaml")
	write(t, file, "listen: 127.0.0.1:1\nbuilds: 3\nbuild_timeout: 2m\nmemory: 1GiB\nlog_level: debug\n")
	env := map[string]string{"KILN_LISTEN": "127.0.0.1:2", "KILN_BUILDS": "4"}
	c, err := loadConfig(file, func(k string) string { return env[k] }, map[string]string{"listen": "127.0.0.1:3"})
	if err != nil {
		t.Fatal(err)
	}
	if c.Listen != "127.0.0.1:3" || c.Builds != 4 || c.BuildTimeout != 2*time.Minute || c.Memory != 1<<30 || c.LogLevel != slog.LevelDebug {
		t.Errorf("got %+v", c)
	}
	if c.Freezer != "auto" {
		t.Errorf("default of freezer is %q", c.Freezer)
	}
}

func TestLoadConfigErrorsNameTheOrigin(t *testing.T) {
	for _, tt := range []struct {
		name, file, env, flag, want string
	}{
		{name: "unknown key", file: "listn: x\n", want: "unknown key listn"},
		{name: "nested", file: "listen:\n  a: b\n", want: "listen: a single value"},
		{name: "file value", file: "builds: many\n", want: "builds: \"many\" is not a number from 1 to 64"},
		{name: "environment", env: "kaniko", want: "KILN_BUILDER: \"kaniko\" is not one of auto"},
		{name: "flag", flag: "maybe", want: "--freezer: \"maybe\" is not one of auto"},
		{name: "not yaml", file: "a: [", want: "kiln.yaml"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			file := ""
			if tt.file != "" {
				file = filepath.Join(t.TempDir(), "kiln.yaml")
				write(t, file, tt.file)
			}
			flags := map[string]string{}
			if tt.flag != "" {
				flags["freezer"] = tt.flag
			}
			_, err := loadConfig(file, func(k string) string {
				if k == "KILN_BUILDER" {
					return tt.env
				}
				return ""
			}, flags)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got error %v, want one with %q", err, tt.want)
			}
		})
	}
}

// TestConfigurationIsDocumented keeps docs/configuration.md complete.
func TestConfigurationIsDocumented(t *testing.T) {
	doc, err := os.ReadFile("../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range settings() {
		if !strings.Contains(string(doc), "`"+s.key+"`") {
			t.Errorf("docs/configuration.md does not mention `%s`", s.key)
		}
	}
}

func write(t *testing.T, file, content string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}
