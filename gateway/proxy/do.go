package proxy

import (
	"context"
	"net/http"
	"strings"

	"github.com/kilnfaas/kiln/gateway/api"
)

// Reply is the answer to an invocation that came from within the process.
type Reply struct {
	Status    int
	Header    http.Header
	Body      []byte // up to the limit
	Truncated bool   // the answer went on
	Revision  string // that answered; empty when none did
	// Err is what a client would have been told in place of an answer, or that
	// the answer broke off.
	Err error
}

// Do invokes a function without a client's connection, on the same path as
// everybody else: same queue, same slots, same limits, same counters. The
// request's URL is that of the function, below Prefix. Of the answer's body up
// to limit bytes are kept, and the rest is read.
func (h *Handler) Do(r *http.Request, limit int) (reply Reply) {
	w := &replyWriter{header: http.Header{}, limit: limit}
	inner := *h
	inner.Fail = func(w http.ResponseWriter, r *http.Request, err error) {
		reply.Err = err
		h.Fail(w, r, err)
	}
	defer func() {
		if cause := recover(); cause != nil {
			if cause != http.ErrAbortHandler {
				panic(cause)
			}
			if reply.Err == nil {
				reply.Err = broken(r.Context(), w.status != 0)
			}
		}
		if reply.Err != nil {
			return // what was written is the document that tells it
		}
		w.finish()
		reply.Status, reply.Header, reply.Body, reply.Truncated = w.status, w.header, w.body, w.truncated
	}()
	defer func() { reply.Revision = w.header.Get(api.HeaderRevision) }()
	inner.ServeHTTP(w, r)
	return reply
}

// broken is the error of an answer that broke off, or of a caller who left.
func broken(ctx context.Context, begun bool) error {
	if ctx.Err() != nil || !begun {
		return errStopped()
	}
	return errDied(errCut)
}

// replyWriter is a ResponseWriter that keeps the beginning of an answer.
type replyWriter struct {
	header    http.Header
	status    int
	body      []byte
	limit     int
	truncated bool
}

// Header implements http.ResponseWriter.
func (w *replyWriter) Header() http.Header { return w.header }

// WriteHeader implements http.ResponseWriter; informational answers pass by.
func (w *replyWriter) WriteHeader(status int) {
	if w.status == 0 && status >= http.StatusOK {
		w.status = status
	}
}

// Write implements http.ResponseWriter.
func (w *replyWriter) Write(p []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	room := min(len(p), w.limit-len(w.body))
	w.body = append(w.body, p[:room]...)
	w.truncated = w.truncated || room < len(p)
	return len(p), nil
}

// Flush implements http.Flusher: there is nothing that waits.
func (w *replyWriter) Flush() {}

// finish takes trailers out, which nobody reads.
func (w *replyWriter) finish() {
	delete(w.header, "Trailer")
	for name := range w.header {
		if strings.HasPrefix(name, http.TrailerPrefix) {
			delete(w.header, name)
		}
	}
}
