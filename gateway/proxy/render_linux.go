package proxy

import (
	"encoding/binary"
	"math/rand/v2"
	"time"
	"unsafe"

	"github.com/kilnfaas/kiln/gateway/api"
	"github.com/kilnfaas/kiln/gateway/auth"
	"github.com/kilnfaas/kiln/gateway/proxy/wire"
)

// view looks at bytes as a string for the length of a call that does not keep it.
func view(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// appendRequestID appends what requestid.New makes, a version 7 UUID, without
// allocating.
func appendRequestID(dst []byte, now time.Time) []byte {
	var id [16]byte
	binary.BigEndian.PutUint64(id[:8], uint64(now.UnixMilli())<<16|rand.Uint64()>>48)
	binary.BigEndian.PutUint64(id[8:], rand.Uint64())
	id[6] = id[6]&0x0f | 0x70
	id[8] = id[8]&0x3f | 0x80
	const digits = "0123456789abcdef"
	for i, b := range id {
		if i == 4 || i == 6 || i == 8 || i == 10 {
			dst = append(dst, '-')
		}
		dst = append(dst, digits[b>>4], digits[b&15])
	}
	return dst
}

// said are the fields of a request that the proxy reads, all slices of its head.
type said struct {
	requestID, deadline, traceParent []byte
	forwardedHost, forwardedProto    bool
	traceParents                     int
}

// listen gathers what a request says to the proxy.
func listen(fields []wire.Field) (s said) {
	for i := range fields {
		f := &fields[i]
		switch kindOf(f.Name) {
		case fieldKiln:
			if equalFold(f.Name, "kiln-request-id") {
				s.requestID = f.Value
			}
		case fieldDeadline:
			if s.deadline == nil {
				s.deadline = f.Value
			}
		case fieldTraceParent:
			s.traceParents++
			s.traceParent = f.Value
		case fieldForwardedHost:
			s.forwardedHost = true
		case fieldForwardedProto:
			s.forwardedProto = true
		}
	}
	return s
}

// valueOf returns the value of the first field of a name in lower case.
func valueOf(fields []wire.Field, lower string) []byte {
	for i := range fields {
		if equalFold(fields[i].Name, lower) {
			return fields[i].Value
		}
	}
	return nil
}

// forward is what the head of a request to an instance is made of, beside the
// client's own head.
type forward struct {
	target         []byte // path and query
	rootless       bool   // the target has no path: "/" comes before it
	name, revision string
	requestID      []byte
	peer           string // the client's address
	deadline       time.Time
	said           said
	token          string // Conns.token of the instance
}

// appendRequestHead appends the head of a request as the function gets it. It
// follows the same rules as exchange.appendHead.
func appendRequestHead(dst []byte, r *wire.Request, f *forward) []byte {
	dst = append(dst, r.Method...)
	dst = append(dst, ' ')
	if f.rootless {
		dst = append(dst, '/')
	}
	dst = append(dst, f.target...)
	dst = append(dst, " HTTP/1.1\r\nHost: "...)
	dst = append(dst, r.Host...)
	dst = append(dst, crlf...)
	trace := f.said.traceParents == 1 && validTraceParent(f.said.traceParent)
	dst = append(dst, "X-Forwarded-For: "...)
	for i := range r.Fields {
		if kindOf(r.Fields[i].Name) == fieldForwardedFor {
			dst = append(dst, r.Fields[i].Value...)
			dst = append(dst, ", "...)
		}
	}
	dst = append(dst, f.peer...)
	dst = append(dst, crlf...)
	for i := range r.Fields {
		field := &r.Fields[i]
		switch kindOf(field.Name) {
		case fieldEndToEnd, fieldForwardedHost, fieldForwardedProto, fieldLength:
		case fieldTraceParent, fieldTraceState:
			if !trace {
				continue
			}
		case fieldAuthorization:
			if auth.Shows(view(field.Value)) {
				continue
			}
		default:
			continue
		}
		dst = appendWire(dst, field)
	}
	if !f.said.forwardedHost {
		dst = append(dst, "X-Forwarded-Host: "...)
		dst = append(dst, r.Host...)
		dst = append(dst, crlf...)
	}
	if !f.said.forwardedProto {
		dst = append(dst, "X-Forwarded-Proto: http\r\n"...)
	}
	if !trace {
		dst = append(dst, "Traceparent: "...)
		dst = appendTraceParent(dst)
		dst = append(dst, crlf...)
	}
	dst = append(dst, api.HeaderRequestID+": "...)
	dst = append(dst, f.requestID...)
	dst = append(dst, crlf+api.HeaderDeadline+": "...)
	dst = appendUint(dst, f.deadline.UnixMilli())
	dst = append(dst, crlf+api.HeaderFunction+": "...)
	dst = append(dst, f.name...)
	dst = append(dst, crlf+api.HeaderRevision+": "...)
	dst = append(dst, f.revision...)
	dst = append(dst, crlf...)
	dst = append(dst, f.token...)
	return append(dst, crlf...)
}

func appendWire(dst []byte, f *wire.Field) []byte {
	dst = append(dst, f.Name...)
	dst = append(dst, ": "...)
	dst = append(dst, f.Value...)
	return append(dst, crlf...)
}

// reply is what the head of an answer to a client is made of, beside the
// instance's own head.
type reply struct {
	requestID              []byte
	revision               string
	queue, start, function time.Duration
	length                 bool // a Content-Length is told
	chunked                bool // the body is sent in chunks
	close                  bool // the client's connection ends with the answer
	date                   []byte
}

// appendReplyHead appends the head of an answer as the client gets it. It
// follows the same rules as exchange.copyHeader.
func appendReplyHead(dst []byte, r *wire.Response, p *reply) []byte {
	dst = appendStatus(dst, r)
	dated := false
	for i := range r.Fields {
		field := &r.Fields[i]
		if r.Named && namedByConnection(r, field.Name) {
			continue
		}
		switch kindOf(field.Name) {
		case fieldLength:
			continue
		case fieldTrailer:
			if !p.chunked {
				continue
			}
		default:
			if !passedOn(view(field.Name), nil) {
				continue
			}
		}
		dated = dated || len(field.Name) == 4 && equalFold(field.Name, "date")
		dst = appendWire(dst, field)
	}
	if !dated {
		dst = append(dst, "Date: "...)
		dst = append(dst, p.date...)
		dst = append(dst, crlf...)
	}
	switch {
	case p.length:
		dst = append(dst, "Content-Length: "...)
		dst = appendUint(dst, r.ContentLength)
		dst = append(dst, crlf...)
	case p.chunked:
		dst = append(dst, "Transfer-Encoding: chunked\r\n"...)
	}
	if p.close {
		dst = append(dst, "Connection: close\r\n"...)
	}
	if r.Status >= 500 {
		dst = append(dst, api.HeaderError+": "+api.FaultFunction+crlf...)
	}
	dst = append(dst, api.HeaderRequestID+": "...)
	dst = append(dst, p.requestID...)
	dst = append(dst, crlf+api.HeaderRevision+": "...)
	dst = append(dst, p.revision...)
	dst = append(dst, crlf+"Server-Timing: "...)
	dst = appendTiming(dst, p.queue, p.start, p.function)
	return append(dst, crlf+crlf...)
}

// appendInform appends an informational answer.
func appendInform(dst []byte, r *wire.Response) []byte {
	dst = appendStatus(dst, r)
	for i := range r.Fields {
		field := &r.Fields[i]
		if passedOn(view(field.Name), nil) && kindOf(field.Name) != fieldLength && !(r.Named && namedByConnection(r, field.Name)) {
			dst = appendWire(dst, field)
		}
	}
	return append(dst, crlf...)
}

func appendStatus(dst []byte, r *wire.Response) []byte {
	dst = append(dst, "HTTP/1.1 "...)
	dst = appendUint(dst, int64(r.Status))
	dst = append(dst, ' ')
	dst = append(dst, r.Reason...)
	return append(dst, crlf...)
}

// namedByConnection says whether a Connection header of the answer lists a field.
func namedByConnection(r *wire.Response, name []byte) bool {
	for i := range r.Fields {
		if kindOf(r.Fields[i].Name) != fieldConnection {
			continue
		}
		for listed := range wire.ConnectionNames(r.Fields[i].Value) {
			if wire.EqualFold(listed, name) {
				return true
			}
		}
	}
	return false
}
