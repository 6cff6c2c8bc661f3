package cloudevents

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"mime"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/kilnfaas/kiln/orchestrator"
)

// MaxBatch bounds the events of one batch.
const MaxBatch = 256

// Marshal writes an event in the JSON format.
func Marshal(e orchestrator.CloudEvent) ([]byte, error) {
	all := map[string]any{"specversion": specVersion, "id": e.ID, "source": e.Source, "type": e.Type}
	for name, value := range map[string]string{"subject": e.Subject, "datacontenttype": e.ContentType, "dataschema": e.DataSchema} {
		if value != "" {
			all[name] = value
		}
	}
	if !e.Time.IsZero() {
		all["time"] = e.Time.UTC().Format(time.RFC3339Nano)
	}
	for name, value := range e.Extensions {
		all[name] = value
	}
	switch {
	case len(e.Data) == 0:
	case isJSON(e.ContentType) && json.Valid(e.Data) && string(bytes.TrimSpace(e.Data)) != "null": // which would be no data
		all["data"] = json.RawMessage(e.Data)
	case !isJSON(e.ContentType) && utf8.Valid(e.Data):
		all["data"] = string(e.Data)
	default:
		all["data_base64"] = e.Data
	}
	return json.Marshal(all)
}

// Unmarshal reads one event in the JSON format.
func Unmarshal(data []byte) (orchestrator.CloudEvent, error) {
	var all map[string]json.RawMessage
	if err := decode(data, &all); err != nil {
		return orchestrator.CloudEvent{}, err
	}
	return fromJSON(all)
}

// UnmarshalBatch reads a batch: a list of at most MaxBatch events, which may be
// empty.
func UnmarshalBatch(data []byte) ([]orchestrator.CloudEvent, error) {
	var list []map[string]json.RawMessage
	if err := decode(data, &list); err != nil {
		return nil, err
	}
	if len(list) > MaxBatch {
		return nil, orchestrator.Errorf(orchestrator.ErrTooLarge, "batch-too-large", "the batch has %d events, %d are allowed", len(list), MaxBatch).
			WithHint("send several batches")
	}
	events := make([]orchestrator.CloudEvent, len(list))
	for i, all := range list {
		var err error
		if events[i], err = fromJSON(all); err != nil {
			return nil, err
		}
	}
	return events, nil
}

func decode(data []byte, into any) error {
	if !utf8.Valid(data) {
		return invalid("the body is not UTF-8")
	}
	decoder := json.NewDecoder(bytes.NewReader(data))
	if err := decoder.Decode(into); err != nil {
		return invalid("the body is not the JSON of an event: %w", err)
	}
	if decoder.More() {
		return invalid("the body goes on after its JSON document")
	}
	return nil
}

func fromJSON(all map[string]json.RawMessage) (orchestrator.CloudEvent, error) {
	if all == nil {
		return orchestrator.CloudEvent{}, invalid("null is no event")
	}
	var e orchestrator.CloudEvent
	for name, raw := range all {
		if name == "data" || name == "data_base64" || string(raw) == "null" {
			continue
		}
		value, err := attribute(name, raw)
		if err == nil {
			err = assign(&e, name, value)
		}
		if err != nil {
			return orchestrator.CloudEvent{}, err
		}
	}
	if version := all["specversion"]; version == nil || string(version) == "null" {
		return orchestrator.CloudEvent{}, invalid("the event has no specversion")
	}
	if err := readData(&e, all["data"], all["data_base64"]); err != nil {
		return orchestrator.CloudEvent{}, err
	}
	return e, e.Validate()
}

// attribute returns the text form of an attribute's value. Those of the
// specification are text; an extension may be a number or a boolean.
func attribute(name string, raw json.RawMessage) (string, error) {
	switch raw[0] {
	case '"':
		var s string
		err := json.Unmarshal(raw, &s)
		return s, err
	case '{', '[':
		return "", invalid("the attribute %.64q is neither text, number nor boolean", name)
	}
	switch name {
	case "specversion", "id", "source", "type", "subject", "time", "datacontenttype", "dataschema":
		return "", invalid("the attribute %s is no text", name)
	}
	return string(raw), nil
}

// readData takes the data out of either member.
func readData(e *orchestrator.CloudEvent, data, encoded json.RawMessage) error {
	given := data != nil && string(data) != "null"
	switch {
	case encoded != nil && string(encoded) != "null":
		if given {
			return invalid("the event has both data and data_base64")
		}
		var text string
		if err := json.Unmarshal(encoded, &text); err != nil {
			return invalid("data_base64 is no text")
		}
		decoded, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			return invalid("data_base64 is not base64: %w", err)
		}
		e.Data = decoded
	case given && (isJSON(e.ContentType) || data[0] != '"'):
		e.Data = bytes.Clone(data)
	case given:
		var text string
		if err := json.Unmarshal(data, &text); err != nil {
			return invalid("data cannot be read: %w", err)
		}
		e.Data = []byte(text)
	}
	if e.ContentType == "" && given {
		e.ContentType = mediaJSON
	}
	return nil
}

// isJSON says whether a content type is JSON; none is, as the format says.
func isJSON(contentType string) bool {
	if contentType == "" {
		return true
	}
	media, _, err := mime.ParseMediaType(contentType)
	return err == nil && (strings.HasSuffix(media, "/json") || strings.HasSuffix(media, "+json"))
}
