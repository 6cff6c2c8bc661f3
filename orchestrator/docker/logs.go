package docker

import (
	"bytes"
	"context"
	"errors"
	"iter"
	"strconv"
	"strings"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/pkg/stdcopy"

	"github.com/kilnfaas/kiln/orchestrator"
)

// maxLogLine bounds a line; what is longer is cut.
const maxLogLine = 64 << 10

// logsTimeout bounds reading logs that are not followed: 30 MiB, as fast as a
// client on a slow line takes them.
const logsTimeout = 10 * time.Minute

// errEnough ends the copying when the consumer wants no more.
var errEnough = errors.New("no more lines wanted")

// Logs yields lines of a container, oldest first. A follow that ends with its
// context ends without an error.
func (c *Client) Logs(ctx context.Context, id string, options orchestrator.LogOptions) iter.Seq2[orchestrator.LogLine, error] {
	return func(yield func(orchestrator.LogLine, error) bool) {
		callCtx, cancel := context.WithCancel(ctx)
		if !options.Follow {
			callCtx, cancel = context.WithTimeout(ctx, logsTimeout)
		}
		defer cancel()
		err := c.copyLogs(callCtx, id, options, func(line orchestrator.LogLine) bool { return yield(line, nil) })
		switch {
		case err == nil || errors.Is(err, errEnough):
		case options.Follow && ctx.Err() != nil:
		default:
			yield(orchestrator.LogLine{}, translate(ctx, "read the logs of "+short(id), err))
		}
	}
}

func (c *Client) copyLogs(ctx context.Context, id string, options orchestrator.LogOptions, yield func(orchestrator.LogLine) bool) error {
	query := container.LogsOptions{ShowStdout: true, ShowStderr: true, Timestamps: true, Follow: options.Follow, Tail: "all"}
	if options.Tail >= 0 {
		query.Tail = strconv.Itoa(options.Tail)
	}
	if !options.Since.IsZero() {
		query.Since = options.Since.Format(time.RFC3339Nano)
	}
	stream, err := c.api.ContainerLogs(ctx, id, query)
	if err != nil {
		return err
	}
	defer stream.Close()
	stdout, stderr := &logLines{yield: yield}, &logLines{yield: yield, stderr: true}
	if _, err := stdcopy.StdCopy(stdout, stderr, stream); err != nil {
		return err
	}
	return errors.Join(stdout.flush(), stderr.flush())
}

// logLines makes lines of one stream's messages. The engine sends one message a
// Write, each with a time in front; a line over 16 KiB comes as several, and
// only the last of them ends in a line feed.
type logLines struct {
	stderr bool
	yield  func(orchestrator.LogLine) bool
	time   time.Time // of the unfinished line
	text   []byte    // of the unfinished line
	begun  bool
}

// Write takes one message.
func (l *logLines) Write(message []byte) (int, error) {
	stamp, text, ok := bytes.Cut(message, []byte(" "))
	at, err := time.Parse(time.RFC3339Nano, string(stamp))
	if !ok || err != nil {
		text, at = message, time.Time{} // not the engine's form: the text is worth keeping
	}
	if !l.begun {
		l.time, l.begun = at, true
	}
	text, complete := bytes.CutSuffix(text, []byte("\n"))
	if room := maxLogLine - len(l.text); room > 0 {
		l.text = append(l.text, text[:min(len(text), room)]...)
	}
	if complete {
		if err := l.flush(); err != nil {
			return 0, err
		}
	}
	return len(message), nil
}

// flush yields the unfinished line, if there is one.
func (l *logLines) flush() error {
	if !l.begun {
		return nil
	}
	line := orchestrator.LogLine{Time: l.time, Stderr: l.stderr, Text: strings.TrimSuffix(string(l.text), "\r")}
	l.text, l.begun = l.text[:0], false
	if !l.yield(line) {
		return errEnough
	}
	return nil
}
