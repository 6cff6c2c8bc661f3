package proxy

import (
	"net/http"
	"strings"
)

// fieldKind is what the proxy does with a header field.
type fieldKind uint8

const (
	fieldEndToEnd       fieldKind = iota // passed on as it is
	fieldHop                             // belongs to one connection: never passed on
	fieldConnection                      // hop, and names others that are
	fieldUpgrade                         // hop, but part of an upgrade
	fieldLength                          // Content-Length
	fieldEncoding                        // Transfer-Encoding
	fieldTrailer                         // Trailer: passed on with the trailers
	fieldTE                              // TE: "trailers" is passed on
	fieldExpect                          // Expect: answered by the proxy
	fieldHost                            // Host: passed on, but not as a field
	fieldKiln                            // Kiln-*: said by the platform only
	fieldDeadline                        // Kiln-Deadline: read, then said anew
	fieldForwardedFor                    // extended
	fieldForwardedHost                   // kept, else made
	fieldForwardedProto                  // kept, else made
	fieldAuthorization                   // passed on, unless it is one of Kiln's tokens
	fieldTraceParent                     // kept when valid, else made
	fieldTraceState                      // kept with a valid traceparent
)

// kindOf returns what a field name means, in any case. The switch on the length
// makes the common field, which is none of these, cost one comparison.
func kindOf[S ~string | ~[]byte](name S) fieldKind {
	if len(name) > 5 && equalFold(name[:5], "kiln-") {
		if equalFold(name, "kiln-deadline") {
			return fieldDeadline
		}
		return fieldKiln
	}
	switch len(name) {
	case 2:
		return pick(name, "te", fieldTE)
	case 4:
		return pick(name, "host", fieldHost)
	case 6:
		return pick(name, "expect", fieldExpect)
	case 7:
		if k := pick(name, "upgrade", fieldUpgrade); k != fieldEndToEnd {
			return k
		}
		return pick(name, "trailer", fieldTrailer)
	case 10:
		if k := pick(name, "connection", fieldConnection); k != fieldEndToEnd {
			return k
		}
		if k := pick(name, "tracestate", fieldTraceState); k != fieldEndToEnd {
			return k
		}
		return pick(name, "keep-alive", fieldHop)
	case 11:
		return pick(name, "traceparent", fieldTraceParent)
	case 13:
		return pick(name, "authorization", fieldAuthorization)
	case 14:
		return pick(name, "content-length", fieldLength)
	case 15:
		return pick(name, "x-forwarded-for", fieldForwardedFor)
	case 16:
		if k := pick(name, "x-forwarded-host", fieldForwardedHost); k != fieldEndToEnd {
			return k
		}
		return pick(name, "proxy-connection", fieldHop)
	case 17:
		if k := pick(name, "transfer-encoding", fieldEncoding); k != fieldEndToEnd {
			return k
		}
		return pick(name, "x-forwarded-proto", fieldForwardedProto)
	case 18:
		return pick(name, "proxy-authenticate", fieldHop)
	case 19:
		return pick(name, "proxy-authorization", fieldHop)
	}
	return fieldEndToEnd
}

func pick[S ~string | ~[]byte](name S, lower string, kind fieldKind) fieldKind {
	if equalFold(name, lower) {
		return kind
	}
	return fieldEndToEnd
}

// equalFold compares in ASCII without case; lower is in lower case.
func equalFold[S ~string | ~[]byte](s S, lower string) bool {
	if len(s) != len(lower) {
		return false
	}
	for i := range len(lower) {
		c := s[i]
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}

// connectionNames returns the lower-case field names that a Connection header
// lists: they belong to this connection and are not passed on.
func connectionNames(h http.Header) map[string]bool {
	var names map[string]bool
	for _, line := range h["Connection"] {
		for name := range strings.SplitSeq(line, ",") {
			name = strings.ToLower(strings.Trim(name, " \t"))
			if name == "" {
				continue
			}
			if names == nil {
				names = make(map[string]bool)
			}
			names[name] = true
		}
	}
	return names
}

// passedOn reports whether an answer's or a trailer's field goes to the client.
func passedOn(name string, named map[string]bool) bool {
	switch kindOf(name) {
	case fieldEndToEnd, fieldForwardedFor, fieldForwardedHost, fieldForwardedProto, fieldTraceParent, fieldTraceState, fieldAuthorization:
		return len(named) == 0 || !named[strings.ToLower(name)]
	case fieldLength, fieldExpect:
		return true
	}
	return false
}
