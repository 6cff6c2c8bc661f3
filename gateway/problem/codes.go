package problem

import (
	"net/http"
	"strings"

	"github.com/kilnfaas/kiln/orchestrator"
)

// Codes of problems that the HTTP side finds by itself. The domain's packages
// have their own, named in their errors.
const (
	CodeInternal         = "internal"
	CodeRouteUnknown     = "route-unknown"
	CodeMethodNotAllowed = "method-not-allowed"
	CodeNotAcceptable    = "not-acceptable"
	CodeUnsupportedMedia = "media-type-unsupported"
	CodeRequestMalformed = "request-malformed"
	CodeRequestTooLarge  = "request-too-large"
	CodeRequestTimeout   = "request-timeout"
	CodeParameterInvalid = "parameter-invalid"
	CodeHeaderInvalid    = "header-invalid"
	CodeCrossOrigin      = "cross-origin"
	CodeInside           = "called-from-inside"
	CodeNotReady         = "not-ready"
	CodeClientGone       = "client-gone"
	CodeDeadline         = "deadline-exceeded"
	CodePrecondition     = "precondition-failed"
	CodeRange            = "range-not-satisfiable"
)

// Codes of the domain that have a status of their own.
const (
	CodeNoCapacity = "no-capacity" // ErrExhausted: no memory for an instance
	CodeStoreFull  = "store-full"  // ErrExhausted: the disk is full
)

// Malformed is a request that cannot be read: 400.
func Malformed(format string, args ...any) error {
	return WithStatus(http.StatusBadRequest,
		orchestrator.Errorf(orchestrator.ErrInvalid, CodeRequestMalformed, format, args...))
}

// Parameter is a query parameter with a wrong value: 400.
func Parameter(name, value, want string) error {
	return WithStatus(http.StatusBadRequest,
		orchestrator.Errorf(orchestrator.ErrInvalid, CodeParameterInvalid, "the parameter %s cannot be %q", name, value).
			WithHint("%s", want))
}

// ParameterUnknown is a query parameter that a route does not know: 400.
func ParameterUnknown(name string, known []string) error {
	hint := "there are no parameters here"
	if len(known) > 0 {
		hint = "the parameters here are: " + strings.Join(known, ", ")
	}
	return WithStatus(http.StatusBadRequest,
		orchestrator.Errorf(orchestrator.ErrInvalid, CodeParameterInvalid, "there is no parameter %.64q here", name).
			WithHint("%s", hint))
}

// RouteUnknown is a path that nothing answers: 404.
func RouteUnknown(path string) error {
	return orchestrator.Errorf(orchestrator.ErrNotFound, CodeRouteUnknown, "nothing answers at %s", path).
		WithHint("GET /openapi.yaml describes every route")
}

// MethodNotAllowed is a method that a path does not have: 405 with Allow.
func MethodNotAllowed(method, path string, allowed []string) error {
	err := orchestrator.Errorf(orchestrator.ErrInvalid, CodeMethodNotAllowed, "%s does not answer %s", path, method).
		WithHint("use %s", strings.Join(allowed, ", "))
	return withHeader(WithStatus(http.StatusMethodNotAllowed, err), "Allow", strings.Join(allowed, ", "))
}

// NotAcceptable is an Accept header that leaves nothing to answer with: 406.
func NotAcceptable(accept string, offers []string) error {
	return WithStatus(http.StatusNotAcceptable,
		orchestrator.Errorf(orchestrator.ErrInvalid, CodeNotAcceptable, "there is no answer in %q", accept).
			WithHint("accept %s", strings.Join(offers, " or ")))
}

// UnsupportedMedia is a request body in a form that is not read: 415.
func UnsupportedMedia(media string, readable []string) error {
	if media == "" {
		media = "no Content-Type"
	}
	err := orchestrator.Errorf(orchestrator.ErrInvalid, CodeUnsupportedMedia, "a body of %s is not read here", media).
		WithHint("send %s", strings.Join(readable, " or "))
	return WithStatus(http.StatusUnsupportedMediaType, err)
}

// CrossOrigin is a request that a web page of another site made: 403.
func CrossOrigin(cause error) error {
	return WithStatus(http.StatusForbidden, &orchestrator.Error{
		Class: orchestrator.ErrInvalid, Code: CodeCrossOrigin, Cause: cause,
		Detail: "a page of another site may not change functions",
		Hint:   "call the gateway from its own console, the CLI or a program",
	})
}

// Inside is a call of the control API from one of the functions: 403.
func Inside() error {
	return WithStatus(http.StatusForbidden, &orchestrator.Error{
		Class: orchestrator.ErrInvalid, Code: CodeInside,
		Detail: "functions may not use the control API",
		Hint:   "a function may call others below /invoke/; deploy and configure from outside",
	})
}

// RequestTimeout is a request whose body did not arrive in time: 408.
func RequestTimeout() error {
	return WithStatus(http.StatusRequestTimeout,
		orchestrator.Errorf(orchestrator.ErrDeadline, CodeRequestTimeout, "the request's body did not arrive in time"))
}

// Header is a header field with a wrong value: 400.
func Header(name, value, want string) error {
	return WithStatus(http.StatusBadRequest,
		orchestrator.Errorf(orchestrator.ErrInvalid, CodeHeaderInvalid, "the header %s cannot be %.80q", name, value).
			WithHint("%s", want))
}

// Precondition is a condition of the request that does not hold: 412.
func Precondition() error {
	err := orchestrator.Errorf(orchestrator.ErrConflict, CodePrecondition, "what is there is not what the request expects")
	return WithStatus(http.StatusPreconditionFailed, err.WithHint("look at it again: HEAD tells the ETag"))
}

// Range is a range of a body that has no such bytes: 416.
func Range() error {
	return WithStatus(http.StatusRequestedRangeNotSatisfiable,
		orchestrator.Errorf(orchestrator.ErrInvalid, CodeRange, "there are no such bytes").WithHint("Content-Range tells how many there are"))
}
