package proxy

import (
	"errors"
	"io"
	"net/http"
	"net/textproto"
	"strings"

	"github.com/kilnfaas/kiln/gateway/proxy/wire"
)

// answer is what an instance answered, in the form of net/http. Its body is
// read from the connection.
type answer struct {
	status   int
	header   http.Header
	named    map[string]bool // lower-case fields that Connection lists
	announce []string        // trailers that were announced
	trailer  http.Header     // filled while the body is read
	body     io.Reader
	close    bool // the connection ends with the body
}

// readAnswer reads the next head, informational or final.
func (u *upstream) readAnswer(method string) (*answer, error) {
	scanned := 0
	for {
		n, err := wire.ResponseHeadEnd(u.buf[u.pos:u.end], scanned)
		if err != nil {
			return nil, err
		}
		if n > 0 {
			head := u.buf[u.pos : u.pos+n]
			u.pos += n
			return u.parse(head, method)
		}
		scanned = u.end - u.pos
		if err := u.fill(); err != nil {
			return nil, err
		}
	}
}

func (u *upstream) parse(head []byte, method string) (*answer, error) {
	var r wire.Response
	if err := r.Parse(head); err != nil {
		return nil, err
	}
	a := &answer{status: r.Status, header: make(http.Header, len(r.Fields)+4), close: r.Close}
	for _, f := range r.Fields {
		name := textproto.CanonicalMIMEHeaderKey(string(f.Name))
		a.header[name] = append(a.header[name], string(f.Value))
	}
	if r.Named {
		a.named = connectionNames(a.header)
	}
	for _, line := range a.header["Trailer"] {
		for name := range strings.SplitSeq(line, ",") {
			if name = textproto.CanonicalMIMEHeaderKey(strings.TrimSpace(name)); passedOn(name, nil) {
				a.announce = append(a.announce, name)
			}
		}
	}
	switch {
	case r.Bodyless(method == http.MethodHead):
		a.body = http.NoBody
	case r.Chunked:
		a.trailer = http.Header{}
		a.body = &chunkedBody{u: u, trailer: a.trailer}
	case r.ContentLength >= 0:
		a.body = &lengthBody{u: u, left: r.ContentLength}
	default:
		a.close = true
		a.body = endBody{u}
	}
	return a, nil
}

// lengthBody is a body of a known length.
type lengthBody struct {
	u    *upstream
	left int64
}

func (b *lengthBody) Read(p []byte) (int, error) {
	if b.left == 0 {
		return 0, io.EOF
	}
	n, err := b.u.read(p[:min(int64(len(p)), b.left)])
	if b.left -= int64(n); b.left == 0 {
		return n, io.EOF
	}
	return n, unexpected(err)
}

// endBody is a body that ends with its connection.
type endBody struct{ u *upstream }

func (b endBody) Read(p []byte) (int, error) { return b.u.read(p) }

// chunkedBody is a chunked body.
type chunkedBody struct {
	u       *upstream
	chunks  wire.Chunked
	trailer http.Header
}

func (b *chunkedBody) Read(p []byte) (n int, err error) {
	for n == 0 && err == nil && !b.chunks.Done() {
		if !b.u.pending() {
			if err := b.u.fill(); err != nil {
				return 0, unexpected(err)
			}
		}
		if err = b.frame(); err == nil {
			in := b.u.buf[b.u.pos:b.u.end]
			n = copy(p, in[:b.chunks.Data(min(len(in), len(p)))])
			b.u.pos += n
		}
	}
	if err == nil {
		err = b.frame() // what is left in the buffer is data, or nothing: pending tells
	}
	if err == nil && b.chunks.Done() {
		err = io.EOF
	}
	return n, err
}

func (b *chunkedBody) frame() error {
	n, err := b.chunks.Frame(b.u.buf[b.u.pos:b.u.end], b.field)
	b.u.pos += n
	return err
}

func (b *chunkedBody) field(f wire.Field) error {
	name := textproto.CanonicalMIMEHeaderKey(string(f.Name))
	if !passedOn(name, nil) || kindOf(name) == fieldLength {
		return nil // says something about this message only, or is not the function's to say
	}
	b.trailer[name] = append(b.trailer[name], string(f.Value))
	return nil
}

// unexpected makes the end of a connection within a message an error.
func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
