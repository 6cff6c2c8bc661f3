package templates

import "bytes"

// sharedCache begins the ids of the cache mounts in which code that a function
// names runs: its dependencies' and its tests'. Mounts with other ids belong to
// steps that run Kiln's code alone.
const sharedCache = "id=kiln-shared-"

// WithOwnCaches returns a Dockerfile whose cache mounts are a function's own:
// what it puts there reaches nobody else's build. owner is made of letters that
// a name may have, and "-".
func WithOwnCaches(dockerfile []byte, owner string) []byte {
	return bytes.ReplaceAll(dockerfile, []byte(sharedCache), []byte("id=kiln-own-"+owner+"-"))
}
