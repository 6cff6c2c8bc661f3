package proxy

import (
	"net/http"
	"strconv"
	"time"

	"github.com/kilnfaas/kiln/gateway/api"
	"github.com/kilnfaas/kiln/gateway/problem"
	"github.com/kilnfaas/kiln/orchestrator"
)

// maxDeadlineHeader bounds what is looked at: the longest RFC 3339 time.
const maxDeadlineHeader = 40

// ParseDeadline reads a client's Kiln-Deadline header: milliseconds since 1970,
// which is also what a function gets, or an RFC 3339 time. The error is ErrInvalid.
func ParseDeadline(s string) (time.Time, error) {
	if len(s) <= maxDeadlineHeader {
		if ms, err := strconv.ParseInt(s, 10, 64); err == nil && ms > 0 {
			return time.UnixMilli(ms), nil
		}
		if t, err := time.Parse(time.RFC3339Nano, s); err == nil {
			return t, nil
		}
		s = strconv.Quote(s)
	} else {
		s = "the value"
	}
	return time.Time{}, problem.WithStatus(http.StatusBadRequest,
		orchestrator.Errorf(orchestrator.ErrInvalid, CodeDeadline, "%s in %s is not a time", s, api.HeaderDeadline).
			WithHint("send milliseconds since 1970, or an RFC 3339 time such as 2026-01-31T12:00:00.5Z"))
}

// deadlineOf returns when an invocation that arrived then has to be over: the
// function's timeout later, or when the client says if that is sooner. The error
// is ErrInvalid, or ErrDeadline when that has passed.
func deadlineOf(arrived time.Time, timeout time.Duration, header string) (time.Time, error) {
	if timeout <= 0 {
		timeout = orchestrator.DefaultTimeout
	}
	deadline := arrived.Add(timeout)
	if header == "" {
		return deadline, nil
	}
	wanted, err := ParseDeadline(header)
	if err != nil {
		return time.Time{}, err
	}
	if left := wanted.Sub(arrived); left < timeout { // keeps arrived's monotonic clock
		deadline = arrived.Add(left)
		if left <= 0 {
			return time.Time{}, errTimeout(false)
		}
	}
	return deadline, nil
}
