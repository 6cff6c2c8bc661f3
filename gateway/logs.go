package gateway

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/kilnfaas/kiln/gateway/api"
	"github.com/kilnfaas/kiln/gateway/problem"
	"github.com/kilnfaas/kiln/orchestrator"
)

// defaultTail is how many lines `logs` begins with when nothing is said: a few
// screens.
const defaultTail = 100

// shortID is how much of a container id people are shown, as Docker does.
const shortID = 12

// logs answers with the lines of a function's instances, as text for people or
// as NDJSON for programs.
func (s *Server) logs(w http.ResponseWriter, r *http.Request) error {
	media, err := accept(r, "text/plain", api.MediaNDJSON)
	if err != nil {
		return err
	}
	options, err := logOptions(r)
	if err != nil {
		return err
	}
	f, err := s.Functions.Function(r.Context(), name(r))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(s.stopping, cancel)() // a follower must not hold up the gateway's end

	stream := &logStream{w: w.(*answer), text: media == "text/plain"}
	if options.Follow {
		stream.begin() // the client sees that it is connected before the first line
	}
	for line, err := range s.Functions.Logs(ctx, f.Name, options) {
		if err != nil {
			return stream.fail(ctx, err)
		}
		if stream.line(line, options.Follow) != nil {
			return nil // the client has left
		}
	}
	stream.begin()
	return nil
}

// logOptions reads the parameters of a request for logs.
func logOptions(r *http.Request) (o orchestrator.LogOptions, err error) {
	given := r.URL.Query()
	if text := given.Get("follow"); given.Has("follow") {
		if o.Follow, err = strconv.ParseBool(text); err != nil {
			return o, problem.Parameter("follow", text, "write true or false")
		}
	}
	o.Tail = defaultTail
	switch text := given.Get("tail"); {
	case text == "all":
		o.Tail = -1
	case given.Has("tail"):
		if o.Tail, err = strconv.Atoi(text); err != nil || o.Tail < 0 {
			return o, problem.Parameter("tail", text, "write a number of lines, or all")
		}
	}
	if text := given.Get("since"); given.Has("since") {
		if o.Since, err = since(text, time.Now()); err != nil {
			return o, problem.Parameter("since", text, "write a time such as 2006-01-02T15:04:05Z, or a duration such as 10m")
		}
	}
	return o, nil
}

// since reads an instant: a time, or how long ago.
func since(text string, now time.Time) (time.Time, error) {
	if ago, err := time.ParseDuration(text); err == nil && ago >= 0 {
		return now.Add(-ago), nil
	}
	return time.Parse(time.RFC3339Nano, text)
}

// logStream is an answer of log lines.
type logStream struct {
	w     *answer
	text  bool
	begun bool
}

// begin sends the answer's head, once.
func (l *logStream) begin() {
	if l.begun {
		return
	}
	l.begun = true
	media := api.MediaNDJSON
	if l.text {
		media = "text/plain; charset=utf-8"
	}
	l.w.Header().Set("Content-Type", media)
	l.w.Header().Set("X-Accel-Buffering", "no") // nginx in front would hold lines back
	l.w.WriteHeader(http.StatusOK)
	l.w.FlushError() // a client that has left shows at the first line
}

// line sends a line.
func (l *logStream) line(line orchestrator.FunctionLog, flush bool) error {
	l.begin()
	if err := l.write(line); err != nil || !flush {
		return err
	}
	return l.w.FlushError()
}

func (l *logStream) write(line orchestrator.FunctionLog) error {
	if l.text {
		_, err := fmt.Fprintf(l.w, "%s %.*s %s\n", line.Time.UTC().Format(time.RFC3339Nano), shortID, line.Instance, line.Text)
		return err
	}
	stream := api.Stdout
	if line.Stderr {
		stream = api.Stderr
	}
	return writeLine(l.w, api.LogLine{Time: line.Time, Instance: line.Instance, Revision: line.Revision, Stream: stream, Text: line.Text})
}

// fail ends the stream with an error: as an answer if none has begun, as the
// last line of NDJSON, and by cutting the connection in text, where a line would
// look like the function's.
func (l *logStream) fail(ctx context.Context, err error) error {
	if !l.begun || ctx.Err() != nil {
		return err
	}
	var known *orchestrator.Error
	switch removed := errors.As(err, &known) && known.Code == orchestrator.CodeRemoved; {
	case l.text && removed:
		return nil // nothing is missing
	case l.text:
		panic(http.ErrAbortHandler)
	}
	id := l.w.Header().Get(api.HeaderRequestID)
	writeLine(l.w, api.LogLine{Time: time.Now().UTC(), Problem: problem.Document(err, id)}) // the client may have left
	return err
}
