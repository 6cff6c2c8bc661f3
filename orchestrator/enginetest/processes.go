package enginetest

import (
	"os"
	"path/filepath"
	"strings"
)

// Processes counts processes of this machine with text on their command line. An
// engine elsewhere, or in a machine of its own, has none here.
func Processes(text string) int {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	n := 0
	for _, file := range files {
		line, err := os.ReadFile(file)
		if err == nil && strings.Contains(string(line), text) {
			n++
		}
	}
	return n
}
