package nats

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/kilnfaas/kiln/orchestrator"
)

// setup makes ready what a trigger needs on a server.
type setup struct {
	source Source
	js     jetstream.JetStream
	spec   spec
	feed   orchestrator.Feed
	was    position // as stored
	p      position // as it is to be
}

// prepare sees to the consumer, and stores where the trigger is.
func (u *setup) prepare(ctx context.Context) (jetstream.Consumer, error) {
	stream, err := u.js.Stream(ctx, u.spec.stream)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil, refused("nats-stream-unknown", "make it (nats stream add "+u.spec.stream+"), or correct the setting stream", "%s has no stream %s", u.spec.place, u.spec.stream)
	} else if err != nil {
		return nil, err
	}
	info := stream.CachedInfo()
	if err := u.mayRead(info.Config.Subjects); err != nil {
		return nil, err
	}
	u.p = position{Function: u.feed.Function(), Place: u.spec.place, Stream: u.spec.stream, Made: info.Created.UTC(), Consumer: u.spec.consumer}
	if u.p.Consumer == "" {
		u.p.Consumer, u.p.Own = own(u.feed.ID()), true
	}
	again := u.supersede(ctx)
	// What is made is written down first: it is found again whoever dies.
	if err := u.store(ctx); err != nil {
		return nil, err
	}
	consumer, err := stream.Consumer(ctx, u.p.Consumer)
	switch {
	case !u.p.Own:
		return consumer, u.usable(consumer, err)
	case errors.Is(err, jetstream.ErrConsumerNotFound):
		consumer, err = u.create(ctx, stream, again)
	case err == nil:
		consumer, err = u.update(ctx, stream, consumer)
	}
	if err != nil {
		return nil, u.explain(ctx, err)
	}
	u.p.Begun, u.p.Floor = true, consumer.CachedInfo().AckFloor.Stream
	return consumer, u.store(ctx)
}

// store writes the position down if it is another one.
func (u *setup) store(ctx context.Context) error {
	now := u.p.encode()
	if bytes.Equal(now, u.was.encode()) {
		return nil
	}
	if err := u.feed.Deliver(ctx, now); err != nil {
		return err
	}
	u.was = u.p
	return nil
}

// mayRead refuses streams of the gateway's own.
func (u *setup) mayRead(subjects []string) error {
	if !slices.ContainsFunc(subjects, func(subject string) bool { return u.source.private(u.spec.place, subject) }) {
		return nil
	}
	return refused("nats-stream-private", "read a stream of your own, or give url and secret", "the stream %s is the gateway's own", u.spec.stream)
}

// supersede clears away what earlier settings had. It says whether the stream is
// another one of the same name: all that is in it has happened since.
func (u *setup) supersede(ctx context.Context) (again bool) {
	if u.was.Consumer == "" {
		return false
	}
	same := u.was.Stream == u.p.Stream && u.was.Made.Equal(u.p.Made) // whatever the server is called now
	if same && u.was.Consumer == u.p.Consumer {
		u.p.Begun, u.p.Floor = u.was.Begun, u.was.Floor
		return false
	}
	if u.was.Stream == u.p.Stream && u.was.Place.URL == u.p.Place.URL && !same {
		reason := orchestrator.Errorf(orchestrator.ErrNotFound, "nats-stream-replaced",
			"the stream %s was removed and made again: messages of the former one after %d may be lost", u.p.Stream, u.was.Floor)
		u.feed.Drop(orchestrator.CloudEvent{ID: streamID(u.was.Stream, u.was.Made, u.was.Floor), Type: eventType}, reason)
		return true
	}
	u.source.leave(ctx, u.feed, u.was)
	return false
}

// usable checks a consumer that somebody else keeps.
func (u *setup) usable(consumer jetstream.Consumer, err error) error {
	const hint = "or leave consumer out, and Kiln makes one"
	switch {
	case errors.Is(err, jetstream.ErrConsumerNotFound):
		return refused("nats-consumer-unknown", "make it, "+hint, "the stream %s has no consumer %s", u.p.Stream, u.p.Consumer)
	case errors.Is(err, jetstream.ErrNotPullConsumer):
		return refused("nats-consumer-unfit", "name a pull consumer, "+hint, "the consumer %s is one that the server pushes to", u.p.Consumer)
	case err != nil:
		return err
	case consumer.CachedInfo().Config.AckPolicy != jetstream.AckExplicitPolicy:
		return refused("nats-consumer-unfit", "name one with the acknowledgement policy explicit, "+hint, "the consumer %s cannot be acknowledged message by message", u.p.Consumer)
	}
	return nil
}

