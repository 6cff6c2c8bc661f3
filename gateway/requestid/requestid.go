// Package requestid names requests, so that an answer, a log line and the
// function's own logs can be matched.
package requestid

import (
	"encoding/binary"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/google/uuid"

	"github.com/kilnfaas/kiln/gateway/api"
)

// maxLength bounds an id that a client brings: longer than any common tracing
// id, short enough for every log line.
const maxLength = 128

// New returns a version 7 UUID (RFC 9562): it begins with the time, so that ids
// sort as requests came. Its randomness is not for secrets; it costs no
// system call and one allocation, as every invocation needs one.
func New() string {
	var id uuid.UUID
	binary.BigEndian.PutUint64(id[:8], uint64(time.Now().UnixMilli())<<16|rand.Uint64()>>48)
	binary.BigEndian.PutUint64(id[8:], rand.Uint64())
	id[6] = id[6]&0x0f | 0x70 // version 7
	id[8] = id[8]&0x3f | 0x80 // variant of the RFC
	return id.String()
}

// Of returns the id that a request brings if it is valid, else a new one.
func Of(r *http.Request) string {
	if id := r.Header.Get(api.HeaderRequestID); Valid(id) {
		return id
	}
	return New()
}

// Valid says whether id is 1 to 128 of letters, digits, '.', '_' and '-': safe
// in headers, logs and addresses.
func Valid(id string) bool {
	if id == "" || len(id) > maxLength {
		return false
	}
	for i := range len(id) {
		c := id[i]
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !letter && c != '.' && c != '_' && c != '-' {
			return false
		}
	}
	return true
}
