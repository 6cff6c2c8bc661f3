package api

import (
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/kilnfaas/kiln/orchestrator"
)

// TypePrefix begins the type of every problem; the code follows. The type is
// an identifier, not an address.
const TypePrefix = "urn:kiln:error:"

// Error is a problem document (RFC 9457), and the error that Client's methods
// return for an answer that is not a success.
type Error struct {
	Type   string `json:"type"`   // TypePrefix and Code
	Title  string `json:"title"`  // the class in a few words, the same for each Type
	Status int    `json:"status"` // of the answer
	Detail string `json:"detail,omitempty"`
	// Instance identifies this occurrence: "urn:kiln:request:" and RequestID.
	Instance  string `json:"instance,omitempty"`
	Code      string `json:"code"` // stable kebab-case identifier
	RequestID string `json:"request_id,omitempty"`
	Hint      string `json:"hint,omitempty"` // what to do next
	// Output holds the last lines of a build or an instance.
	Output []string `json:"output,omitempty"`
	// Fault is whose fault it was: FaultPlatform or FaultFunction.
	Fault string `json:"fault,omitempty"`
	// RetryAfter is how long to wait before trying again, 0 for unknown.
	RetryAfter orchestrator.Duration `json:"retry_after,omitzero"`
}

// Error returns the detail, else the title.
func (e *Error) Error() string {
	switch {
	case e.Detail != "":
		return e.Detail
	case e.Title != "":
		return strings.ToLower(e.Title)
	}
	return fmt.Sprintf("the gateway answered %d", e.Status)
}

// Unwrap returns the error class of the domain that the answer stands for, nil
// for a defect of the platform.
func (e *Error) Unwrap() error {
	if e.Fault == FaultFunction {
		return orchestrator.ErrFunction
	}
	switch e.Status {
	case http.StatusUnauthorized, http.StatusForbidden:
		return orchestrator.ErrDenied
	case http.StatusNotFound:
		return orchestrator.ErrNotFound
	case http.StatusConflict:
		return orchestrator.ErrConflict
	case http.StatusRequestEntityTooLarge:
		return orchestrator.ErrTooLarge
	case http.StatusTooManyRequests:
		return orchestrator.ErrExhausted
	case http.StatusServiceUnavailable:
		return orchestrator.ErrUnavailable
	case http.StatusRequestTimeout, http.StatusGatewayTimeout:
		return orchestrator.ErrDeadline
	}
	if e.Status >= 400 && e.Status < 500 {
		return orchestrator.ErrInvalid
	}
	return nil
}

// Bounds of what is read of an answer that is an error.
const (
	maxProblem = 4 << 20 // a problem with the last lines of a build
	maxForeign = 1 << 10 // of an answer that is none of the gateway's, to show
)

// ReadError returns the error that an answer tells: its problem document, or
// for an answer of something else between client and gateway its status and
// the beginning of its body. It reads the body and does not close it.
func ReadError(response *http.Response) *Error {
	e := &Error{}
	media, _, _ := mime.ParseMediaType(response.Header.Get("Content-Type")) // unreadable = not a problem document
	if media != MediaProblem || json.NewDecoder(io.LimitReader(response.Body, maxProblem)).Decode(e) != nil {
		*e = *foreignError(response)
	}
	e.Status = response.StatusCode
	if e.RequestID == "" {
		e.RequestID = response.Header.Get(HeaderRequestID)
	}
	if e.Fault == "" {
		e.Fault = response.Header.Get(HeaderError)
	}
	if seconds, err := strconv.Atoi(response.Header.Get("Retry-After")); err == nil && seconds > 0 && e.RetryAfter == 0 {
		e.RetryAfter = orchestrator.Duration(time.Duration(seconds) * time.Second)
	}
	return e
}

// foreignError describes an answer without a problem document.
func foreignError(response *http.Response) *Error {
	e := &Error{
		Type:   "about:blank",
		Title:  http.StatusText(response.StatusCode),
		Detail: fmt.Sprintf("%s answered %s", response.Request.URL.Host, response.Status),
		Hint:   "check that --gateway is the address of a Kiln gateway",
	}
	if body, err := io.ReadAll(io.LimitReader(response.Body, maxForeign)); err == nil {
		if text := strings.TrimSpace(string(body)); text != "" {
			e.Output = strings.Split(text, "\n")
		}
	}
	return e
}
