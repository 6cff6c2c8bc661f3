package proxy

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/kilnfaas/kiln/gateway/problem"
	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/pool"
)

// Codes of the errors that the data plane itself makes. A client that is slow in
// sending its body gets problem.RequestTimeout, 408; other deadlines are 504.
const (
	CodeUnknown     = "function-not-found"
	CodeTimeout     = "invocation-timeout"
	CodeDeadline    = "deadline-invalid"
	CodeDied        = "function-died"
	CodeOutOfMemory = "function-out-of-memory"
	CodeMalformed   = "function-answer-invalid"
	CodeUnreachable = "function-unreachable"
	CodeReplaced    = "function-replaced"
	CodeStopped     = "call-stopped"
)

// Causes inside an invocation that are not shown as they are.
var (
	errClientGone = errors.New("client went away")
	errBodyLimit  = errors.New("request body over the limit")
	errForeign    = errors.New("the pool's connections are not of this package: its NewConns is not proxy.NewConns")
	errResend     = errors.New("nothing of the request was received")
	errRepeat     = errors.New("the request may be sent again")
	errCut        = errors.New("the answer broke off")
)

func errUnknown(name string) error {
	if orchestrator.ValidateName(name) != nil {
		name = "of this name" // not echoed: it is whatever the client sent
	}
	return orchestrator.Errorf(orchestrator.ErrNotFound, CodeUnknown, "there is no function %s", name).
		WithHint("list the functions with kiln ls, deploy one with kiln deploy")
}

// errTimeout is a deadline that passed. It is the function's fault once the
// request was there, the platform's while it waited.
func errTimeout(sent bool) error {
	if !sent {
		return orchestrator.Errorf(orchestrator.ErrDeadline, CodeTimeout, "no instance was free within the invocation's time").
			WithHint("try again; raise scale.max, concurrency or timeout in function.yaml if it goes on")
	}
	return &orchestrator.Error{
		Class: orchestrator.ErrDeadline, Code: CodeTimeout, Cause: orchestrator.ErrFunction,
		Detail: "the function did not answer within the invocation's time",
		Hint:   "raise timeout in function.yaml, or look at the function's logs for what takes long",
	}
}

func errTooLarge(limit orchestrator.Bytes) error {
	return orchestrator.Errorf(orchestrator.ErrTooLarge, problem.CodeRequestTooLarge, "the request body is over %s", limit).
		WithHint("raise max_request in function.yaml; 0 removes the limit")
}

func errDied(cause error) error {
	return orchestrator.Errorf(orchestrator.ErrFunction, CodeDied, "the function closed the connection before it answered: %w", cause).
		WithHint("look at the function's logs for what ended it")
}

// fatePatience bounds how long a call that broke waits for the reason: engines
// tell of a death within 50 ms, and took 2.3 s on a machine with five times the
// work that it can do. Such a call holds no slot, and has nothing else to wait for.
const fatePatience = 5 * time.Second

// breach is an attempt that broke and was made again elsewhere.
type breach struct {
	err  error // nil = there was none
	fate pool.Fate
}

// tells says whether a breach tells more of why a call fails than the error does
// that ends it: the instances that it broke may be why no other is started.
func (b breach) tells(err error) bool {
	var known *orchestrator.Error
	return b.err != nil && errors.As(err, &known) && known.Code == pool.CodeCrashLoop
}

// explained replaces the error of a call that broke by the reason, if the engine
// gives one soon. The lease that fate is of has been released.
func explained(ctx context.Context, err error, fate pool.Fate, release *orchestrator.Release) error {
	ctx, cancel := context.WithTimeout(ctx, fatePatience)
	defer cancel()
	end, known := fate.Await(ctx)
	switch {
	case !known:
		return err
	case end.OOM:
		return &orchestrator.Error{
			Class: orchestrator.ErrFunction, Code: CodeOutOfMemory, Cause: err,
			Detail: fmt.Sprintf("the function was killed for using more than its %s of memory", release.Spec.Resources.Memory),
			Hint:   "raise resources.memory in function.yaml, or lower concurrency; files in /tmp count as memory",
		}
	}
	return orchestrator.Errorf(orchestrator.ErrFunction, CodeDied, "the function ended with exit code %d before it answered: %w", end.ExitCode, err).
		WithHint("look at the function's logs for what ended it")
}

func errMalformed(cause error) error {
	return orchestrator.Errorf(orchestrator.ErrFunction, CodeMalformed, "the function did not answer with valid HTTP/1.1: %w", cause).
		WithHint("look at the function's logs, and at what it writes to its connection")
}

func errUnreachable(cause error) error {
	return orchestrator.Errorf(orchestrator.ErrUnavailable, CodeUnreachable, "no instance of the function could be reached: %w", cause).
		WithHint("try again; look at the function's logs if it goes on")
}

func errReplaced() error {
	return orchestrator.Errorf(orchestrator.ErrUnavailable, CodeReplaced, "the function was replaced again and again while the request waited").
		WithHint("try again")
}

// errStopped is a call from within the process that was given up.
func errStopped() error {
	return orchestrator.Errorf(orchestrator.ErrUnavailable, CodeStopped, "the call was given up before its answer was there").
		WithHint("try again in a moment")
}

// itsFault says whether that an instance was not reached is its own fault. All
// else is this machine's, such as a lack of descriptors, ports or memory: to end
// instances for it would make things worse.
func itsFault(err error) bool {
	// Which of the two a dialer returns depends on which of its timers is first.
	if errors.Is(err, errDialTimeout) || errors.Is(err, errGone) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) {
		return true
	}
	for _, errno := range []syscall.Errno{
		syscall.ECONNREFUSED, syscall.ECONNRESET, syscall.EPIPE, syscall.ETIMEDOUT, syscall.EHOSTUNREACH, syscall.ENETUNREACH,
	} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

// errDialTimeout is a connect that took longer than dialTimeout.
var errDialTimeout = orchestrator.Errorf(orchestrator.ErrUnavailable, CodeUnreachable, "no connection within %s", dialTimeout)

// errGone is a connect that outlived its instance. A packet that is sent again may
// have reached the next container at the address.
var errGone = orchestrator.Errorf(orchestrator.ErrUnavailable, CodeUnreachable, "the instance ended before there was a connection")

// acquireError classes an error of Acquire that has no class of its own.
func acquireError(err error) error {
	var classed *orchestrator.Error
	if errors.As(err, &classed) {
		return err
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return errTimeout(false)
	case errors.Is(err, context.Canceled):
		return errClientGone
	}
	return err
}
