package wire

import "bytes"

// Response is the head of an answer. Its slices point into the buffer that Parse
// read. It is reused as a Request is.
//
// Instances are read more leniently than clients where nothing can be misread:
// a line may end in a bare LF, and a Content-Length may be repeated if it says
// the same. What the proxy passes on it writes anew.
type Response struct {
	Status int
	Reason []byte
	Fields []Field // in order, all of them

	ContentLength int64 // -1 when there is none
	Chunked       bool
	Close         bool // the instance closes the connection after the answer
	Trailer       bool // trailers are announced
	// Named is set when a Connection header names fields that are not to be
	// passed on. ConnectionNames tells which.
	Named bool
}

// ResponseHeadEnd is HeadEnd for answers, which may have lines that end in a
// bare LF.
func ResponseHeadEnd(buf []byte, scanned int) (int, error) {
	i := max(0, scanned-2)
	for {
		j := bytes.IndexByte(buf[i:], '\n')
		if j < 0 {
			break
		}
		i += j + 1
		switch {
		case i > MaxHead:
			return 0, ErrTooLarge
		case i < len(buf) && buf[i] == '\n':
			return i + 1, nil
		case i+1 < len(buf) && buf[i] == '\r' && buf[i+1] == '\n':
			return i + 2, nil
		}
	}
	if len(buf) >= MaxHead {
		return 0, ErrTooLarge
	}
	return 0, nil
}

// Parse reads head, which ResponseHeadEnd measured.
func (r *Response) Parse(head []byte) error {
	*r = Response{Fields: r.Fields[:0], ContentLength: -1}
	line, rest := cutLine(head)
	// "HTTP/1.1 200" and perhaps " OK"
	if len(line) < len("HTTP/1.1 200") || string(line[:7]) != "HTTP/1." || line[8] != ' ' {
		return ErrStatus
	}
	old := line[7] == '0'
	if !old && line[7] != '1' {
		return ErrStatus
	}
	for _, c := range line[9:12] {
		if c < '0' || c > '9' {
			return ErrStatus
		}
		r.Status = r.Status*10 + int(c-'0')
	}
	if r.Status < 100 || len(line) > 12 && line[12] != ' ' {
		return ErrStatus
	}
	if len(line) > 13 {
		if r.Reason = line[13:]; !all(r.Reason, valueByte) {
			return ErrStatus
		}
	}
	r.Close = old
	for {
		line, rest = cutLine(rest)
		if len(line) == 0 {
			return r.finish(old)
		}
		if len(r.Fields) == MaxFields {
			return ErrTooMany
		}
		f, err := splitField(line)
		if err != nil {
			return err
		}
		r.Fields = append(r.Fields, f)
		if err := r.see(f); err != nil {
			return err
		}
	}
}

// cutLine takes a line and its end off b, which ends in an empty line.
func cutLine(b []byte) (line, rest []byte) {
	i := bytes.IndexByte(b, '\n')
	if i < 0 {
		return nil, nil
	}
	line, rest = b[:i], b[i+1:]
	if i > 0 && line[i-1] == '\r' {
		line = line[:i-1]
	}
	return line, rest
}

// splitField reads a field line without its end.
func splitField(line []byte) (Field, error) {
	i := 0
	for i < len(line) && class[line[i]]&tokenByte != 0 {
		i++
	}
	if i == 0 || i == len(line) || line[i] != ':' {
		return Field{}, ErrName
	}
	value := trim(line[i+1:])
	if !all(value, valueByte) {
		return Field{}, ErrValue
	}
	return Field{line[:i], value}, nil
}

// see looks at one field.
func (r *Response) see(f Field) error {
	switch len(f.Name) {
	case 7:
		r.Trailer = r.Trailer || equalFold(f.Name, "trailer")
	case 10:
		if equalFold(f.Name, "connection") {
			r.connection(f.Value)
		}
	case 14:
		if equalFold(f.Name, "content-length") {
			n := parseLength(f.Value)
			if n < 0 || r.ContentLength >= 0 && n != r.ContentLength {
				return ErrLength
			}
			r.ContentLength = n
		}
	case 17:
		if equalFold(f.Name, "transfer-encoding") {
			if r.Chunked || !equalFold(f.Value, "chunked") {
				return ErrEncoding
			}
			r.Chunked = true
		}
	}
	return nil
}

// connection reads a Connection header.
func (r *Response) connection(value []byte) {
	for name := range ConnectionNames(value) {
		switch {
		case equalFold(name, "keep-alive"), equalFold(name, "upgrade"):
		case equalFold(name, "close"):
			r.Close = true
		default:
			r.Named = true
		}
	}
}

// ConnectionNames yields the names that the value of a Connection header lists.
func ConnectionNames(value []byte) func(yield func([]byte) bool) {
	return func(yield func([]byte) bool) {
		for len(value) > 0 {
			name := value
			if i := bytes.IndexByte(value, ','); i >= 0 {
				name, value = value[:i], value[i+1:]
			} else {
				value = nil
			}
			if name = trim(name); len(name) > 0 && !yield(name) {
				return
			}
		}
	}
}

// finish judges the head as a whole.
func (r *Response) finish(old bool) error {
	switch {
	case r.Chunked && r.ContentLength >= 0:
		return ErrBothLengths
	case r.Chunked && old:
		return ErrEncoding // HTTP/1.0 knows no codings
	}
	return nil
}

// Bodyless says whether the answer to a method has no body whatever its fields
// say (RFC 9112, section 6.3).
func (r *Response) Bodyless(head bool) bool {
	return head || r.Status < 200 || r.Status == 204 || r.Status == 304
}
