package proxy

import (
	"math/rand/v2"
	"time"
)

// traceParentBytes is the length in version 00 (W3C Trace Context, section 3.2).
const traceParentBytes = 55

// appendTraceParent begins a trace. The sampled flag is set: nobody before us
// decided, and a function that samples by its parent would else never record
// anything. Trace ids are no secrets; math/rand/v2 costs no system call.
func appendTraceParent(dst []byte) []byte {
	dst = append(dst, "00-"...)
	dst = appendHex(dst, rand.Uint64()|1) // never all zero
	dst = appendHex(dst, rand.Uint64())
	dst = append(dst, '-')
	dst = appendHex(dst, rand.Uint64()|1)
	return append(dst, "-01"...)
}

func appendHex(dst []byte, n uint64) []byte {
	const digits = "0123456789abcdef"
	for shift := 60; shift >= 0; shift -= 4 {
		dst = append(dst, digits[n>>shift&15])
	}
	return dst
}

// validTraceParent follows W3C Trace Context, section 3.2.2: two hexadecimal
// digits each of version and flags, ids that are not all zero, lower case, and
// nothing behind in version 00.
func validTraceParent[S ~string | ~[]byte](s S) bool {
	if len(s) < traceParentBytes || s[2] != '-' || s[35] != '-' || s[52] != '-' {
		return false
	}
	if s[0] == 'f' && s[1] == 'f' {
		return false
	}
	if len(s) > traceParentBytes && (s[0] == '0' && s[1] == '0' || s[traceParentBytes] != '-') {
		return false
	}
	return lowerHex(s[:2]) && lowerHex(s[3:35]) && !zeros(s[3:35]) && lowerHex(s[36:52]) && !zeros(s[36:52]) && lowerHex(s[53:55])
}

func lowerHex[S ~string | ~[]byte](s S) bool {
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

func zeros[S ~string | ~[]byte](s S) bool {
	for i := range len(s) {
		if s[i] != '0' {
			return false
		}
	}
	return true
}

// appendTiming appends the Server-Timing value: where the time of an invocation
// went, up to the answer's head.
func appendTiming(dst []byte, queue, start, function time.Duration) []byte {
	dst = append(dst, "queue;dur="...)
	dst = appendMillis(dst, queue)
	dst = append(dst, ", start;dur="...)
	dst = appendMillis(dst, start)
	dst = append(dst, ", function;dur="...)
	return appendMillis(dst, function)
}

// appendMillis appends milliseconds with three decimals.
func appendMillis(dst []byte, d time.Duration) []byte {
	us := max(0, int64(d/time.Microsecond))
	dst = appendUint(dst, us/1000)
	us %= 1000
	return append(dst, '.', byte('0'+us/100), byte('0'+us/10%10), byte('0'+us%10))
}

func appendUint(dst []byte, n int64) []byte {
	var digits [20]byte
	i := len(digits)
	for {
		i--
		digits[i] = byte('0' + n%10)
		if n /= 10; n == 0 {
			return append(dst, digits[i:]...)
		}
	}
}
