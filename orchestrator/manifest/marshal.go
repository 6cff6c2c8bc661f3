package manifest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"

	"github.com/kilnfaas/kiln/orchestrator"
)

// Marshal writes a spec as function.yaml. Apply of it to DefaultSpec gives the
// spec again; an empty map or list is left out.
func Marshal(spec orchestrator.Spec) []byte {
	var b bytes.Buffer
	writeKeys(&b, spec, keys, "")
	return b.Bytes()
}

const indent = "  "

func writeKeys(b *bytes.Buffer, spec orchestrator.Spec, table []key, prefix string) {
	for _, k := range table {
		if k.keys != nil {
			var inner bytes.Buffer
			writeKeys(&inner, spec, k.keys, prefix+indent)
			if inner.Len() > 0 {
				fmt.Fprintf(b, "%s%s:\n%s", prefix, k.name, inner.Bytes())
			}
			continue
		}
		inline, block := k.write(spec)
		if inline != "" {
			fmt.Fprintf(b, "%s%s: %s\n", prefix, k.name, inline)
		}
		if len(block) > 0 {
			fmt.Fprintf(b, "%s%s:\n", prefix, k.name)
		}
		for _, line := range block {
			fmt.Fprintf(b, "%s%s%s\n", prefix, indent, line)
		}
	}
}

// plain matches text that YAML reads as text without quotes.
var plain = regexp.MustCompile(`^[A-Za-z_/]([A-Za-z0-9_./+:-]*[A-Za-z0-9_./+-])?$`)

// words are what YAML, or older readers of it, take for something else.
var words = map[string]bool{"null": true, "true": true, "false": true, "yes": true, "no": true, "on": true, "off": true, "y": true, "n": true}

// quote writes text so that it is read as the same text. The quoted form is
// JSON's, which is YAML too.
func quote(s string) string {
	if plain.MatchString(s) && !words[strings.ToLower(s)] {
		return s
	}
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(s); err != nil {
		panic(fmt.Sprintf("manifest: quote a text: %v", err)) // a string always encodes
	}
	return strings.TrimSuffix(b.String(), "\n")
}
