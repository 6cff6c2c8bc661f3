package orchestrator

import (
	"errors"
	"fmt"
	"time"
)

// The error classes. Every error that leaves a contract of this package is, or
// wraps, exactly one of them; errors.Is tells which. An error of no class is a
// defect of the platform.
var (
	// ErrNotFound: what was named does not exist.
	ErrNotFound = errors.New("not found")
	// ErrConflict: the state changed meanwhile, or forbids the operation.
	ErrConflict = errors.New("conflict")
	// ErrInvalid: the input is wrong; the same call can never succeed.
	ErrInvalid = errors.New("invalid")
	// ErrDenied: the caller may not do this, or did not show that it may.
	ErrDenied = errors.New("denied")
	// ErrTooLarge: the input is over a limit.
	ErrTooLarge = errors.New("too large")
	// ErrUnavailable: a dependency does not answer; a later call may succeed.
	ErrUnavailable = errors.New("unavailable")
	// ErrExhausted: a bound is reached (queue, memory, builds); retry later.
	ErrExhausted = errors.New("exhausted")
	// ErrDeadline: the call's own time is over.
	ErrDeadline = errors.New("deadline exceeded")
	// ErrFunction: the function's own code is at fault: its build failed, it
	// did not start, or it died.
	ErrFunction = errors.New("function failed")
)

// Error is an error that may be shown to a client. Cause stays in the log.
type Error struct {
	Class error  // one of the classes above
	Code  string // stable kebab-case identifier, for example "archive-path-escapes"
	// Detail says what is wrong, in one sentence without a full stop.
	Detail string
	// Hint says what to do next; may be empty.
	Hint string
	// Output holds the last lines of a build or an instance; may be nil.
	Output []string
	// RetryAfter is how long a client should wait, 0 for unknown.
	RetryAfter time.Duration
	Cause      error
}

// Error returns the detail and the cause.
func (e *Error) Error() string {
	if _, formatted := e.Cause.(quiet); e.Cause != nil && !formatted {
		return fmt.Sprintf("%s: %v", e.Detail, e.Cause)
	}
	return e.Detail
}

// Unwrap makes errors.Is find the class and the cause.
func (e *Error) Unwrap() []error {
	if e.Cause != nil {
		return []error{e.Class, e.Cause}
	}
	return []error{e.Class}
}

// Errorf returns an *Error of a class with a stable code. A trailing error
// argument formatted with %w becomes part of the detail and of the chain.
func Errorf(class error, code, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Class: class, Code: code, Detail: err.Error(), Cause: hidden(errors.Unwrap(err))}
}

// WithHint sets the next step and returns the same error.
func (e *Error) WithHint(format string, args ...any) *Error {
	e.Hint = fmt.Sprintf(format, args...)
	return e
}

// hidden keeps an already formatted cause in the chain without printing it twice.
func hidden(err error) error {
	if err == nil {
		return nil
	}
	return quiet{err}
}

// quiet marks a cause that the detail already spells out.
type quiet struct{ error }

func (q quiet) Unwrap() error { return q.error }
