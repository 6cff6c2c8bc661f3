// Package wire reads HTTP/1.1 messages in place: heads as slices of the buffer
// they arrived in, chunked bodies as spans of it. It allocates nothing.
//
// Requests are read strictly. What two parsers could understand differently is
// refused, because that is how requests are smuggled past a proxy: both
// Content-Length and Transfer-Encoding, more than one of either, folded lines,
// lines that end in a bare LF, a CR alone, NUL and other control characters,
// space before a colon, anything but "chunked" as an encoding. Nothing that
// net/http refuses is accepted; FuzzRequest compares the two.
//
// A request that is valid as far as it was read, but not of the common form, is
// Unusual: net/http is to read it again from its first byte.
package wire

// Limits of a message.
const (
	// MaxHead bounds the head of a message: request line or status line and
	// fields. 64 KiB holds every cookie jar that browsers send.
	MaxHead = 64 << 10
	// MaxFields bounds the number of fields, so that a head costs bounded work
	// beside its bytes.
	MaxFields = 256
	// maxLengthDigits keeps Content-Length within an int64.
	maxLengthDigits = 18
)

// Error is why a message is refused, with the status a client is answered with.
// All errors of the package are of this type; they are values that exist once.
type Error struct {
	Status int
	Text   string
}

// Error returns what is wrong.
func (e *Error) Error() string { return e.Text }

// The errors.
var (
	ErrTooLarge     = &Error{431, "the head of the request is too large"}
	ErrTooMany      = &Error{431, "the request has too many header fields"}
	ErrLine         = &Error{400, "the request line is malformed"}
	ErrMethod       = &Error{400, "the method is not a token"}
	ErrTarget       = &Error{400, "the request target has characters that are not allowed"}
	ErrVersion      = &Error{505, "the HTTP version is not supported"}
	ErrName         = &Error{400, "a header name is malformed"}
	ErrValue        = &Error{400, "a header value has control characters"}
	ErrFold         = &Error{400, "a header line is folded"}
	ErrLineEnd      = &Error{400, "a line does not end in CRLF"}
	ErrHost         = &Error{400, "the Host header is missing, repeated or malformed"}
	ErrLength       = &Error{400, "the Content-Length is malformed or repeated"}
	ErrBothLengths  = &Error{400, "both Content-Length and Transfer-Encoding are there"}
	ErrEncoding     = &Error{501, "the Transfer-Encoding is not chunked"}
	ErrStatus       = &Error{502, "the status line is malformed"}
	ErrChunk        = &Error{400, "the chunked body is malformed"}
	ErrChunkExt     = &Error{400, "a chunk extension is malformed or too long"}
	ErrTrailer      = &Error{400, "a trailer field is malformed or not allowed"}
	ErrTrailerLarge = &Error{431, "the trailer section is too large"}
)

// Field is one header field: slices of the buffer that was read. Value has no
// white space around it.
type Field struct{ Name, Value []byte }

// Classes of bytes.
const (
	tokenByte  = 1 << iota // tchar of RFC 9110, section 5.6.2
	valueByte              // field content: no control characters but HTAB
	targetByte             // request target: visible, no '#'
	hexByte                // hexadecimal digit
	hostByte               // what httpguts.ValidHostHeader takes
)

var class = classes()

func classes() (t [256]uint8) {
	for c := range 256 {
		alnum := '0' <= c && c <= '9' || 'A' <= c && c <= 'Z' || 'a' <= c && c <= 'z'
		if alnum {
			t[c] |= tokenByte | hostByte
		}
		if c >= ' ' && c != 0x7f || c == '\t' {
			t[c] |= valueByte
		}
		if c > ' ' && c != 0x7f && c != '#' {
			t[c] |= targetByte
		}
		if '0' <= c && c <= '9' || 'A' <= c && c <= 'F' || 'a' <= c && c <= 'f' {
			t[c] |= hexByte
		}
	}
	for _, c := range "!#$%&'*+-.^_`|~" {
		t[c] |= tokenByte
	}
	for _, c := range "!$%&'()*+,-.:;=[]_~" {
		t[c] |= hostByte
	}
	return t
}

func all(b []byte, bit uint8) bool {
	for _, c := range b {
		if class[c]&bit == 0 {
			return false
		}
	}
	return true
}

// equalFold compares in ASCII without case; name is in lower case.
func equalFold(b []byte, name string) bool {
	if len(b) != len(name) {
		return false
	}
	for i := range len(name) {
		if lower(b[i]) != name[i] {
			return false
		}
	}
	return true
}

// EqualFold compares two names in ASCII without case.
func EqualFold(a, b []byte) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if lower(a[i]) != lower(b[i]) {
			return false
		}
	}
	return true
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + ('a' - 'A')
	}
	return c
}

// trim removes optional white space.
func trim(b []byte) []byte {
	for len(b) > 0 && (b[0] == ' ' || b[0] == '\t') {
		b = b[1:]
	}
	for len(b) > 0 && (b[len(b)-1] == ' ' || b[len(b)-1] == '\t') {
		b = b[:len(b)-1]
	}
	return b
}

// parseLength reads a Content-Length; -1 when it is not one.
func parseLength(b []byte) int64 {
	if len(b) == 0 || len(b) > maxLengthDigits {
		return -1
	}
	var n int64
	for _, c := range b {
		if c < '0' || c > '9' {
			return -1
		}
		n = n*10 + int64(c-'0')
	}
	return n
}
