package nats

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	natsgo "github.com/nats-io/nats.go"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/cloudevents"
)

const (
	eventType = "dev.kiln.nats.message"
	// extensionSubject has the NATS subject of a message that is an event itself,
	// whose subject is something else.
	extensionSubject = "natssubject"
	// maxKey is the longest subject that orders events as it is.
	maxKey = 256
)

// event is what is told of a message: the event that it is, if it is one in
// CloudEvents' binary or structured mode (NATS protocol binding 1.0), else that it
// came. id and source are those of the latter.
func (s spec) event(m *natsgo.Msg, id, source string, at time.Time) orchestrator.CloudEvent {
	header := http.Header{}
	for name, values := range m.Header {
		key := http.CanonicalHeaderKey(name)
		header[key] = append(header[key], values...)
	}
	e, ok := carried(header, m)
	if !ok {
		e = orchestrator.CloudEvent{
			ID: id, Source: source, Type: eventType, Subject: strings.ToValidUTF8(m.Subject, "\ufffd"), Time: at,
			ContentType: contentType(header.Get("Content-Type"), m.Data), Data: m.Data,
		}
	}
	if e.Extensions == nil {
		e.Extensions = map[string]string{}
	}
	switch s.order {
	case orderAll:
		e.Extensions[orchestrator.PartitionKey] = "nats"
	case orderSubject:
		key := m.Subject
		if len(key) > maxKey {
			sum := sha256.Sum256([]byte(key))
			key = hex.EncodeToString(sum[:])
		}
		e.Extensions[orchestrator.PartitionKey] = key
	}
	return e
}

// carried returns the event that a message is; false when it is none, or one that
// does not hold what it must.
func carried(header http.Header, m *natsgo.Msg) (e orchestrator.CloudEvent, ok bool) {
	var err error
	media, _, _ := mime.ParseMediaType(header.Get("Content-Type")) // what cannot be read is not it
	switch {
	case media == cloudevents.MediaEvent:
		e, err = cloudevents.Unmarshal(m.Data)
	case cloudevents.IsBinary(header):
		e, err = cloudevents.FromHeader(header, m.Data)
	default:
		return e, false
	}
	if err != nil {
		return e, false
	}
	if e.Extensions == nil {
		e.Extensions = map[string]string{}
	}
	e.Extensions[extensionSubject] = m.Subject
	return e, e.Validate() == nil
}

// contentType says what data is, where the message does not.
func contentType(said string, data []byte) string {
	switch _, _, err := mime.ParseMediaType(said); {
	case err == nil:
		return said
	case json.Valid(data):
		return "application/json"
	case utf8.Valid(data):
		return "text/plain; charset=utf-8"
	}
	return "application/octet-stream"
}

// messageID returns the id that the publisher gives a message; "" = none that can
// be one of an event.
func messageID(m *natsgo.Msg) string {
	id := m.Header.Get(natsgo.MsgIdHdr)
	if (orchestrator.CloudEvent{ID: id, Source: "/", Type: eventType}).Validate() != nil {
		return ""
	}
	return id
}

// streamID names a message of a stream. made is when the stream was: one of the
// same name that is made later counts from 1 again.
func streamID(stream string, made time.Time, sequence uint64) string {
	return stream + "-" + strconv.FormatInt(made.UnixNano(), 36) + "-" + strconv.FormatUint(sequence, 10)
}

// streamSource is where messages of a stream happen.
func streamSource(stream string) string { return "/streams/" + stream }

// sampleSubject returns a subject that a pattern matches.
func sampleSubject(pattern string) string {
	return strings.NewReplacer("*", "sample", ">", "sample").Replace(pattern)
}
