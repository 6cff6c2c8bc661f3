package templates

import (
	"bytes"
	"regexp"
)

// mountOptions are the --mount options at the beginning of a RUN instruction,
// which may span lines.
var mountOptions = regexp.MustCompile(`(?mi)^([ \t]*RUN[ \t]+)((?:--mount=\S+[ \t]*(?:\\\n[ \t]*)?)+)`)

// ForClassic returns a Dockerfile for the classic builder, which does not know
// the --mount option of RUN: without cache mounts a build is slower, not
// different. Only mounts of type cache may be left out this way.
func ForClassic(dockerfile []byte) []byte {
	return mountOptions.ReplaceAllFunc(dockerfile, func(run []byte) []byte {
		parts := mountOptions.FindSubmatch(run)
		for _, option := range bytes.Fields(parts[2]) {
			if bytes.HasPrefix(option, []byte("--mount=")) && !bytes.Contains(option, []byte("type=cache")) {
				return run
			}
		}
		return parts[1]
	})
}
