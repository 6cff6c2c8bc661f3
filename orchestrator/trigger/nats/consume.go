package nats

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/kilnfaas/kiln/orchestrator"
)

const (
	// maxPull is how many messages are asked for at once, and so how many may wait in
	// memory.
	maxPull = 256
	// pullLife is how long the server keeps a question open, heartbeat how often it
	// says that it still does, silence after which none it is asked anew, elsewhere.
	pullLife  = time.Minute
	heartbeat = 15 * time.Second
	silence   = 40 * time.Second
	// statuses is room for what the server says of a question besides messages.
	statuses = 64
)

// Answers to a message (JetStream's acknowledgement protocol).
const (
	answerDone   = "+ACK"
	answerNever  = "+TERM"
	answerAgain  = "-NAK"
	answerWorked = "+WPI" // and its time begins anew
)

// consume tells of the messages of a stream until ctx ends.
func (source Source) consume(ctx context.Context, s spec, was position, feed orchestrator.Feed) error {
	run, end := context.WithCancelCause(ctx)
	defer end(nil)
	conn, err := source.connect(run, feed.Function(), s.place, end)
	if err != nil {
		return err
	}
	defer conn.Close()
	js, err := jetstream.New(conn)
	if err != nil {
		return fmt.Errorf("open JetStream: %w", err)
	}
	u := &setup{source: source, js: js, spec: s, feed: feed, was: was}
	asked, cancel := context.WithTimeout(run, askTimeout)
	consumer, err := u.prepare(asked)
	cancel()
	if err != nil {
		return explain(run, err, s.place)
	}
	c := &consumption{setup: u, conn: conn, consumer: consumer, come: make(chan *natsgo.Msg, maxPull+statuses)}
	if c.inbox, err = conn.ChanSubscribe(conn.NewInbox(), c.come); err != nil {
		return explain(run, err, s.place)
	}
	feed.Ready()
	err = c.readAll(run)
	c.giveBack()
	return explain(run, err, s.place)
}

// consumption is the reading of one consumer.
type consumption struct {
	*setup
	conn     *natsgo.Conn
	consumer jetstream.Consumer
	inbox    *natsgo.Subscription
	come     chan *natsgo.Msg // messages, and what the server says of questions
	open     int              // messages that may still come of the question that is open
	heard    time.Time        // when the server was heard of last
	held     []*natsgo.Msg    // what was taken and could not be delivered
}

// readAll asks for messages and delivers them until ctx ends, or there is an error.
func (c *consumption) readAll(ctx context.Context) error {
	every := c.source.LookEvery
	if every == 0 {
		every = DefaultLookEvery
	}
	look := time.NewTicker(every)
	defer look.Stop()
	if err := c.look(ctx); err != nil {
		return err
	}
	for {
		if c.open == 0 {
			if err := c.ask(); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-look.C:
			if since := time.Since(c.heard); since > silence {
				return orchestrator.Errorf(orchestrator.ErrUnavailable, "nats-unavailable", "%s has not been heard of for %s", c.spec.place, since.Round(time.Second))
			}
			if err := c.look(ctx); err != nil {
				return err
			}
		case m := <-c.come:
			batch, err := c.gather(m)
			if len(batch) > 0 {
				if err := c.deliver(ctx, batch); err != nil {
					return err
				}
			}
			if err != nil {
				return err
			}
		}
	}
}

// question is what a consumer is asked with (JetStream's API, CONSUMER.MSG.NEXT).
type question struct {
	Batch     int           `json:"batch"`
	Expires   time.Duration `json:"expires"` // nanoseconds
	Heartbeat time.Duration `json:"idle_heartbeat"`
}

// ask opens a question.
func (c *consumption) ask() error {
	q := question{maxPull, pullLife, heartbeat}
	limits := c.consumer.CachedInfo().Config // of one that somebody else keeps
	if limits.MaxRequestBatch > 0 {
		q.Batch = min(q.Batch, limits.MaxRequestBatch)
	}
	if limits.MaxRequestExpires > 0 {
		q.Expires = min(q.Expires, limits.MaxRequestExpires)
		q.Heartbeat = min(q.Heartbeat, q.Expires/2)
	}
	data, err := json.Marshal(q)
	if err != nil {
		return err
	}
	c.open, c.heard = q.Batch, time.Now()
	return c.conn.PublishRequest("$JS.API.CONSUMER.MSG.NEXT."+c.p.Stream+"."+c.p.Consumer, c.inbox.Subject, data)
}

// gather returns the messages that are there, of which m is the first. The error is
// what the server said behind them.
func (c *consumption) gather(m *natsgo.Msg) (batch []*natsgo.Msg, err error) {
	size := 0
	for {
		c.heard = time.Now()
		if m.Subject == c.inbox.Subject {
			if err := c.status(m); err != nil {
				return batch, err
			}
		} else {
			c.open = max(0, c.open-1)
			batch = append(batch, m)
			size += m.Size()
		}
		if len(batch) == maxBatch || size > maxBatchBytes {
			return batch, nil
		}
		select {
		case m = <-c.come:
		default:
			return batch, nil
		}
	}
}

