package orchestrator_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/kilnfaas/kiln/orchestrator"
)

func TestValidateName(t *testing.T) {
	for _, name := range []string{"a", "hello", "a-b", "0x", strings.Repeat("a", 63)} {
		if err := orchestrator.ValidateName(name); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
	for _, name := range []string{"", "-a", "a-", "A", "a_b", "a.b", "a/b", "ä", "a b", "..", strings.Repeat("a", 64)} {
		if err := orchestrator.ValidateName(name); !errors.Is(err, orchestrator.ErrInvalid) {
			t.Errorf("%q: got %v, want an invalid name", name, err)
		}
	}
}

func TestParseBytes(t *testing.T) {
	for text, want := range map[string]orchestrator.Bytes{
		"0": 0, "1": 1, "128MiB": 128 << 20, "128M": 128 << 20, "64Mi": 64 << 20, "1.5GiB": 3 << 29, "2k": 2048, " 7 KiB ": 7168,
	} {
		if got, err := orchestrator.ParseBytes(text); err != nil || got != want {
			t.Errorf("%q: got %d, %v, want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "MiB", "-1", "1TiBB", "1.2.3M", "99999999999GiB", "NaN", "0x10", "1e3"} {
		if got, err := orchestrator.ParseBytes(text); !errors.Is(err, orchestrator.ErrInvalid) {
			t.Errorf("%q: got %d, %v", text, got, err)
		}
	}
}

func TestSpecJSONRoundTrip(t *testing.T) {
	want := orchestrator.DefaultSpec()
	want.Name, want.Template, want.Timeout = "hello", "python", orchestrator.Duration(90*time.Second)
	data, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{`"memory":"128MiB"`, `"timeout":"1m30s"`, `"keep_alive":"10m0s"`} {
		if !strings.Contains(string(data), text) {
			t.Errorf("%s lacks %s", data, text)
		}
	}
	var got orchestrator.Spec
	if err := json.Unmarshal(data, &got); err != nil || !orchestrator.SameInstances(got, want) || got.Timeout != want.Timeout {
		t.Errorf("got %+v, %v", got, err)
	}
	if err := json.Unmarshal([]byte(`{"timeout":"-1s"}`), &got); !errors.Is(err, orchestrator.ErrInvalid) {
		t.Errorf("a negative timeout: %v", err)
	}
}

func TestSameInstances(t *testing.T) {
	base := spec("hello")
	for name, change := range map[string]func(*orchestrator.Spec){
		"scale":   func(s *orchestrator.Spec) { s.Scale.Max = 99 },
		"timeout": func(s *orchestrator.Spec) { s.Timeout++ },
		"request": func(s *orchestrator.Spec) { s.MaxRequest++ },
	} {
		changed := base.Clone()
		change(&changed)
		if !orchestrator.SameInstances(base, changed) {
			t.Errorf("changing the %s asks for new containers", name)
		}
	}
	for name, change := range map[string]func(*orchestrator.Spec){
		"environment": func(s *orchestrator.Spec) { s.Env = map[string]string{"A": "1"} },
		"memory":      func(s *orchestrator.Spec) { s.Resources.Memory++ },
		"cpu":         func(s *orchestrator.Spec) { s.Resources.CPU = 2 },
		"tmp":         func(s *orchestrator.Spec) { s.Resources.Tmp++ },
		"handler":     func(s *orchestrator.Spec) { s.Handler = "x.py" },
		"concurrency": func(s *orchestrator.Spec) { s.Concurrency++ },
	} {
		changed := base.Clone()
		change(&changed)
		if orchestrator.SameInstances(base, changed) {
			t.Errorf("changing the %s keeps the containers", name)
		}
	}
}
