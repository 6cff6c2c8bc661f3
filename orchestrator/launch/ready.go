package launch

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/pool"
)

const (
	// The pauses between attempts: a runtime that is up in 30 ms is seen at 31.
	firstPause = time.Millisecond
	maxPause   = 20 * time.Millisecond
	// dialTimeout bounds one attempt to connect: to a container whose network is
	// gone there is no refusal, only silence.
	dialTimeout = time.Second
	// maxReadyBody bounds what is read of an answer to the ready question.
	maxReadyBody = 16 << 10
)

// readyRequest is the question of the runtime contract.
const readyRequest = "GET /_kiln/ready HTTP/1.1\r\nHost: kiln\r\n\r\n"

// notReadyError is the last answer of an instance that never became ready.
type notReadyError struct {
	status int
	text   string
}

func (e *notReadyError) Error() string {
	return strings.TrimSuffix(fmt.Sprintf("it answered %d: %s", e.status, e.text), ": ")
}

// untilReady waits until the instance at addr is ready. ctx ends with the
// container or the start timeout; its cause is then the error.
func (l *Launcher) untilReady(ctx context.Context, id, addr string, asks bool) error {
	var last *notReadyError
	inspect := time.Now().Add(inspectInterval)
	for pause := firstPause; ; pause = min(2*pause, maxPause) {
		err := l.attempt(ctx, addr, asks)
		if err == nil {
			return nil
		}
		var answer *notReadyError
		if errors.As(err, &answer) {
			last = answer
		}
		if ctx.Err() == nil && time.Now().After(inspect) {
			if end, ended := l.ended(ctx, id); ended {
				return end
			}
			inspect = time.Now().Add(inspectInterval)
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			cause := context.Cause(ctx)
			if errors.Is(cause, errNotReady) && last != nil {
				return fmt.Errorf("%w: %w", cause, last)
			}
			return cause
		}
	}
}

// Verify says whether an instance that was ready still takes requests. A runtime
// that answers is well, and so is what accepts the connection and is too busy to
// answer before ctx ends.
func (l *Launcher) Verify(ctx context.Context, release orchestrator.Release, instance pool.Launched) error {
	conn, err := l.dialer.DialContext(ctx, "tcp", instance.Addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	if !release.Template.HTTPReady {
		return nil
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	status, text, err := ask(conn, bufio.NewReader(conn))
	switch {
	case err != nil && ctx.Err() != nil:
		return nil
	case err == nil && status != http.StatusOK:
		return &notReadyError{status: status, text: text}
	}
	return err
}

// ended asks the engine whether a container has ended, in case events are late
// or missed.
func (l *Launcher) ended(ctx context.Context, id string) (exit, bool) {
	c, err := l.config.Engine.Inspect(ctx, id)
	switch {
	case errors.Is(err, orchestrator.ErrNotFound):
		return exit{}, true
	case err != nil || c.State != orchestrator.ContainerExited:
		return exit{}, false
	}
	return exit{code: c.ExitCode, oom: c.OOMKilled}, true
}

// attempt connects once and, with asks, puts the ready question until the
// answer is yes or the connection breaks.
func (l *Launcher) attempt(ctx context.Context, addr string, asks bool) error {
	dial, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	conn, err := l.dialer.DialContext(dial, "tcp", addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	if !asks {
		return nil
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	reader := bufio.NewReader(conn)
	var last *notReadyError
	for pause := firstPause; ; pause = min(2*pause, maxPause) {
		status, text, err := ask(conn, reader)
		switch {
		case err != nil && last != nil:
			return last // says more than the end of the connection
		case err != nil:
			return err
		case status == http.StatusOK:
			return nil
		}
		last = &notReadyError{status: status, text: text}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return last
		}
	}
}

// ask puts the ready question on a connection.
func ask(conn net.Conn, reader *bufio.Reader) (status int, text string, err error) {
	if _, err := io.WriteString(conn, readyRequest); err != nil {
		return 0, "", err
	}
	response, err := http.ReadResponse(reader, nil)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxReadyBody))
	if err != nil {
		return 0, "", err
	}
	return response.StatusCode, strings.TrimSpace(string(body)), nil
}