// create makes the consumer; again says that everything in the stream is new.
func (u *setup) create(ctx context.Context, stream jetstream.Stream, again bool) (jetstream.Consumer, error) {
	config := jetstream.ConsumerConfig{
		Durable: u.p.Consumer, Description: "Kiln: function " + u.p.Function, AckPolicy: jetstream.AckExplicitPolicy,
		AckWait: u.spec.ackWait, MaxAckPending: u.spec.ackPending, MaxDeliver: -1, // what fails is the queue's affair
	}
	u.filter(&config)
	u.begin(&config, stream.CachedInfo().Config.Retention, again)
	if u.p.Begun {
		u.source.logger().Info("the consumer of a trigger is made again", "function", u.p.Function, "stream", u.p.Stream, "consumer", u.p.Consumer, "after", u.p.Floor)
	}
	return stream.CreateConsumer(ctx, config)
}

// begin says where a consumer begins.
func (u *setup) begin(config *jetstream.ConsumerConfig, retention jetstream.RetentionPolicy, again bool) {
	switch {
	case retention == jetstream.WorkQueuePolicy, again:
		// A work queue holds what nobody has done, and allows nothing else.
		config.DeliverPolicy = jetstream.DeliverAllPolicy
	case u.p.Begun:
		config.DeliverPolicy, config.OptStartSeq = jetstream.DeliverByStartSequencePolicy, u.p.Floor+1
	case u.spec.start == startAll:
		config.DeliverPolicy = jetstream.DeliverAllPolicy
	case u.spec.start == startLast:
		config.DeliverPolicy = jetstream.DeliverLastPolicy
	case u.spec.start == startLastPerSubject:
		config.DeliverPolicy = jetstream.DeliverLastPerSubjectPolicy
		if len(u.spec.subjects) == 0 {
			config.FilterSubject = ">" // which the server wants to be told
		}
	case u.spec.start == startNew:
		config.DeliverPolicy = jetstream.DeliverNewPolicy
	default:
		config.DeliverPolicy, config.OptStartTime = jetstream.DeliverByStartTimePolicy, &u.spec.startAt
	}
}

func (u *setup) filter(config *jetstream.ConsumerConfig) {
	config.FilterSubject, config.FilterSubjects = "", nil
	if len(u.spec.subjects) == 1 {
		config.FilterSubject = u.spec.subjects[0] // older servers know one only
	} else {
		config.FilterSubjects = u.spec.subjects
	}
}

// update makes a consumer that is there what the settings say now.
func (u *setup) update(ctx context.Context, stream jetstream.Stream, consumer jetstream.Consumer) (jetstream.Consumer, error) {
	info := consumer.CachedInfo()
	config := info.Config
	u.filter(&config)
	if info.Config.FilterSubject == ">" && config.FilterSubject == "" && len(config.FilterSubjects) == 0 {
		config.FilterSubject = ">" // see begin
	}
	filtered := config.FilterSubject != info.Config.FilterSubject || !slices.Equal(config.FilterSubjects, info.Config.FilterSubjects)
	// What is under way is a former Run's, which is no more: it comes again at once
	// from a consumer that is made anew, and only after the acknowledgement's time from
	// this one. Servers before 2.10 do not wake a consumer for subjects that it gets. A
	// stream that keeps what somebody waits for would lose it with the consumer.
	if (filtered || info.NumAckPending > 0) && stream.CachedInfo().Config.Retention != jetstream.InterestPolicy {
		u.p.Begun, u.p.Floor = true, info.AckFloor.Stream
		if err := u.store(ctx); err != nil {
			return nil, err
		}
		if err := stream.DeleteConsumer(ctx, u.p.Consumer); err != nil {
			return nil, err
		}
		return u.create(ctx, stream, false)
	}
	config.AckWait, config.MaxAckPending = u.spec.ackWait, u.spec.ackPending
	if !filtered && config.AckWait == info.Config.AckWait && config.MaxAckPending == info.Config.MaxAckPending {
		return consumer, nil
	}
	return stream.UpdateConsumer(ctx, config)
}

// explain makes an error about the consumer one that says what to do.
func (u *setup) explain(ctx context.Context, err error) error {
	if errors.Is(err, jetstream.ErrConsumerMultipleFilterSubjectsNotSupported) {
		return refused("nats-subjects-too-many", "give one subject with wildcards, or add a trigger for each", "%s is too old for several subjects of a stream", u.spec.place)
	}
	return fmt.Errorf("the consumer of the stream %s: %w", u.p.Stream, explain(ctx, err, u.spec.place))
}
