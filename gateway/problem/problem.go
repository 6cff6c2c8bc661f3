// Package problem turns errors into answers: RFC 9457 problem documents with a
// stable type, the request id and what to do next.
//
// It is the one place where an error class becomes an HTTP status. The control
// API and the data plane both answer with it, so that a caller sees the same
// document for the same error whichever of them refused.
//
// What a client sees comes from an *orchestrator.Error in the chain; its cause
// does not leave the process. An error without one is a defect of the platform:
// a bare 500, and Defect tells that its text belongs in the log.
package problem

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/kilnfaas/kiln/gateway/api"
	"github.com/kilnfaas/kiln/gateway/requestid"
	"github.com/kilnfaas/kiln/orchestrator"
)

// StatusClientGone is the status of a request whose client has left: it is in
// metrics and logs only, as nobody reads the answer. The number is nginx's.
const StatusClientGone = 499

// statusError gives an error another status than its class does.
type statusError struct {
	error
	status int
	header http.Header
}

func (e *statusError) Unwrap() error { return e.error }

// WithStatus gives err the HTTP status where its class alone would give another:
// a build that fails is 422 in the answer to a deploy, while a function that
// fails is 502 in the answer to an invocation. A nil error stays nil.
func WithStatus(status int, err error) error {
	if err == nil {
		return nil
	}
	return &statusError{error: err, status: status}
}

// withHeader adds a header to the answer.
func withHeader(err error, key, value string) error {
	status := &statusError{error: err, status: Status(err), header: http.Header{key: {value}}}
	return status
}

// statusOfCode are the codes that say more than their class does.
var statusOfCode = map[string]int{
	// Not the caller asks too much, the machine has no more.
	CodeNoCapacity: http.StatusServiceUnavailable,
	CodeStoreFull:  http.StatusServiceUnavailable,
	// The time that passed was the client's, not the function's.
	CodeRequestTimeout: http.StatusRequestTimeout,
	// Not that the caller may not: it is not known who calls.
	orchestrator.CodeTokenMissing: http.StatusUnauthorized,
	orchestrator.CodeTokenInvalid: http.StatusUnauthorized,
	orchestrator.CodeTokenExpired: http.StatusUnauthorized,
}

// Status returns the HTTP status for an error.
func Status(err error) int {
	var forced *statusError
	if errors.As(err, &forced) {
		return forced.status
	}
	known := visible(err)
	if status, ok := statusOfCode[known.Code]; ok {
		return status
	}
	for _, c := range classes {
		if c.class == known.Class {
			return c.status
		}
	}
	return http.StatusInternalServerError
}

// classes are the error classes with their status, and code and detail for an
// error that has a class and says no more.
var classes = []struct {
	class        error
	status       int
	code, detail string
}{
	{orchestrator.ErrFunction, http.StatusBadGateway, "function-failed", "the function failed"},
	{orchestrator.ErrNotFound, http.StatusNotFound, "not-found", "there is no such thing"},
	{orchestrator.ErrConflict, http.StatusConflict, "conflict", "the state changed meanwhile, or forbids this"},
	{orchestrator.ErrInvalid, http.StatusUnprocessableEntity, "invalid", "the request makes no sense"},
	{orchestrator.ErrDenied, http.StatusForbidden, "denied", "the caller may not do this"},
	{orchestrator.ErrTooLarge, http.StatusRequestEntityTooLarge, "too-large", "the request is over a limit"},
	{orchestrator.ErrUnavailable, http.StatusServiceUnavailable, "unavailable", "something that Kiln needs does not answer"},
	{orchestrator.ErrExhausted, http.StatusTooManyRequests, "exhausted", "a limit is reached"},
	{orchestrator.ErrDeadline, http.StatusGatewayTimeout, CodeDeadline, "the request took too long"},
	{context.DeadlineExceeded, http.StatusGatewayTimeout, CodeDeadline, "the request took too long"},
	{context.Canceled, StatusClientGone, CodeClientGone, "the client closed the connection"},
}

// visible returns what a client may see of an error.
func visible(err error) *orchestrator.Error {
	if known, ok := errors.AsType[*orchestrator.Error](err); ok {
		return known
	}
	if limit, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return orchestrator.Errorf(orchestrator.ErrTooLarge, CodeRequestTooLarge, "the request body is over %s", orchestrator.Bytes(limit.Limit))
	}
	for _, c := range classes {
		if errors.Is(err, c.class) {
			return &orchestrator.Error{Class: c.class, Code: c.code, Detail: c.detail, Cause: err}
		}
	}
	return &orchestrator.Error{
		Code: CodeInternal, Cause: err,
		Detail: "something went wrong inside Kiln",
		Hint:   "try again; if it happens again, look for the request id in the gateway's log and report it",
	}
}

