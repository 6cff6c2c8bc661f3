// Package object is the kind of triggers that tell of the objects of a bucket: that
// one was written, or deleted.
//
// The position is the sequence of the last change that was told; it is the event's
// id, too. An event tells which object, and not what is in it.
package object

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/kilnfaas/kiln/orchestrator"
)

// Type is the type of these triggers.
const Type = "object"

// Kinds of events, and the types that they have.
const (
	created = "created"
	deleted = "deleted"

	typePrefix = "dev.kiln.object."
)

// together is how many changes are handed over at once.
const together = 64

// Source is an orchestrator.Source.
type Source struct {
	Buckets orchestrator.Buckets
}

var _ orchestrator.Source = Source{}

// spec is a trigger's settings.
type spec struct {
	bucket         string
	prefix, suffix string
	created        bool
	deleted        bool
}

func read(trigger orchestrator.Trigger) (spec, error) {
	r := trigger.Settings.Reader()
	s := spec{bucket: r.Required("bucket", "bucket: photos"), prefix: r.Text("prefix", ""), suffix: r.Text("suffix", "")}
	if s.bucket != "" && orchestrator.ValidateBucket(s.bucket) != nil {
		r.Refuse("bucket", "use a-z, 0-9 and '-'", "%.80q is no name of a bucket", s.bucket)
	}
	for _, part := range []struct{ name, value string }{{"prefix", s.prefix}, {"suffix", s.suffix}} {
		if len(part.value) > orchestrator.MaxObjectKey {
			r.Refuse(part.name, "shorten it", "has %d bytes, a key has at most %d", len(part.value), orchestrator.MaxObjectKey)
		}
	}
	const most = 2
	events := r.Texts("events", most)
	if !r.Has("events") {
		events = []string{created}
	}
	for _, event := range events {
		if event != created && event != deleted {
			r.Refuse("events", "write [created], [deleted] or [created, deleted]", "%.80q is no kind of event", event)
		}
	}
	if len(events) == 0 {
		r.Refuse("events", "write [created], [deleted] or [created, deleted]", "has nothing in it")
	}
	s.created, s.deleted = slices.Contains(events, created), slices.Contains(events, deleted)
	return s, r.Err()
}

// wants says whether a change is an event.
func (s spec) wants(c orchestrator.ObjectChange) bool {
	return (c.Deleted && s.deleted || !c.Deleted && s.created) &&
		strings.HasPrefix(c.Object.Key, s.prefix) && strings.HasSuffix(c.Object.Key, s.suffix)
}

// Check implements orchestrator.Source.
func (Source) Check(trigger orchestrator.Trigger) error {
	_, err := read(trigger)
	return err
}

// Sample implements orchestrator.Source.
func (Source) Sample(trigger orchestrator.Trigger) orchestrator.CloudEvent {
	s, err := read(trigger)
	if err != nil {
		s = spec{bucket: "sample", created: true}
	}
	empty := sha256.Sum256(nil)
	return event(orchestrator.ObjectChange{Deleted: !s.created, Object: orchestrator.Object{
		Bucket: s.bucket, Key: s.prefix + "sample" + s.suffix, ETag: hex.EncodeToString(empty[:]), ContentType: orchestrator.DefaultMedia, ModifiedAt: time.Now().UTC(),
	}})
}

// event is what is told of a change. The changes of an object are told in order.
func event(c orchestrator.ObjectChange) orchestrator.CloudEvent {
	data, err := json.Marshal(c.Object)
	if err != nil {
		panic("object: encode an event: " + err.Error()) // text, numbers and a time
	}
	kind := created
	if c.Deleted {
		kind = deleted
	}
	sum := sha256.Sum256([]byte(c.Object.Key)) // a key may be longer than what orders events
	return orchestrator.CloudEvent{
		ID: strconv.FormatUint(c.Sequence, 10), Source: "/buckets/" + c.Object.Bucket, Type: typePrefix + kind, Subject: c.Object.Key,
		Time: c.Object.ModifiedAt, ContentType: "application/json", Data: data,
		Extensions: map[string]string{orchestrator.PartitionKey: hex.EncodeToString(sum[:])},
	}
}

// position is where a trigger has got to in the changes of a bucket.
type position struct {
	Bucket string `json:"bucket"`
	Done   uint64 `json:"done"` // sequence
}

func (p position) encode() []byte {
	data, err := json.Marshal(p)
	if err != nil {
		panic("object: encode a position: " + err.Error()) // text and a number
	}
	return data
}

// Run implements orchestrator.Source.
func (source Source) Run(ctx context.Context, trigger orchestrator.Trigger, feed orchestrator.Feed) error {
	s, err := read(trigger)
	if err != nil {
		return err
	}
	var p position
	if stored := feed.Position(); stored != nil {
		if err := json.Unmarshal(stored, &p); err != nil {
			return fmt.Errorf("decode the position: %w", err)
		}
	}
	if p.Bucket != s.bucket { // another bucket begins now
		p.Bucket = s.bucket
		if p.Done, err = source.Buckets.LastChange(ctx); err != nil {
			return err
		}
		if err := feed.Deliver(ctx, p.encode()); err != nil {
			return err
		}
	}
	feed.Ready()
	for {
		feed.Report(orchestrator.Progress{})
		changes, err := source.Buckets.Changes(ctx, s.bucket, p.Done, together)
		if err != nil {
			return err
		}
		if len(changes) == 0 {
			return nil // ctx ended
		}
		var events []orchestrator.CloudEvent
		for _, c := range changes {
			if s.wants(c) {
				events = append(events, event(c))
			}
		}
		pending := int64(len(events))
		if len(changes) == together {
			pending = -1 // there may be more
		}
		if pending != 0 {
			feed.Report(orchestrator.Progress{Pending: pending, Oldest: changes[0].Object.ModifiedAt})
		}
		p.Done = changes[len(changes)-1].Sequence
		if err := feed.Deliver(ctx, p.encode(), events...); err != nil {
			return err
		}
	}
}
