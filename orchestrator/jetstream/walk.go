package jetstream

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

const (
	// walkTimeout bounds reading all of a stream's messages of some subjects:
	// 10,000 take about a second.
	walkTimeout = 30 * time.Second
	// walkBatch is how many messages are asked for at once.
	walkBatch = 256
	// walkerLife is how long the server keeps a consumer that nobody deleted.
	walkerLife = 10 * time.Second
)

// walk calls f for each message of the subjects that filter matches, in the
// order they were written. A message written meanwhile comes too, or not; one
// that is there throughout comes once.
//
// A consumer made for the walk reads, at the stream's leader. A batch that is
// empty is no proof of the end (the library also gives one up after a second of
// silence); that nothing is pending is.
func walk(ctx context.Context, stream jetstream.Stream, filter string, f func(jetstream.Msg, *jetstream.MsgMetadata) error) error {
	return walkBy(ctx, stream, filter, walkBatch, walkTimeout, f)
}

// walkBy is walk with a batch, for messages that are large, and a time.
func walkBy(ctx context.Context, stream jetstream.Stream, filter string, size int, timeout time.Duration, f func(jetstream.Msg, *jetstream.MsgMetadata) error) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	consumer, err := stream.CreateConsumer(ctx, jetstream.ConsumerConfig{
		FilterSubject:     filter,
		DeliverPolicy:     jetstream.DeliverAllPolicy,
		AckPolicy:         jetstream.AckNonePolicy,
		MemoryStorage:     true,
		InactiveThreshold: walkerLife,
	})
	if err != nil {
		return fmt.Errorf("read the stream: %w", err)
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), opTimeout)
		defer cancel()
		// When this fails the server deletes it after walkerLife.
		_ = stream.DeleteConsumer(ctx, consumer.CachedInfo().Name)
	}()
	for pending := consumer.CachedInfo().NumPending; pending > 0; {
		batch, err := consumer.FetchNoWait(int(min(pending, uint64(size))))
		if err != nil {
			return fmt.Errorf("read the stream: %w", err)
		}
		received := 0
		for message := range batch.Messages() {
			meta, err := message.Metadata()
			if err != nil {
				return fmt.Errorf("read the stream: %w", err)
			}
			received++
			pending = meta.NumPending
			if err := f(message, meta); err != nil {
				return err
			}
		}
		if err := batch.Error(); err != nil {
			return fmt.Errorf("read the stream: %w", err)
		}
		if received == 0 {
			info, err := consumer.Info(ctx)
			if err != nil {
				return fmt.Errorf("read the stream: %w", err)
			}
			pending = info.NumPending
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return nil
}
