package entry_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kilnfaas/kiln/orchestrator/entry"
)

func TestTakeWhatWasWritten(t *testing.T) {
	secrets := map[string][]byte{"API_KEY": []byte("v4lue\n"), "a.b": {0, 255}, "empty": {}}
	var sent bytes.Buffer
	if err := entry.Write(&sent, secrets); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	// The input may stay open behind the document.
	if err := entry.Take(bytes.NewReader(append(sent.Bytes(), "more"...)), dir); err != nil {
		t.Fatal(err)
	}
	for name, want := range secrets {
		got, err := os.ReadFile(filepath.Join(dir, name))
		info, statErr := os.Stat(filepath.Join(dir, name))
		if err != nil || statErr != nil || !bytes.Equal(got, want) || info.Mode() != 0o400 {
			t.Errorf("%s: got %q with mode %v, %v %v; want %q", name, got, info.Mode(), err, statErr, want)
		}
	}
}

// TestRefusals: nothing is begun with half of the secrets, nothing is written
// elsewhere, and no message has a value.
func TestRefusals(t *testing.T) {
	for name, sent := range map[string]string{
		"nothing":     "",
		"half":        `{"A":"djRsdWU`,
		"no base64":   `{"A":"v4lue?"}`,
		"a list":      `["djRsdWU="]`,
		"a number":    `{"A":12}`,
		"outside":     `{"../A":"djRsdWU="}`,
		"in a folder": `{"a/b":"djRsdWU="}`,
		"a folder":    `{"..":"djRsdWU="}`,
		"no name":     `{"":"djRsdWU="}`,
		"over a file": `{"there":"djRsdWU="}`,
		"a zero byte": `{"a\u0000":"djRsdWU="}`,
		"too much":    `{"A":"` + strings.Repeat("djRsdWU0", 2<<20),
	} {
		t.Run(name, func(t *testing.T) {
			outer := t.TempDir()
			dir := filepath.Join(outer, "dir")
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, "there"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
			var stderr bytes.Buffer
			code := entry.Main(dir, []string{"/bin/false"}, strings.NewReader(sent), &stderr)
			if code != 125 || !strings.Contains(stderr.String(), "kiln: take the secrets: ") {
				t.Errorf("got %d, %q", code, &stderr)
			}
			if strings.Contains(stderr.String(), "djRsdWU") || strings.Contains(stderr.String(), "v4lue") {
				t.Errorf("the message has the value: %q", &stderr)
			}
			for folder, want := range map[string]int{outer: 1, dir: 1} {
				if left, err := os.ReadDir(folder); err != nil || len(left) != want {
					t.Errorf("%s has %v, %v", folder, left, err)
				}
			}
		})
	}
	var stderr bytes.Buffer
	if code := entry.Main(t.TempDir(), nil, strings.NewReader("{}"), &stderr); code != 125 {
		t.Errorf("without a command: got %d, %q", code, &stderr)
	}
}
