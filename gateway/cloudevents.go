package gateway

import (
	"crypto/sha256"
	"encoding/hex"
	"io"
	"mime"
	"net/http"

	"github.com/kilnfaas/kiln/gateway/api"
	"github.com/kilnfaas/kiln/gateway/problem"
	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/cloudevents"
	"github.com/kilnfaas/kiln/orchestrator/events"
)

// takeEvents queues a call for each CloudEvent of a request: one in binary or
// structured mode, or a batch, which is queued whole or not at all. The function
// gets each in binary mode.
func (s *Server) takeEvents(w http.ResponseWriter, r *http.Request) error {
	if err := acceptJSON(r); err != nil {
		return err
	}
	f, err := s.admitted(r)
	if err != nil {
		return err
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, asyncLimit(f)))
	if err != nil {
		return err
	}
	all, err := readEvents(r.Header, body)
	if err != nil {
		return err
	}
	requests := make([]events.Request, len(all))
	for i, event := range all {
		// Source and id together name an event; a sum of them is short, whatever they are.
		sum := sha256.Sum256([]byte(event.Source + "\x00" + event.ID))
		requests[i] = events.Request{
			Function: f.Name, Path: "/", Header: cloudevents.Header(event), Body: event.Data,
			OrderingKey: event.Extensions[orchestrator.PartitionKey], IdempotencyKey: "event/" + hex.EncodeToString(sum[:]),
		}
	}
	queued, err := s.Async.EnqueueAll(r.Context(), requests)
	if err != nil {
		return err
	}
	list := api.InvocationList{Invocations: make([]api.AsyncInvocation, len(queued))}
	for i, q := range queued {
		list.Invocations[i] = asyncInvocation(q.Invocation, nil)
	}
	return writeJSON(w, http.StatusAccepted, list)
}

// readEvents reads the events of a request in any mode.
func readEvents(header http.Header, body []byte) ([]orchestrator.CloudEvent, error) {
	media, _, err := mime.ParseMediaType(header.Get("Content-Type"))
	switch {
	case err == nil && media == cloudevents.MediaBatch:
		return cloudevents.UnmarshalBatch(body)
	case err == nil && media == cloudevents.MediaEvent:
		event, err := cloudevents.Unmarshal(body)
		return []orchestrator.CloudEvent{event}, err
	case cloudevents.IsBinary(header):
		event, err := cloudevents.FromHeader(header, body)
		return []orchestrator.CloudEvent{event}, err
	}
	return nil, problem.UnsupportedMedia(media, []string{cloudevents.MediaEvent, cloudevents.MediaBatch, "any other with the headers ce-specversion, ce-id, ce-source and ce-type"})
}