// Defect says whether an error is the platform's own and its text is not in the
// answer, so that whoever answers with it should log it. A client that has
// left is none.
func Defect(err error) bool {
	return Status(err) == http.StatusInternalServerError
}

// defaultRetry is what a caller who asks too much is told to wait when nobody
// knows better: time for a queue of short calls to empty.
const defaultRetry = time.Second

// Document returns the problem document for an error.
func Document(err error, requestID string) *api.Error {
	status := Status(err)
	known := visible(err)
	document := &api.Error{
		Type:       api.TypePrefix + known.Code,
		Title:      Title(status),
		Status:     status,
		Detail:     shorten(known.Detail),
		Code:       known.Code,
		RequestID:  requestID,
		Hint:       shorten(known.Hint),
		Output:     known.Output,
		Fault:      Fault(err),
		RetryAfter: orchestrator.Duration(known.RetryAfter),
	}
	if document.RetryAfter == 0 && status == http.StatusTooManyRequests {
		document.RetryAfter = orchestrator.Duration(defaultRetry)
	}
	if requestID != "" {
		document.Instance = "urn:kiln:request:" + requestID
	}
	return document
}

// maxText bounds detail and hint, in bytes: a screen of text. Many quote what the
// client sent, which may be as long as a request's head.
const maxText = 1 << 10

func shorten(text string) string {
	if len(text) <= maxText {
		return text
	}
	return strings.ToValidUTF8(text[:maxText], "") + "…"
}

// Fault tells whose fault an error is. The function's are those that wrap
// ErrFunction anywhere in the chain: a deadline that passed while the function
// worked keeps the class ErrDeadline and has ErrFunction as its cause.
func Fault(err error) string {
	if errors.Is(err, orchestrator.ErrFunction) {
		return api.FaultFunction
	}
	return api.FaultPlatform
}

// Title returns the title of all problems with a status.
func Title(status int) string {
	switch status {
	case StatusClientGone:
		return "Client Closed Request"
	case http.StatusRequestEntityTooLarge:
		return "Content Too Large" // net/http has RFC 7231's older name
	case http.StatusUnprocessableEntity:
		return "Unprocessable Content"
	}
	return http.StatusText(status)
}

// Write answers a request with a problem document. The id is the one already
// set on the answer, else the request's own, else a new one. It replaces headers
// that described another body and must be called before anything is written.
func Write(w http.ResponseWriter, r *http.Request, err error) {
	header := w.Header()
	id := header.Get(api.HeaderRequestID)
	if id == "" {
		id = requestid.Of(r)
		header.Set(api.HeaderRequestID, id)
	}
	if forced := (*statusError)(nil); errors.As(err, &forced) {
		for key, values := range forced.header {
			header[key] = values
		}
	}
	document := Document(err, id)
	for _, key := range []string{"Content-Encoding", "Content-Disposition", "ETag", "Last-Modified", "Trailer"} {
		header.Del(key)
	}
	body := Encode(document)
	header.Set("Content-Type", api.MediaProblem)
	header.Set("Content-Length", strconv.Itoa(len(body)))
	header.Set("Cache-Control", "no-store")
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set(api.HeaderError, document.Fault)
	if document.Status == http.StatusUnauthorized {
		header.Set("WWW-Authenticate", `Bearer realm="kiln"`)
	}
	if document.RetryAfter > 0 {
		header.Set("Retry-After", RetryAfter(time.Duration(document.RetryAfter)))
	}
	w.WriteHeader(document.Status)
	w.Write(body) // a client that has left is no error of ours
}

// Encode returns a problem document as JSON with a line end.
func Encode(document *api.Error) []byte {
	body, err := json.Marshal(document)
	if err != nil {
		panic("problem: encode a document: " + err.Error()) // strings and numbers only
	}
	return append(body, '\n')
}

// RetryAfter returns the value of the header Retry-After: whole seconds, rounded
// up so that nobody comes too early.
func RetryAfter(d time.Duration) string {
	return strconv.Itoa(max(1, int((d+time.Second-1)/time.Second)))
}
