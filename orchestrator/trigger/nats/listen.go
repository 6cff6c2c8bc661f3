package nats

import (
	"context"
	"fmt"
	"sync"
	"time"

	natsgo "github.com/nats-io/nats.go"

	"github.com/kilnfaas/kiln/orchestrator"
)

const (
	// maxWaiting and maxWaitingBytes bound what has come and is not on disk yet.
	maxWaiting      = 64 << 10
	maxWaitingBytes = 32 << 20
	// maxComing is how many may be between the connection and there, for a moment.
	maxComing = 4096
	// maxBatch and maxBatchBytes bound what is delivered at once.
	maxBatch      = 256
	maxBatchBytes = 4 << 20
)

// listen tells of the messages of subjects until ctx ends.
func (source Source) listen(ctx context.Context, s spec, feed orchestrator.Feed) error {
	// What has come when ctx ends is still put on disk.
	late, giveUp := context.WithCancelCause(context.WithoutCancel(ctx))
	defer giveUp(nil)
	in := &inbox{come: make(chan *natsgo.Msg, maxComing), filled: make(chan struct{}, 1), closed: make(chan struct{}), empty: make(chan struct{})}
	conn, err := source.connect(ctx, feed.Function(), s.place, in.close)
	if err != nil {
		return err
	}
	defer func() {
		conn.Close()
		<-in.empty
	}()
	go in.gather(func(m *natsgo.Msg) bool {
		return !hidden(m.Sub.Subject, m.Subject) && !source.private(s.place, m.Subject)
	})
	for _, subject := range s.subjects {
		// One channel for all of them keeps the order. An empty group is none.
		one, err := conn.ChanQueueSubscribe(subject, s.queue, in.come)
		if err != nil {
			return explain(ctx, err, s.place)
		}
		in.all = append(in.all, one)
	}
	asked, cancel := context.WithTimeout(ctx, askTimeout)
	err = conn.FlushWithContext(asked)
	cancel()
	if err != nil {
		return explain(ctx, err, s.place)
	}
	feed.Ready()
	stop := context.AfterFunc(ctx, func() {
		time.AfterFunc(drainTimeout, func() { giveUp(context.Cause(ctx)) })
		if conn.Drain() != nil {
			conn.Close() // it has ended, or is about to
		}
	})
	defer stop()
	return in.deliverAll(late, s, feed)
}

// inbox holds what has come and is not on disk yet.
type inbox struct {
	come   chan *natsgo.Msg       // of the connection
	all    []*natsgo.Subscription // which fill it
	filled chan struct{}          // one token: look again
	closed chan struct{}          // closed when nothing more comes
	empty  chan struct{}          // closed when what came is in the queue

	told int // the deliverer's: see lost

	mu     sync.Mutex
	queue  []*natsgo.Msg // guarded by mu
	bytes  int           // guarded by mu
	missed int           // guarded by mu: messages that there was no room for
	err    error         // guarded by mu: why nothing more comes
	over   bool          // guarded by mu
}

// gather takes in what comes and is wanted, until nothing more does.
func (in *inbox) gather(wanted func(*natsgo.Msg) bool) {
	defer close(in.empty)
	over := false
	for {
		var m *natsgo.Msg
		if over {
			select {
			case m = <-in.come:
			default:
				return
			}
		} else {
			select {
			case m = <-in.come:
			case <-in.closed:
				over = true // and what is there still counts
				continue
			}
		}
		if wanted(m) {
			in.put(m)
		}
	}
}

// lost returns how many messages the connection had no room for since it was asked
// last.
func (in *inbox) lost() int {
	sum := 0
	for _, one := range in.all {
		n, err := one.Dropped()
		if err != nil {
			return 0 // it has ended
		}
		sum += n
	}
	lost := sum - in.told
	in.told = sum
	return lost
}

// put adds a message, if there is room.
func (in *inbox) put(m *natsgo.Msg) {
	in.mu.Lock()
	if len(in.queue) >= maxWaiting || in.bytes+m.Size() > maxWaitingBytes {
		in.missed++
	} else {
		in.queue = append(in.queue, m)
		in.bytes += m.Size()
	}
	in.mu.Unlock()
	select {
	case in.filled <- struct{}{}:
	default:
	}
}

// close tells that nothing more comes, or why nothing can.
func (in *inbox) close(err error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.over {
		return
	}
	in.err, in.over = err, true
	close(in.closed)
}

// take returns what is to be delivered next, and what was missed before.
func (in *inbox) take() (batch []*natsgo.Msg, waiting, missed int) {
	in.mu.Lock()
	defer in.mu.Unlock()
	n, size := 0, 0
	for n < min(len(in.queue), maxBatch) && (n == 0 || size+in.queue[n].Size() <= maxBatchBytes) {
		size += in.queue[n].Size()
		n++
	}
	waiting, missed, in.missed = len(in.queue), in.missed, 0
	batch, in.queue, in.bytes = in.queue[:n:n], in.queue[n:], in.bytes-size
	return batch, waiting, missed
}

// deliverAll delivers what comes until nothing more does, and returns why.
func (in *inbox) deliverAll(ctx context.Context, s spec, feed orchestrator.Feed) error {
	since := time.Now().UnixNano()
	for n, over := 0, false; ; {
		batch, waiting, missed := in.take()
		feed.Missed(missed+in.lost(), errMissed)
		if len(batch) > 0 {
			now := time.Now()
			feed.Report(orchestrator.Progress{Pending: int64(waiting), Oldest: now})
			events := make([]orchestrator.CloudEvent, len(batch))
			for i, m := range batch {
				// Each is read once; unless its publisher does, nothing names it outside.
				id := messageID(m)
				if id == "" {
					id = fmt.Sprintf("%x-%d", since, n)
				}
				events[i] = s.event(m, id, "", now)
				n++
			}
			if _, err := deliver(ctx, feed, events); err != nil {
				feed.Missed(waiting, err)
				return err
			}
			feed.Report(orchestrator.Progress{})
			continue
		}
		if over {
			in.mu.Lock()
			defer in.mu.Unlock()
			return in.err
		}
		select {
		case <-in.filled:
		case <-in.empty:
			over = true // and look once more
		}
	}
}

// errMissed tells that messages came faster than they could be put on disk.
var errMissed = orchestrator.Errorf(orchestrator.ErrExhausted, "nats-missed",
	"messages came while %d waited for the queue: use a stream for what must not be missed", maxWaiting)
