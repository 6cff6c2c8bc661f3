package api

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"iter"
	"mime/multipart"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/kilnfaas/kiln/orchestrator"
)

// Deploy is a request to deploy.
type Deploy struct {
	Name    string    // of the function; overrides function.yaml and Spec
	Archive io.Reader // tar, tar.gz, tar.zst or zip
	// Spec holds settings in YAML or JSON that are merged over function.yaml;
	// may be empty.
	Spec []byte
}

// Deploy deploys an archive and returns once the new revision is live or the
// deploy failed. onEvent is called for each step and line as it happens, from
// the calling goroutine; it may be nil. When ctx ends the deploy goes on at the
// gateway.
func (c *Client) Deploy(ctx context.Context, deploy Deploy, onEvent func(Event)) (Deployment, error) {
	return c.deploy(ctx, http.MethodPut, functionPath(deploy.Name), onEvent, func(form *multipart.Writer) error {
		if len(deploy.Spec) > 0 {
			if err := form.WriteField(FieldSpec, string(deploy.Spec)); err != nil {
				return err
			}
		}
		return writeFile(form, FieldArchive, "archive", deploy.Archive)
	})
}

// Upload is a request to deploy the simplest way.
type Upload struct {
	Name     string
	Template string
	Filename string    // tells the language's handler when File is one source file
	File     io.Reader // an archive or one source file
	Spec     []byte    // as in Deploy
}

// Upload deploys an archive or a single source file, as Deploy does.
func (c *Client) Upload(ctx context.Context, upload Upload, onEvent func(Event)) (Deployment, error) {
	return c.deploy(ctx, http.MethodPost, "/upload", onEvent, func(form *multipart.Writer) error {
		fields := [][2]string{{FieldName, upload.Name}, {FieldTemplate, upload.Template}, {FieldSpec, string(upload.Spec)}}
		for _, field := range fields {
			if field[1] == "" {
				continue
			}
			if err := form.WriteField(field[0], field[1]); err != nil {
				return err
			}
		}
		return writeFile(form, FieldFile, upload.Filename, upload.File)
	})
}

// writeFile adds a file to a form.
func writeFile(form *multipart.Writer, field, name string, file io.Reader) error {
	part, err := form.CreateFormFile(field, name)
	if err != nil {
		return err
	}
	_, err = io.Copy(part, file)
	return err
}

// deploy sends a form and follows the stream of events.
func (c *Client) deploy(ctx context.Context, method, path string, onEvent func(Event), fill func(*multipart.Writer) error) (Deployment, error) {
	body, pipe := io.Pipe()
	form := multipart.NewWriter(pipe)
	filled := make(chan error, 1)
	go func() {
		err := fill(form)
		if err == nil {
			err = form.Close() // only now: a form with an end would be deployed
		}
		pipe.CloseWithError(err) // nil is the form's end
		filled <- err
	}()
	response, err := c.do(ctx, method, path, body, http.Header{
		"Accept":       {MediaNDJSON},
		"Content-Type": {form.FormDataContentType()},
	})
	body.Close() // an early answer ends the upload; nothing to do after a whole one
	if fillErr := <-filled; fillErr != nil && !errors.Is(fillErr, io.ErrClosedPipe) {
		if response != nil {
			response.Body.Close()
		}
		return Deployment{}, fillErr // the archive could not be read
	}
	if err != nil {
		return Deployment{}, err
	}
	defer response.Body.Close()
	return follow(response, onEvent)
}

// follow reads a deploy's events to the last.
func follow(response *http.Response, onEvent func(Event)) (Deployment, error) {
	for line, err := range lines(response.Body) {
		var event Event
		if err == nil {
			err = json.Unmarshal(line, &event)
		}
		switch {
		case err != nil:
			return Deployment{}, broken(response, err)
		case event.Problem != nil:
			return Deployment{}, event.Problem
		case event.Deployment != nil:
			return *event.Deployment, nil
		case onEvent != nil:
			onEvent(event)
		}
	}
	return Deployment{}, broken(response, io.ErrUnexpectedEOF)
}

// broken is the error of a stream that ended before its last line.
func broken(response *http.Response, err error) error {
	if cause := response.Request.Context().Err(); cause != nil {
		return cause
	}
	return unreadable(request(response), err)
}

// LogOptions select log lines.
type LogOptions struct {
	Follow bool
	Tail   int       // last lines of each instance to begin with; negative = all
	Since  time.Time // zero = no bound
}

// CodeFunctionRemoved is the code of the Error with which following logs ends when
// the function is removed.
const CodeFunctionRemoved = orchestrator.CodeRemoved

// Logs yields the lines of a function's instances. With Follow it goes on until
// ctx ends, the consumer stops or the function is removed. An error is the last
// pair.
func (c *Client) Logs(ctx context.Context, name string, options LogOptions) iter.Seq2[LogLine, error] {
	query := url.Values{"tail": {strconv.Itoa(options.Tail)}}
	if options.Tail < 0 {
		query.Set("tail", "all")
	}
	if options.Follow {
		query.Set("follow", "true")
	}
	if !options.Since.IsZero() {
		query.Set("since", options.Since.Format(time.RFC3339Nano))
	}
	return func(yield func(LogLine, error) bool) {
		response, err := c.do(ctx, http.MethodGet, functionPath(name, "/logs?", query.Encode()), nil, http.Header{"Accept": {MediaNDJSON}})
		if err != nil {
			yield(LogLine{}, err)
			return
		}
		defer response.Body.Close()
		for text, err := range lines(response.Body) {
			var line LogLine
			if err == nil {
				err = json.Unmarshal(text, &line)
			}
			switch {
			case err != nil:
				yield(LogLine{}, broken(response, err))
				return
			case line.Problem != nil:
				yield(LogLine{}, line.Problem)
				return
			case !yield(line, nil):
				return
			}
		}
	}
}

// maxLine bounds a line of a stream: a problem with its output, escaped.
const maxLine = 8 << 20

// lines yields the lines of a stream that are not empty, valid until the next.
func lines(r io.Reader) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		scanner := bufio.NewScanner(r)
		scanner.Buffer(nil, maxLine)
		for scanner.Scan() {
			if len(scanner.Bytes()) > 0 && !yield(scanner.Bytes(), nil) {
				return
			}
		}
		if err := scanner.Err(); err != nil {
			yield(nil, err)
		}
	}
}
