// Package cloudevents has the wire forms of events: CloudEvents 1.0 over HTTP in
// binary mode (attributes are header fields, the body is the data) and the JSON
// format of structured mode, one event or a batch.
//
// It is strict where the specification is: what it returns, orchestrator's
// CloudEvent.Validate accepts. All errors are ErrInvalid, or ErrTooLarge.
package cloudevents

import (
	"fmt"
	"mime"
	"net/http"
	"strings"
	"time"

	"github.com/kilnfaas/kiln/orchestrator"
)

// Media types of structured mode.
const (
	MediaEvent = "application/cloudevents+json"
	MediaBatch = "application/cloudevents-batch+json"
)

const (
	specVersion  = "1.0"
	headerPrefix = "Ce-"
	mediaJSON    = "application/json"
)

func invalid(format string, args ...any) *orchestrator.Error {
	return orchestrator.Errorf(orchestrator.ErrInvalid, "event-invalid", format, args...).
		WithHint("send a CloudEvent as https://cloudevents.io says, version 1.0")
}

// Header returns the header fields of an event in binary mode. The body is the
// event's data.
func Header(e orchestrator.CloudEvent) http.Header {
	header := http.Header{}
	set := func(attribute, value string) {
		header[http.CanonicalHeaderKey(headerPrefix+attribute)] = []string{escape(value)}
	}
	setIfAny := func(attribute, value string) {
		if value != "" {
			set(attribute, value)
		}
	}
	set("specversion", specVersion)
	set("id", e.ID)
	set("source", e.Source)
	set("type", e.Type)
	setIfAny("subject", e.Subject)
	setIfAny("dataschema", e.DataSchema)
	if !e.Time.IsZero() {
		set("time", e.Time.UTC().Format(time.RFC3339Nano))
	}
	for name, value := range e.Extensions {
		set(name, value)
	}
	switch {
	case e.ContentType != "":
		header["Content-Type"] = []string{e.ContentType}
	case len(e.Data) > 0:
		header["Content-Type"] = []string{mediaJSON}
	}
	return header
}

// IsBinary says whether a request's header is that of an event in binary mode.
func IsBinary(header http.Header) bool { return header.Get(headerPrefix+"Specversion") != "" }

// FromHeader reads an event in binary mode.
func FromHeader(header http.Header, body []byte) (orchestrator.CloudEvent, error) {
	e := orchestrator.CloudEvent{ContentType: header.Get("Content-Type"), Data: body}
	for name, values := range header {
		attribute, ok := strings.CutPrefix(name, headerPrefix)
		if !ok {
			continue
		}
		attribute = strings.ToLower(attribute)
		if len(values) != 1 {
			return orchestrator.CloudEvent{}, invalid("the attribute %.64s is there %d times", attribute, len(values))
		}
		value, err := unescape(values[0])
		if err == nil {
			err = assign(&e, attribute, value)
		}
		if err != nil {
			return orchestrator.CloudEvent{}, err
		}
	}
	if header.Get(headerPrefix+"Specversion") == "" {
		return orchestrator.CloudEvent{}, invalid("the event has no specversion")
	}
	return e, e.Validate()
}

// assign sets an attribute from its text form.
func assign(e *orchestrator.CloudEvent, name, value string) error {
	switch name {
	case "specversion":
		if value != specVersion {
			return invalid("the event is of CloudEvents version %.16q, and %s is known", value, specVersion)
		}
	case "id":
		e.ID = value
	case "source":
		e.Source = value
	case "type":
		e.Type = value
	case "subject":
		e.Subject = value
	case "dataschema":
		e.DataSchema = value
	case "datacontenttype":
		if _, _, err := mime.ParseMediaType(value); err != nil {
			return invalid("datacontenttype is no media type: %w", err)
		}
		e.ContentType = value
	case "time":
		at, err := time.Parse(time.RFC3339Nano, value)
		if err != nil {
			return invalid("time is not as RFC 3339 says: %.40q", value)
		}
		e.Time = at
	default:
		if e.Extensions == nil {
			e.Extensions = map[string]string{}
		}
		e.Extensions[name] = value
	}
	return nil
}

// escape writes an attribute as a header's value: what is not printable ASCII,
// blanks, quotes and percent signs as percent and two digits (HTTP binding 1.0.2,
// section 3.1.3.2).
func escape(value string) string {
	var b strings.Builder
	for i := range len(value) {
		switch c := value[i]; {
		case c <= ' ' || c >= 0x7f || c == '"' || c == '%':
			fmt.Fprintf(&b, "%%%02X", c)
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
}

// unescape reads what escape wrote, and values in quotes, as the binding wants.
func unescape(value string) (string, error) {
	if len(value) >= 2 && value[0] == '"' && value[len(value)-1] == '"' {
		inner := value[1 : len(value)-1]
		var b strings.Builder
		for i := 0; i < len(inner); i++ {
			if inner[i] == '\\' && i+1 < len(inner) {
				i++
			}
			b.WriteByte(inner[i])
		}
		value = b.String()
	}
	var b strings.Builder
	for i := 0; i < len(value); i++ {
		if value[i] != '%' {
			b.WriteByte(value[i])
			continue
		}
		if i+2 >= len(value) {
			return "", invalid("an attribute ends within a percent-encoded character")
		}
		high, low := digit(value[i+1]), digit(value[i+2])
		if high < 0 || low < 0 {
			return "", invalid("an attribute has a percent sign without two hexadecimal digits")
		}
		b.WriteByte(byte(high<<4 | low))
		i += 2
	}
	return b.String(), nil
}

func digit(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'a' && c <= 'f':
		return int(c-'a') + 10
	case c >= 'A' && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}
