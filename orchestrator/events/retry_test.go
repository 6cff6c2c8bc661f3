package events_test

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/events"
)

func status(code int, header ...string) events.Answer {
	a := events.Answer{Status: code, Header: http.Header{}}
	for i := 0; i+1 < len(header); i += 2 {
		a.Header.Set(header[i], header[i+1])
	}
	return a
}

func failed(class error, cause error, after time.Duration) events.Answer {
	return events.Answer{Err: &orchestrator.Error{Class: class, Code: "code", Detail: "detail", Cause: cause, RetryAfter: after}}
}

func TestDecide(t *testing.T) {
	const (
		waiting   = orchestrator.InvocationWaiting
		succeeded = orchestrator.InvocationSucceeded
		dead      = orchestrator.InvocationFailed
	)
	policy := orchestrator.Async{
		Attempts: 4, Backoff: orchestrator.Duration(time.Second), BackoffMax: orchestrator.Duration(3 * time.Second), MaxAge: orchestrator.Duration(time.Hour),
	}
	always := policy
	always.RetryOn = []string{"404", "429"}
	never := policy
	never.RetryOn = []string{"none"}
	for name, test := range map[string]struct {
		policy orchestrator.Async
		try    events.Try
		want   events.Verdict
	}{
		"success":                       {policy, events.Try{Answer: status(200)}, events.Verdict{Status: succeeded, Counted: true}},
		"redirect is an answer":         {policy, events.Try{Answer: status(302)}, events.Verdict{Status: succeeded, Counted: true}},
		"first failure":                 {policy, events.Try{Answer: status(500), Jitter: 1}, events.Verdict{Status: waiting, Counted: true, Wait: time.Second}},
		"second failure doubles":        {policy, events.Try{Answer: status(503), Counted: 1, Jitter: 1}, events.Verdict{Status: waiting, Counted: true, Wait: 2 * time.Second}},
		"third is bounded":              {policy, events.Try{Answer: status(500), Counted: 2, Jitter: 1}, events.Verdict{Status: waiting, Counted: true, Wait: 3 * time.Second}},
		"jitter takes half":             {policy, events.Try{Answer: status(500), Counted: 1}, events.Verdict{Status: waiting, Counted: true, Wait: time.Second}},
		"last attempt":                  {policy, events.Try{Answer: status(500), Counted: 3}, events.Verdict{Status: dead, Counted: true, Reason: "all 4 attempts failed, the last one with: status 500"}},
		"client's mistake":              {policy, events.Try{Answer: status(404)}, events.Verdict{Status: dead, Counted: true}},
		"a status of the policy":        {always, events.Try{Answer: status(404), Jitter: 1}, events.Verdict{Status: waiting, Counted: true, Wait: time.Second}},
		"not a status of the policy":    {always, events.Try{Answer: status(500)}, events.Verdict{Status: dead, Counted: true}},
		"nothing is tried again":        {never, events.Try{Answer: status(500)}, events.Verdict{Status: dead, Counted: true}},
		"throttled":                     {policy, events.Try{Answer: status(429), Counted: 3, Jitter: 1}, events.Verdict{Status: waiting, Wait: 100 * time.Millisecond}},
		"throttled, wanted as attempt":  {always, events.Try{Answer: status(429), Jitter: 1}, events.Verdict{Status: waiting, Counted: true, Wait: time.Second}},
		"throttled with a time":         {policy, events.Try{Answer: status(429, "Retry-After", "7")}, events.Verdict{Status: waiting, Wait: 7 * time.Second}},
		"a time beyond reason":          {policy, events.Try{Answer: status(429, "Retry-After", "99999999999")}, events.Verdict{Status: waiting, Wait: 15 * time.Minute}},
		"a long time":                   {policy, events.Try{Answer: status(503, "Retry-After", "86400")}, events.Verdict{Status: waiting, Counted: true, Wait: 15 * time.Minute}},
		"queue full":                    {policy, events.Try{Answer: failed(orchestrator.ErrExhausted, nil, 2*time.Second), Counted: 3}, events.Verdict{Status: waiting, Wait: 2 * time.Second}},
		"gateway stops":                 {policy, events.Try{Answer: failed(orchestrator.ErrUnavailable, nil, 0), Jitter: 1}, events.Verdict{Status: waiting, Wait: 100 * time.Millisecond}},
		"put off again and again":       {policy, events.Try{Answer: failed(orchestrator.ErrUnavailable, nil, 0), Deferred: 50, Jitter: 1}, events.Verdict{Status: waiting, Wait: 10 * time.Second}},
		"waited in vain for a slot":     {policy, events.Try{Answer: failed(orchestrator.ErrDeadline, nil, 0), Jitter: 1}, events.Verdict{Status: waiting, Wait: 100 * time.Millisecond}},
		"function too slow":             {policy, events.Try{Answer: failed(orchestrator.ErrDeadline, orchestrator.ErrFunction, 0), Jitter: 1}, events.Verdict{Status: waiting, Counted: true, Wait: time.Second}},
		"function died":                 {policy, events.Try{Answer: failed(orchestrator.ErrFunction, nil, 0), Jitter: 1}, events.Verdict{Status: waiting, Counted: true, Wait: time.Second}},
		"function died, last attempt":   {policy, events.Try{Answer: failed(orchestrator.ErrFunction, nil, 0), Counted: 3}, events.Verdict{Status: dead, Counted: true}},
		"function gone":                 {policy, events.Try{Answer: failed(orchestrator.ErrNotFound, nil, 0)}, events.Verdict{Status: dead}},
		"request over the limit":        {policy, events.Try{Answer: failed(orchestrator.ErrTooLarge, nil, 0)}, events.Verdict{Status: dead}},
		"an error without a class":      {policy, events.Try{Answer: events.Answer{Err: errors.New("defect")}, Jitter: 1}, events.Verdict{Status: waiting, Wait: 100 * time.Millisecond}},
		"too old for another attempt":   {policy, events.Try{Answer: status(500), Age: time.Hour}, events.Verdict{Status: dead, Counted: true}},
		"too old though it was put off": {policy, events.Try{Answer: failed(orchestrator.ErrUnavailable, nil, 0), Age: time.Hour - time.Millisecond, Deferred: 1}, events.Verdict{Status: dead}},
	} {
		t.Run(name, func(t *testing.T) {
			got := events.Decide(test.policy, test.try)
			if test.want.Reason == "" {
				got.Reason = ""
			}
			if got != test.want {
				t.Errorf("Decide = %+v, want %+v", got, test.want)
			}
		})
	}
}

// TestDecideNeverEndsEarly: whatever happened, pauses are within bounds.
func TestDecideNeverEndsEarly(t *testing.T) {
	policy := orchestrator.DefaultSpec().Async
	policy.Attempts = 1 << 30
	for n := range 200 {
		v := events.Decide(policy, events.Try{Counted: n, Answer: status(500), Jitter: 0.3})
		if v.Status != orchestrator.InvocationWaiting || v.Wait < time.Second/2 || v.Wait > time.Duration(policy.BackoffMax) {
			t.Fatalf("after %d attempts: %+v", n, v)
		}
	}
}

func TestReasonIsBounded(t *testing.T) {
	answer := events.Answer{Err: errors.New(strings.Repeat("x", 1<<20))}
	if v := events.Decide(orchestrator.DefaultSpec().Async, events.Try{Answer: answer}); len(v.Reason) > 1024 {
		t.Errorf("the reason has %d bytes", len(v.Reason))
	}
}
