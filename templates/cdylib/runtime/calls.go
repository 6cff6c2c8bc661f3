package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"unicode/utf8"

	"github.com/kilnfaas/kiln/templates/shared/host"
)

// maxHeld is how much output is held back until the result is known; more than
// that is streamed with status 200.
const maxHeld = 1 << 20

// calls turns requests into calls of the library.
type calls struct {
	pool *pool
}

// ServeHTTP implements http.Handler.
func (c *calls) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler) // the caller is gone
	}
	worker, err := c.pool.get(r.Context())
	if err != nil {
		if r.Context().Err() != nil {
			panic(http.ErrAbortHandler)
		}
		c.fail(w, r, err)
		return
	}
	// A caller that leaves, or a deadline that passes, ends the worker: native
	// code cannot be asked to stop.
	watched := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case <-r.Context().Done():
			worker.kill()
		case <-done:
		}
	}()
	out := &output{w: w, contentType: worker.contentType}
	result, err := worker.call(body, out)
	close(done)
	<-watched
	if err != nil {
		err = errors.Join(err, worker.end())
		c.pool.drop()
	} else {
		c.pool.put(worker)
	}
	switch {
	case r.Context().Err() != nil:
		panic(http.ErrAbortHandler)
	case err != nil:
		c.failBegun(w, r, out, fmt.Errorf("the library's process ended: %w", err))
	case worker.abi == abiNumber:
		out.Write(strconv.AppendInt(nil, int64(result), 10))
		out.finish(http.StatusOK)
	case result == 0:
		out.finish(http.StatusOK)
	case result >= 200 && result <= 599 && !out.begun:
		out.finish(int(result))
	default:
		c.failBegun(w, r, out, fmt.Errorf("the library's function returned %d", result))
	}
}

func (c *calls) failBegun(w http.ResponseWriter, r *http.Request, out *output, err error) {
	if out.begun {
		fmt.Fprintln(os.Stderr, "kiln:", err)
		panic(http.ErrAbortHandler)
	}
	c.fail(w, r, err)
}

func (c *calls) fail(w http.ResponseWriter, r *http.Request, err error) {
	fmt.Fprintln(os.Stderr, "kiln:", err)
	host.Problem(w, r, http.StatusInternalServerError, "handler-failed", err.Error())
}

// output collects what a call writes, and streams it once it is much.
type output struct {
	w           http.ResponseWriter
	contentType string
	held        bytes.Buffer
	begun       bool
}

// Write implements io.Writer.
func (o *output) Write(p []byte) (int, error) {
	if !o.begun && o.held.Len()+len(p) <= maxHeld {
		return o.held.Write(p)
	}
	if !o.begun {
		o.begin(http.StatusOK)
		if _, err := o.held.WriteTo(o.w); err != nil {
			return 0, err
		}
	}
	return o.w.Write(p)
}

func (o *output) begin(status int) {
	o.begun = true
	if o.contentType == "" {
		o.contentType = "application/octet-stream"
	}
	o.w.Header().Set("Content-Type", o.contentType)
	o.w.WriteHeader(status)
}

func (o *output) finish(status int) {
	if o.begun {
		return
	}
	if o.contentType == "" && utf8.Valid(o.held.Bytes()) {
		o.contentType = "text/plain; charset=utf-8"
	}
	o.w.Header().Set("Content-Length", strconv.Itoa(o.held.Len()))
	o.begin(status)
	o.held.WriteTo(o.w) // an error is a caller that is gone
}
