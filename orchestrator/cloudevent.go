package orchestrator

import (
	"fmt"
	"regexp"
	"strings"
	"time"
)

// CloudEvent is what happened somewhere: an event as CloudEvents says, version 1.0
// (github.com/cloudevents/spec). Package cloudevents has its wire forms. Source
// and ID together name the event: two with both equal are the same one.
type CloudEvent struct {
	ID      string // required
	Source  string // where it happened, a URI reference; an engine of triggers fills it in when empty
	Type    string // what happened, "dev.kiln.schedule.fired"; required
	Subject string // what it happened to, within the source
	Time    time.Time
	// ContentType is the media type of Data; empty = there is none, or it is JSON.
	ContentType string
	DataSchema  string // URI of what Data adheres to
	// Extensions are further attributes: names of lower-case letters and digits.
	Extensions map[string]string
	Data       []byte
}

// PartitionKey is the extension attribute that orders events: those with the
// same value reach the function one after another, in the order in which they
// were handed over (CloudEvents' extension "partitioning").
const PartitionKey = "partitionkey"

// Bounds of an event. Its attributes become header fields, which servers refuse
// when they are long.
const (
	MaxEventData       = 512 << 10 // bytes: what an asynchronous call may have
	MaxEventAttribute  = 2000      // bytes of one attribute: the longest URL that all software takes
	MaxEventExtensions = 32
	maxPartitionKey    = 256 // bytes: what an ordering key may have
)

// extensionSyntax is that of CloudEvents 1.0, "Attribute naming convention".
var extensionSyntax = regexp.MustCompile(`^[a-z0-9]{1,64}$`)

// reservedAttributes are no names of extensions.
var reservedAttributes = map[string]bool{
	"id": true, "source": true, "type": true, "subject": true, "time": true, "specversion": true,
	"datacontenttype": true, "dataschema": true, "data": true, "data_base64": true,
}

// Validate checks an event. The error is ErrInvalid, or ErrTooLarge for its data.
func (e CloudEvent) Validate() error {
	refused := func(format string, args ...any) error {
		return Errorf(ErrInvalid, "event-invalid", format, args...).WithHint("an event has id, source and type, and is otherwise as CloudEvents 1.0 says")
	}
	for _, required := range []struct{ name, value string }{{"id", e.ID}, {"source", e.Source}, {"type", e.Type}} {
		if required.value == "" {
			return refused("the event has no %s", required.name)
		}
	}
	if len(e.Data) > MaxEventData {
		return Errorf(ErrTooLarge, "event-too-large", "the data of an event is over %s", Bytes(MaxEventData)).WithHint("store the data elsewhere and send where it is")
	}
	if len(e.Extensions) > MaxEventExtensions {
		return refused("the event has more than %d extension attributes", MaxEventExtensions)
	}
	if len(e.Extensions[PartitionKey]) > maxPartitionKey {
		return refused("the attribute %s has more than %d bytes", PartitionKey, maxPartitionKey)
	}
	for name := range e.Extensions {
		if !extensionSyntax.MatchString(name) || reservedAttributes[name] {
			return refused("%.64q cannot be the name of an extension attribute", name)
		}
	}
	for name, value := range e.attributes() {
		if len(value) > MaxEventAttribute {
			return refused("the attribute %s has more than %d bytes", name, MaxEventAttribute)
		}
		if strings.ContainsFunc(value, control) || strings.ToValidUTF8(value, "") != value {
			return refused("the attribute %s holds characters that it may not", name)
		}
	}
	return nil
}

// attributes returns all that are text, by name.
func (e CloudEvent) attributes() map[string]string {
	all := map[string]string{
		"id": e.ID, "source": e.Source, "type": e.Type, "subject": e.Subject, "datacontenttype": e.ContentType, "dataschema": e.DataSchema,
	}
	for name, value := range e.Extensions {
		all[name] = value
	}
	return all
}

// control says whether an attribute may not hold a character: C0 and C1 controls
// (CloudEvents 1.0, "Type system").
func control(r rune) bool { return r < ' ' || r >= 0x7f && r <= 0x9f }

// String names the event.
func (e CloudEvent) String() string { return fmt.Sprintf("%s %s of %s", e.Type, e.ID, e.Source) }
