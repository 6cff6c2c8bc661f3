package manifest_test

import (
	"encoding/json"
	"errors"
	"flag"
	"os"
	"testing"
	"testing/quick"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/manifest"
)

var update = flag.Bool("update", false, "write the golden files")

func TestMarshal(t *testing.T) {
	minimal := orchestrator.DefaultSpec()
	minimal.Name, minimal.Template = "hello", "go"
	for name, spec := range map[string]orchestrator.Spec{"complete": completeSpec(), "minimal": minimal} {
		golden := "testdata/" + name + ".yaml"
		got := manifest.Marshal(spec)
		if *update {
			if err := os.WriteFile(golden, got, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), string(got)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// Whatever a text holds, it comes back from YAML and from JSON.
func TestMarshalRoundTrip(t *testing.T) {
	texts := []string{"", "x", " x ", "yes", "null", "~", "1.10", "0x1f", "2001-01-01", "a: b", "- a", "#no", "a #b", "'q'", `"q"`, `\`, "a\nb", "a\r\nb\n", "\t", "{}", "[]",
		"*a", "&a", "!t", "%d", "@x", "`x`", "|", ">", "?", ":", "a:", "é😀", "\u2028", "\u0085", "\u00a0", "\ufeff", "\ufffd", "\ufffd\x01", `\ud83d`, "😀\x01", "\x7f", "\x01", "<b>&", "---", "...", "=", "<<", "true", "1_000", ".inf", "1e3", "12:30", "a:b", "http://x:80/y"}
	check := func(a, b string) bool {
		spec := completeSpec()
		spec.Env = map[string]string{"A": a, "B": b}
		return returns(t, spec)
	}
	for _, text := range texts {
		check(text, "x"+text)
	}
	if err := quick.Check(func(a, b string) bool { return check(valid(a), valid(b)) }, nil); err != nil {
		t.Error(err)
	}
}

// valid makes text that an environment may hold.
func valid(s string) string {
	return string([]rune(s)) // replaces what is not UTF-8
}

func returns(t *testing.T, spec orchestrator.Spec) bool {
	t.Helper()
	ok := true
	asJSON, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string][]byte{"yaml": manifest.Marshal(spec), "json": asJSON} {
		got, err := manifest.Apply(orchestrator.DefaultSpec(), manifest.Document{Name: name, Data: text})
		if err != nil {
			t.Errorf("%v in\n%s", err, text)
			ok = false
			continue
		}
		if diff := cmp.Diff(spec, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s\nof\n%s", name, diff, text)
			ok = false
		}
	}
	return ok
}

// FuzzManifest: never a panic, always an error of the right class, and what is
// accepted can be written and read again.
func FuzzManifest(f *testing.F) {
	f.Add([]byte(complete))
	f.Add([]byte("name: a\nenv: {A: null, B: |-\n  x\n}\n"))
	f.Add([]byte("triggers: [{name: a, type: b, x: {y: [1.5, true, \"0x1\"]}}]"))
	f.Add([]byte(`{"name":"a","scale":{"min":1},"env":{"A":"\ud83d\ude00"}}`))
	f.Add([]byte("? a\n: - - b\n- !x &y *z <<: %"))
	f.Add([]byte("env:\n  A: >-\n    folded\n    text\n\n    more\n  B: 'it''s'\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		spec, err := manifest.Apply(orchestrator.DefaultSpec(), manifest.Document{Name: "x", Data: data})
		if err != nil {
			var classed *orchestrator.Error
			if !errors.As(err, &classed) || classed.Code == "" || !errors.Is(err, orchestrator.ErrInvalid) && !errors.Is(err, orchestrator.ErrTooLarge) {
				t.Fatalf("class of %v", err)
			}
			return
		}
		written := manifest.Marshal(spec)
		if len(written) > manifest.MaxSize {
			return
		}
		again, err := manifest.Apply(orchestrator.DefaultSpec(), manifest.Document{Name: "written", Data: written})
		if err != nil {
			t.Fatalf("%v in\n%s", err, written)
		}
		if diff := cmp.Diff(spec, again, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("(-read +written and read):\n%s\nof\n%s", diff, written)
		}
	})
}