// status takes what the server says of a question.
func (c *consumption) status(m *natsgo.Msg) error {
	code, text := m.Header.Get("Status"), m.Header.Get("Description")
	switch {
	case code == "100": // a sign of life
		return nil
	case code == "404" || code == "408": // nothing more comes of it
		c.open = 0
		return nil
	case code == "503" || strings.Contains(strings.ToLower(text), "consumer deleted"):
		return c.removed()
	}
	return orchestrator.Errorf(orchestrator.ErrUnavailable, "nats-error", "%s says: %s (%s)", c.spec.place, text, code)
}

// deliver puts messages on disk and acknowledges them.
func (c *consumption) deliver(ctx context.Context, batch []*natsgo.Msg) error {
	events, kept := make([]orchestrator.CloudEvent, 0, len(batch)), make([]*natsgo.Msg, 0, len(batch))
	pending, oldest := uint64(0), time.Time{}
	for _, m := range batch {
		about, err := m.Metadata()
		if err != nil {
			return fmt.Errorf("read where a message is from: %w", err)
		}
		pending = about.NumPending
		if oldest.IsZero() || about.Timestamp.Before(oldest) {
			oldest = about.Timestamp
		}
		if c.source.private(c.spec.place, m.Subject) {
			if err := c.answer(answerDone, m); err != nil {
				return err
			}
			continue
		}
		events = append(events, c.spec.event(m, streamID(c.p.Stream, c.p.Made, about.Sequence.Stream), streamSource(c.p.Stream), about.Timestamp))
		kept = append(kept, m)
	}
	c.feed.Report(orchestrator.Progress{Pending: int64(pending) + int64(len(kept)), Oldest: oldest})
	dropped, err := c.hold(kept, func() (map[int]bool, error) { return deliver(ctx, c.feed, events) })
	if err != nil {
		c.held = kept
		return err
	}
	for i, m := range kept {
		answer := answerDone
		if dropped[i] {
			answer = answerNever
		}
		if err := c.answer(answer, m); err != nil {
			return err
		}
	}
	c.feed.Report(orchestrator.Progress{Pending: int64(pending)})
	return nil
}

// hold keeps the server from giving messages to others while f runs.
func (c *consumption) hold(messages []*natsgo.Msg, f func() (map[int]bool, error)) (map[int]bool, error) {
	wait := c.consumer.CachedInfo().Config.AckWait
	if wait <= 0 {
		wait = defaultAckWait
	}
	over, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		again := time.NewTicker(wait / 2)
		defer again.Stop()
		for {
			select {
			case <-over:
				return
			case <-again.C:
				_ = c.answer(answerWorked, messages...) // the connection's end is noticed elsewhere
			}
		}
	}()
	defer func() {
		close(over)
		<-done
	}()
	return f()
}

// answer tells the server what became of messages.
func (c *consumption) answer(what string, messages ...*natsgo.Msg) error {
	for _, m := range messages {
		if err := c.conn.Publish(m.Reply, []byte(what)); err != nil {
			return err
		}
	}
	return nil
}

// giveBack ends the open question, and then gives back what has come of it, so that
// others who read the consumer have it at once.
func (c *consumption) giveBack() {
	if c.inbox.Drain() != nil || c.conn.FlushTimeout(flushTimeout) != nil {
		return // the connection is lost, and with it the question
	}
	for {
		select {
		case m := <-c.come:
			if m.Subject != c.inbox.Subject {
				c.held = append(c.held, m)
			}
			continue
		default:
		}
		// If this fails, the server finds out by itself.
		_ = c.answer(answerAgain, c.held...)
		_ = c.conn.FlushTimeout(flushTimeout)
		return
	}
}

func (c *consumption) removed() error {
	return orchestrator.Errorf(orchestrator.ErrNotFound, "nats-consumer-removed", "the consumer %s of the stream %s was removed, or its server is away", c.p.Consumer, c.p.Stream)
}

// look tells how far behind the consumer is, and notes up to where everything was
// acknowledged. It is an error when the consumer is gone, which older servers do not
// tell of.
func (c *consumption) look(ctx context.Context) error {
	asked, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	info, err := c.consumer.Info(asked)
	switch {
	case errors.Is(err, jetstream.ErrConsumerNotFound), errors.Is(err, jetstream.ErrStreamNotFound):
		return c.removed()
	case err != nil:
		return nil // if it stays so, silence tells
	}
	c.feed.Report(orchestrator.Progress{Pending: int64(info.NumPending) + int64(info.NumAckPending)})
	if c.p.Own && info.AckFloor.Stream != c.p.Floor {
		c.p.Floor = info.AckFloor.Stream
		return c.store(ctx)
	}
	return nil
}
