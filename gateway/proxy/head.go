package proxy

import (
	"net/http"
	"slices"
	"strings"

	"golang.org/x/net/http/httpguts"

	"github.com/kilnfaas/kiln/gateway/api"
	"github.com/kilnfaas/kiln/gateway/auth"
)

// isUpgrade says whether a request asks to change the protocol.
func isUpgrade(r *http.Request) bool {
	return r.ProtoMajor == 1 && r.ContentLength == 0 && len(r.Header["Upgrade"]) == 1 &&
		httpguts.HeaderValuesContainsToken(r.Header["Connection"], "upgrade")
}

// appendHead appends the request's head as the function gets it.
func (x *exchange) appendHead(dst []byte) []byte {
	r := x.r
	dst = append(dst, r.Method...)
	dst = append(dst, ' ')
	dst = append(dst, x.target...)
	dst = append(dst, " HTTP/1.1\r\n"...)
	dst = appendField(dst, "Host", r.Host)
	named := connectionNames(r.Header)
	trace := validTraceParent(r.Header.Get("Traceparent")) && len(r.Header["Traceparent"]) == 1
	for name, values := range r.Header {
		if len(named) > 0 && named[strings.ToLower(name)] {
			continue
		}
		switch kindOf(name) {
		case fieldEndToEnd, fieldForwardedHost, fieldForwardedProto:
		case fieldTraceParent, fieldTraceState:
			if !trace {
				continue
			}
		case fieldAuthorization:
			values = slices.DeleteFunc(slices.Clone(values), func(value string) bool { return auth.Shows(value) })
		default:
			continue
		}
		for _, value := range values {
			dst = appendField(dst, name, value)
		}
	}
	dst = x.appendConnection(dst)
	dst = x.appendFraming(dst)
	dst = x.appendForwarded(dst)
	if !trace {
		dst = append(dst, "Traceparent: "...)
		dst = appendTraceParent(dst)
		dst = append(dst, "\r\n"...)
	}
	dst = appendField(dst, api.HeaderRequestID, x.requestID)
	dst = append(dst, api.HeaderDeadline+": "...)
	dst = appendUint(dst, x.deadline.UnixMilli())
	dst = append(dst, "\r\n"...)
	dst = appendField(dst, api.HeaderFunction, x.name)
	dst = appendField(dst, api.HeaderRevision, x.route.Release.Revision.ID)
	dst = append(dst, x.u.conns.token...)
	return append(dst, "\r\n"...)
}

func appendField(dst []byte, name, value string) []byte {
	dst = append(dst, name...)
	dst = append(dst, ": "...)
	dst = append(dst, value...)
	return append(dst, "\r\n"...)
}

// appendConnection appends what concerns the connection to the instance.
func (x *exchange) appendConnection(dst []byte) []byte {
	if isUpgrade(x.r) {
		return appendField(appendField(dst, "Connection", "Upgrade"), "Upgrade", x.r.Header["Upgrade"][0])
	}
	if httpguts.HeaderValuesContainsToken(x.r.Header["Te"], "trailers") {
		return append(dst, "Connection: TE\r\nTE: trailers\r\n"...)
	}
	return dst
}

// appendFraming appends how the body's end is told.
func (x *exchange) appendFraming(dst []byte) []byte {
	r := x.r
	switch {
	case r.ContentLength > 0 || r.ContentLength == 0 && len(r.Header["Content-Length"]) > 0:
		dst = append(dst, "Content-Length: "...)
		dst = appendUint(dst, r.ContentLength)
		dst = append(dst, "\r\n"...)
	case r.ContentLength < 0:
		dst = append(dst, "Transfer-Encoding: chunked\r\n"...)
		for name := range r.Trailer {
			if passedOn(name, nil) {
				dst = appendField(dst, "Trailer", name)
			}
		}
	}
	return dst
}

// appendForwarded appends who called. The chain of X-Forwarded-For is extended;
// host and protocol are those that a proxy before us told, else our own.
func (x *exchange) appendForwarded(dst []byte) []byte {
	r := x.r
	dst = append(dst, "X-Forwarded-For: "...)
	for _, value := range r.Header["X-Forwarded-For"] {
		dst = append(dst, value...)
		dst = append(dst, ", "...)
	}
	dst = append(dst, x.peer()...)
	dst = append(dst, "\r\n"...)
	if len(r.Header["X-Forwarded-Host"]) == 0 {
		dst = appendField(dst, "X-Forwarded-Host", r.Host)
	}
	if len(r.Header["X-Forwarded-Proto"]) == 0 {
		proto := "http"
		if r.TLS != nil {
			proto = "https"
		}
		dst = appendField(dst, "X-Forwarded-Proto", proto)
	}
	return dst
}
