// Package nats is the kind of triggers that tell of messages of a NATS server: the
// gateway's own, where functions' destinations publish, or another one.
//
// # Subjects
//
// A trigger with subjects alone listens as any subscriber does: what is published
// while it does not is gone. What has come is put on disk, also when the trigger or
// the gateway is stopped in an orderly way. While that is not possible it waits in
// memory, up to maxWaiting; what comes then is counted as missed.
//
// # Streams
//
// A trigger with a stream has a durable consumer there, which keeps what was not
// acknowledged. It is named after the trigger's ID, made by the first Run and
// removed when the trigger goes; or it is one that somebody else keeps. Messages are
// asked for (pulled) when there is room for them, and acknowledged one by one once
// Feed.Deliver has returned, so nothing is lost, whoever dies.
//
// The position tells what was made where, and up to where everything was
// acknowledged: a consumer that somebody removes is made again from there.
package nats

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/kilnfaas/kiln/orchestrator"
)

// Type is the type of these triggers.
const Type = "nats"

// Source is an orchestrator.Forgetter.
type Source struct {
	// Home connects to the gateway's own NATS, for triggers without a URL; nil = there
	// is none.
	Home func(options ...natsgo.Option) (*natsgo.Conn, error)
	// Private says which subjects at home functions must not see; nil = none.
	Private func(subject string) bool
	Secret  orchestrator.SecretFunc // required for triggers that name one
	Logger  *slog.Logger            // nil = discard
	// LookEvery is how often a consumer's state is looked at; 0 = DefaultLookEvery.
	LookEvery time.Duration
}

// DefaultLookEvery costs a hundred triggers ten questions a second.
const DefaultLookEvery = 10 * time.Second

var _ orchestrator.Forgetter = Source{}

// Check implements orchestrator.Source.
func (source Source) Check(trigger orchestrator.Trigger) error {
	_, err := source.read(trigger)
	return err
}

// Sample implements orchestrator.Source.
func (source Source) Sample(trigger orchestrator.Trigger) orchestrator.CloudEvent {
	s, err := source.read(trigger)
	if err != nil {
		s = spec{}
	}
	m := &natsgo.Msg{Subject: "sample", Data: []byte(`{"test":true}`)}
	if len(s.subjects) > 0 {
		m.Subject = sampleSubject(s.subjects[0])
	}
	where := ""
	if s.stream != "" {
		where = streamSource(s.stream)
	}
	return s.event(m, "", where, time.Now())
}

// position is where a trigger of a stream has got to.
type position struct {
	Function string    `json:"function"` // whose secrets open the place
	Place    place     `json:"place"`
	Stream   string    `json:"stream"`
	Made     time.Time `json:"made"` // when the stream was: another one may have its name
	Consumer string    `json:"consumer"`
	Own      bool      `json:"own"`   // the consumer is Kiln's and goes with the trigger
	Begun    bool      `json:"begun"` // the consumer was made
	Floor    uint64    `json:"floor"` // sequence up to which everything was acknowledged
}

func (p position) encode() []byte {
	data, err := json.Marshal(p)
	if err != nil {
		panic("nats: encode a position: " + err.Error()) // texts, numbers and a time
	}
	return data
}

func decodePosition(stored []byte) (position, error) {
	var p position
	if stored == nil {
		return p, nil
	}
	if err := json.Unmarshal(stored, &p); err != nil {
		return p, fmt.Errorf("decode the position: %w", err)
	}
	return p, nil
}

// own is the name of the consumer of the trigger of an id.
func own(id string) string { return "kiln_" + id }

// Run implements orchestrator.Source.
func (source Source) Run(ctx context.Context, trigger orchestrator.Trigger, feed orchestrator.Feed) error {
	s, err := source.read(trigger)
	if err != nil {
		return err
	}
	was, err := decodePosition(feed.Position())
	if err != nil {
		return err
	}
	if s.stream != "" {
		return source.consume(ctx, s, was, feed)
	}
	if was.Consumer != "" {
		source.leave(ctx, feed, was)
		if err := feed.Deliver(ctx, position{}.encode()); err != nil {
			return err
		}
	}
	return source.listen(ctx, s, feed)
}

// private says whether functions must not see a subject of a place.
func (source Source) private(p place, subject string) bool {
	return p.URL == "" && source.Private != nil && source.Private(subject)
}

// leaveTimeout bounds the farewell to a stream that the settings no longer name,
// which may be gone. Run has to return in time meanwhile.
const leaveTimeout = 4 * time.Second

// leave removes the consumer from a stream that the trigger no longer reads. It is
// tried once; people hear of what stays.
func (source Source) leave(ctx context.Context, feed orchestrator.Feed, p position) {
	ctx, cancel := context.WithTimeout(ctx, leaveTimeout)
	defer cancel()
	if err := source.remove(ctx, p); err != nil {
		feed.Fail(err)
		source.logger().Warn("a consumer of a stream that a trigger no longer reads stays there",
			"function", feed.Function(), "server", p.Place.String(), "stream", p.Stream, "consumer", p.Consumer, "error", err)
	}
}

func (source Source) logger() *slog.Logger {
	if source.Logger == nil {
		return slog.New(slog.DiscardHandler)
	}
	return source.Logger
}

// Forget implements orchestrator.Forgetter.
func (source Source) Forget(ctx context.Context, _ orchestrator.Trigger, _ string, stored []byte) error {
	// The position is written before the consumer is made, so it tells of it.
	p, err := decodePosition(stored)
	if err != nil {
		return err
	}
	return source.remove(ctx, p)
}

// remove removes the consumer that Kiln made.
func (source Source) remove(ctx context.Context, p position) error {
	if !p.Own || p.Consumer == "" {
		return nil
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	conn, err := source.connect(ctx, p.Function, p.Place, cancel)
	if err != nil {
		return left(err, p)
	}
	defer conn.Close()
	js, err := jetstream.New(conn)
	if err != nil {
		return left(err, p)
	}
	asked, done := context.WithTimeout(ctx, askTimeout)
	defer done()
	err = js.DeleteConsumer(asked, p.Stream, p.Consumer)
	if errors.Is(err, jetstream.ErrConsumerNotFound) || errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil
	}
	return left(explain(asked, err, p.Place), p)
}

// left explains that a consumer could not be removed, and how people do it.
func left(err error, p position) error {
	if err == nil {
		return nil
	}
	return orchestrator.Errorf(orchestrator.ErrUnavailable, "nats-left", "the consumer %s of the stream %s stays at %s: %w", p.Consumer, p.Stream, p.Place, err).
		WithHint("nats consumer rm %s %s there", p.Stream, p.Consumer)
}
