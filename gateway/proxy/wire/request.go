package wire

import "bytes"

// Request is the head of a request. Its slices point into the buffer that Parse
// read and are valid as long as that is not changed. A Request is reused: Parse
// overwrites everything and keeps the memory of Fields.
type Request struct {
	Method []byte
	Target []byte // origin-form: path and query
	Host   []byte
	Fields []Field // in order, Host and Content-Length included

	ContentLength int64 // -1 when there is none
	Chunked       bool
	Close         bool // the client wants the connection closed after the answer

	// Unusual is set when the head is not of the common form: HTTP/1.0, HTTP/2,
	// another form of target or bytes beyond ASCII in it, an expectation, an
	// upgrade, TE, announced trailers,
	// a Connection header that names fields. The rest of the head is then read
	// only as far as smuggling is concerned.
	Unusual bool

	old bool // before HTTP/1.1, or the preface of HTTP/2, which has no fields
}

var headEnd = []byte("\r\n\r\n")

// HeadEnd returns the length of the head at the beginning of buf, its empty line
// included, or 0 while it has not all come. The first scanned bytes were in an
// earlier call's buffer: a head that drips in is read once. It refuses a line
// that ends in a bare LF as soon as it sees it.
func HeadEnd(buf []byte, scanned int) (int, error) {
	from := max(0, scanned-len(headEnd)+1)
	if i := bytes.Index(buf[from:], headEnd); i >= 0 {
		if n := from + i + len(headEnd); n <= MaxHead {
			return n, nil
		}
		return 0, ErrTooLarge
	}
	if len(buf) >= MaxHead {
		return 0, ErrTooLarge
	}
	for rest := buf[from:]; ; {
		i := bytes.IndexByte(rest, '\n')
		if i < 0 {
			return 0, nil
		}
		if i == 0 && (len(rest) == len(buf) || buf[len(buf)-len(rest)-1] != '\r') || i > 0 && rest[i-1] != '\r' {
			return 0, ErrLineEnd
		}
		rest = rest[i+1:]
	}
}

// Parse reads head, which HeadEnd measured.
func (r *Request) Parse(head []byte) error {
	*r = Request{Fields: r.Fields[:0], ContentLength: -1}
	rest, err := r.parseLine(head)
	if err != nil {
		return err
	}
	s := requestFields{r: r}
	for {
		if len(rest) == 2 { // CRLF: HeadEnd saw it
			if rest[0] != '\r' || rest[1] != '\n' {
				return ErrLineEnd
			}
			return s.finish()
		}
		var f Field
		if f, rest, err = parseField(rest); err != nil {
			return err
		}
		if len(r.Fields) == MaxFields {
			return ErrTooMany
		}
		r.Fields = append(r.Fields, f)
		if err := s.see(f); err != nil {
			return err
		}
	}
}

// parseLine reads the request line.
func (r *Request) parseLine(head []byte) (rest []byte, err error) {
	i := 0
	for i < len(head) && class[head[i]]&tokenByte != 0 {
		i++
	}
	if i == 0 || head[i] != ' ' {
		return nil, ErrMethod
	}
	r.Method = head[:i]
	i++
	begin := i
	for i < len(head) && class[head[i]]&targetByte != 0 {
		i++
	}
	if r.Target = head[begin:i]; len(r.Target) == 0 || head[i] != ' ' {
		return nil, ErrTarget
	}
	const versionLine = len(" HTTP/1.1\r\n")
	if len(head)-i < versionLine || head[i+versionLine-2] != '\r' || head[i+versionLine-1] != '\n' {
		return nil, ErrLine
	}
	switch string(head[i+1 : i+versionLine-2]) {
	case "HTTP/1.1":
	case "HTTP/1.0":
		r.Unusual, r.old, r.Close = true, true, true
	case "HTTP/2.0":
		if string(r.Method) != "PRI" || string(r.Target) != "*" {
			return nil, ErrVersion
		}
		r.Unusual, r.old = true, true
	default:
		return nil, ErrVersion
	}
	if r.Target[0] != '/' {
		r.Unusual = true
	} else if err := r.parsePath(); err != nil {
		return nil, err
	}
	return head[i+versionLine:], nil
}

// parsePath checks that each % of the path begins an escape. Bytes beyond ASCII
// are unusual: net/http escapes them.
func (r *Request) parsePath() error {
	target := r.Target
	for i := 0; i < len(target) && target[i] != '?'; i++ {
		switch c := target[i]; {
		case c == '%' && (i+2 >= len(target) || class[target[i+1]]&class[target[i+2]]&hexByte == 0):
			return ErrTarget
		case c >= 0x80:
			r.Unusual = true
		}
	}
	return nil
}

// parseField reads a field line.
func parseField(b []byte) (f Field, rest []byte, err error) {
	i := 0
	for i < len(b) && class[b[i]]&tokenByte != 0 {
		i++
	}
	if i == 0 || i == len(b) || b[i] != ':' {
		if b[0] == ' ' || b[0] == '\t' {
			return f, nil, ErrFold
		}
		return f, nil, ErrName
	}
	f.Name = b[:i]
	i++
	begin := i
	for i < len(b) && class[b[i]]&valueByte != 0 {
		i++
	}
	if i+1 >= len(b) || b[i] != '\r' || b[i+1] != '\n' {
		if i < len(b) && b[i] != '\r' && b[i] != '\n' {
			return f, nil, ErrValue
		}
		return f, nil, ErrLineEnd
	}
	f.Value = trim(b[begin:i])
	return f, b[i+2:], nil
}

// requestFields gathers what the fields of a request say about its framing.
type requestFields struct {
	r                       *Request
	hosts, lengths, codings int
}

// see looks at one field. The switch on the length makes the common field cost
// one comparison.
func (s *requestFields) see(f Field) error {
	r := s.r
	switch len(f.Name) {
	case 2:
		r.Unusual = r.Unusual || equalFold(f.Name, "te")
	case 4:
		if equalFold(f.Name, "host") {
			s.hosts++
			r.Host = f.Value
		}
	case 6:
		r.Unusual = r.Unusual || equalFold(f.Name, "expect")
	case 7:
		r.Unusual = r.Unusual || equalFold(f.Name, "upgrade") || equalFold(f.Name, "trailer")
	case 10:
		if equalFold(f.Name, "connection") {
			s.connection(f.Value)
		}
	case 14:
		if equalFold(f.Name, "content-length") {
			s.lengths++
			if r.ContentLength = parseLength(f.Value); r.ContentLength < 0 {
				return ErrLength
			}
		}
	case 17:
		if equalFold(f.Name, "transfer-encoding") {
			s.codings++
			if !equalFold(f.Value, "chunked") {
				return ErrEncoding
			}
			r.Chunked = true
		}
	}
	return nil
}

// connection reads a Connection header.
func (s *requestFields) connection(value []byte) {
	switch {
	case equalFold(value, "keep-alive"):
	case equalFold(value, "close"):
		s.r.Close = true
	default:
		s.r.Unusual = true
	}
}

// finish judges the head as a whole.
func (s *requestFields) finish() error {
	r := s.r
	switch {
	case s.hosts > 1, s.hosts == 0 && !r.old, !all(r.Host, hostByte):
		return ErrHost
	case s.lengths > 0 && s.codings > 0:
		return ErrBothLengths
	case s.lengths > 1:
		return ErrLength
	case s.codings > 1, s.codings > 0 && r.old:
		return ErrEncoding // HTTP/1.0 knows no codings
	}
	return nil
}
