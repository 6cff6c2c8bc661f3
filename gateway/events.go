package gateway

import (
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/kilnfaas/kiln/gateway/api"
	"github.com/kilnfaas/kiln/orchestrator"
)

// eventQueue is how many events a client may lag behind its deploy: a chatty
// package manager's output of a second.
const eventQueue = 1024

// progressStream is a deploy's NDJSON stream. A client that reads slowly never slows the
// deploy: events it is too slow for are left out, and a line says how many. One
// goroutine, ended by last, writes.
type progressStream struct {
	w       *answer
	queue   chan api.Event
	written chan struct{} // closed when the queue is written

	mu      sync.Mutex
	dropped int  // guarded by mu; since the last event that had room
	closed  bool // guarded by mu
}

// newEvents begins the answer.
func newEvents(w *answer) *progressStream {
	header := w.Header()
	header.Set("Content-Type", api.MediaNDJSON)
	header.Set("X-Accel-Buffering", "no") // nginx in front would hold lines back
	w.WriteHeader(http.StatusOK)
	w.FlushError() // a client that has left shows at the next line
	e := &progressStream{w: w, queue: make(chan api.Event, eventQueue), written: make(chan struct{})}
	go e.write()
	return e
}

// progress sends what a deploy tells. It does not wait.
func (e *progressStream) progress(event orchestrator.BuildEvent) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return
	}
	if e.dropped > 0 && len(e.queue) < cap(e.queue)-1 {
		e.queue <- api.Event{
			Kind: api.EventLog, Time: event.Time, Step: event.Step,
			Line: fmt.Sprintf("… %d events left out, as they came faster than they were read", e.dropped),
		}
		e.dropped = 0
	}
	select {
	case e.queue <- api.BuildEvent(event):
	default:
		e.dropped++
	}
}

// last sends the event that ends the stream and waits until it is sent or the
// client turns out to be gone.
func (e *progressStream) last(event api.Event) {
	e.mu.Lock()
	e.closed = true
	close(e.queue)
	e.mu.Unlock()
	<-e.written
	event.Time = time.Now().UTC()
	writeLine(e.w, event) // to a client that has left, in vain
}

// write sends the queue, flushing whenever it is empty.
func (e *progressStream) write() {
	defer close(e.written)
	var err error
	for event := range e.queue {
		if err != nil {
			continue // the client has left; the deploy goes on
		}
		if err = writeLine(e.w, event); err == nil && len(e.queue) == 0 {
			err = e.w.FlushError()
		}
	}
}

// writeLine writes a JSON document and a line end in one write.
func writeLine(w *answer, v any) error {
	line, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode a line: %w", err)
	}
	_, err = w.Write(append(line, '\n'))
	return err
}
