package events

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/kilnfaas/kiln/orchestrator"
)

const (
	// deferBase and deferMax are the pauses after what is nobody's attempt: a
	// full queue is over soon, a dependency that is away is asked for gently.
	deferBase = 100 * time.Millisecond
	deferMax  = 10 * time.Second
	// maxRetryAfter bounds what a function may ask for with Retry-After.
	maxRetryAfter = 15 * time.Minute
	// maxDoublings keeps a pause from overflowing.
	maxDoublings = 30
)

// Answer is what one attempt brought: the answer of what was called, or Err.
// Err has a class of package orchestrator; ErrFunction anywhere in its chain
// says that the function is to blame.
type Answer struct {
	Status    int
	Header    http.Header
	Body      []byte
	Truncated bool // Body is only the beginning
	Revision  string
	Err       error
}

// Try is an attempt that has ended, for Decide.
type Try struct {
	Counted  int           // attempts of the invocation that counted before
	Deferred int           // times in a row that it was put off before
	Age      time.Duration // since the call
	Answer   Answer
	Jitter   float64 // random, 0 to 1
}

// Verdict is what happens to an invocation after an attempt.
type Verdict struct {
	Status  orchestrator.InvocationStatus // waiting (again), succeeded or failed
	Counted bool                          // the attempt uses up one of the policy's
	Wait    time.Duration                 // until the next one
	Reason  string                        // why it was no success
}

// Decide says what happens after an attempt:
//
//   - an answer below 400 is a success;
//   - 429, and what the platform is to blame for (a full queue, no capacity, a
//     dependency away, the gateway stopping), counts for nothing and is tried
//     again after min(10 s, 100 ms * 2^n), or when Retry-After says;
//   - a status of the policy, a function that died, did not start or did not
//     answer in time is tried again after min(backoff_max, backoff * 2^(n-1)),
//     up to the number of attempts;
//   - all else fails at once: the same call can never succeed.
//
// Each pause is taken by half at random, so that calls that failed together do
// not come back together. No attempt begins after max_age.
func Decide(policy orchestrator.Async, t Try) Verdict {
	v := Verdict{Reason: reason(t.Answer)}
	var wait time.Duration
	switch kind(policy, t.Answer) {
	case fine:
		return Verdict{Status: orchestrator.InvocationSucceeded, Counted: true}
	case hopeless:
		v.Counted, v.Status = t.Answer.Err == nil || errors.Is(t.Answer.Err, orchestrator.ErrFunction), orchestrator.InvocationFailed
		return v
	case putOff:
		wait = doubled(deferBase, deferMax, t.Deferred)
	case retried:
		v.Counted = true
		if t.Counted+1 >= policy.Attempts {
			v.Status = orchestrator.InvocationFailed
			v.Reason = fmt.Sprintf("all %d attempts failed, the last one with: %s", policy.Attempts, v.Reason)
			return v
		}
		wait = doubled(time.Duration(policy.Backoff), time.Duration(policy.BackoffMax), t.Counted)
	}
	wait = wait/2 + time.Duration(t.Jitter*float64(wait/2))
	v.Wait = max(wait, min(retryAfter(t.Answer), maxRetryAfter))
	if t.Age+v.Wait > time.Duration(policy.MaxAge) {
		v.Status = orchestrator.InvocationFailed
		v.Reason = fmt.Sprintf("older than max_age (%s), the last attempt ended with: %s", policy.MaxAge, v.Reason)
		v.Wait = 0
		return v
	}
	v.Status = orchestrator.InvocationWaiting
	return v
}

// outcome is a kind of answer.
type outcome int

const (
	fine outcome = iota
	retried
	putOff
	hopeless
)

func kind(policy orchestrator.Async, a Answer) outcome {
	switch {
	case a.Err == nil && a.Status < http.StatusBadRequest:
		return fine
	case a.Err == nil && a.Status == http.StatusTooManyRequests && !slices.Contains(policy.RetryOn, "429"):
		return putOff
	case a.Err == nil && retries(policy.RetryOn, a.Status):
		return retried
	case a.Err == nil:
		return hopeless
	case errors.Is(a.Err, orchestrator.ErrFunction):
		return retried
	}
	for _, class := range []error{orchestrator.ErrNotFound, orchestrator.ErrInvalid, orchestrator.ErrTooLarge, orchestrator.ErrConflict} {
		if errors.Is(a.Err, class) {
			return hopeless
		}
	}
	return putOff
}

// defaultRetryOn is what is tried again when the function's settings say
// nothing: it did not get the request in time, is not ready for it, or failed.
var defaultRetryOn = []string{"408", "425", "5xx"}

// retries says whether a status is one of those, written "503" or "5xx".
func retries(statuses []string, status int) bool {
	if len(statuses) == 0 {
		statuses = defaultRetryOn
	}
	exact := strconv.Itoa(status)
	return slices.Contains(statuses, exact) || slices.Contains(statuses, exact[:1]+"xx")
}

// doubled returns base doubled n times, at most limit.
func doubled(base, limit time.Duration, n int) time.Duration {
	wait := base << min(max(0, n), maxDoublings)
	if wait < base || wait > limit { // overflown, or long enough
		return limit
	}
	return wait
}

// retryAfter returns how long an answer asks to wait; 0 if it does not.
func retryAfter(a Answer) time.Duration {
	var classed *orchestrator.Error
	if errors.As(a.Err, &classed) {
		return classed.RetryAfter
	}
	if a.Status != http.StatusTooManyRequests && a.Status != http.StatusServiceUnavailable {
		return 0
	}
	seconds, err := strconv.Atoi(a.Header.Get("Retry-After"))
	if err != nil || seconds < 0 {
		return 0
	}
	return time.Duration(min(seconds, int(maxRetryAfter/time.Second))) * time.Second
}

// maxReason bounds what is kept of an error's text, in bytes.
const maxReason = 512

// reason says in a few words why an answer is no success.
func reason(a Answer) string {
	if a.Err == nil {
		return fmt.Sprintf("status %d", a.Status)
	}
	text := a.Err.Error()
	if classed := (*orchestrator.Error)(nil); errors.As(a.Err, &classed) {
		text = classed.Detail
	}
	if len(text) > maxReason {
		text = text[:maxReason]
	}
	return text
}
