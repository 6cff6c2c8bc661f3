package postgres

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/kilnfaas/kiln/orchestrator"
)

const (
	// statusEvery is how often PostgreSQL hears of this side, and is asked for a
	// sign of life; senderTimeout is after which silence it hangs up, silenceLimit
	// after which this side does.
	statusEvery   = 10 * time.Second
	senderTimeout = 60 * time.Second
	silenceLimit  = 30 * time.Second
	// sendTimeout bounds one status: it fits into the socket's buffer.
	sendTimeout = 10 * time.Second
	// maxBatch and maxBatchBytes bound what waits while what came before it is
	// delivered; a transaction may be larger.
	maxBatch      = 256
	maxBatchBytes = 4 << 20
)

// replicate tells of changes of rows until ctx ends.
func (source Source) replicate(ctx context.Context, s spec, was position, feed orchestrator.Feed) error {
	conn, err := source.connect(ctx, feed.Function(), s.place, replicationDatabase)
	if err != nil {
		return err
	}
	defer hangUp(conn)
	u := setup{source: source, conn: conn, spec: s, feed: feed, was: was}
	p, err := u.prepare(ctx)
	if err != nil {
		return explain(err, s.place)
	}
	if err := begin(ctx, conn, p); err != nil {
		return explain(err, s.place)
	}
	feed.Ready()
	ctx, cancel := context.WithCancelCause(ctx)
	st := &stream{source: source, conn: conn, feed: feed, position: p, cancel: cancel, box: newBox()}
	st.confirmed.Store(uint64(p.LSN))
	var work sync.WaitGroup
	work.Go(func() { cancel(st.deliverAll(ctx)) })
	work.Go(func() { cancel(st.beat(ctx)) })
	err = st.read(ctx, newDecoder(s))
	cancel(err)
	work.Wait()
	return explain(context.Cause(ctx), s.place)
}

// stream is one connection that changes come from. Three goroutines share it: one
// reads, one delivers what was read, so that what comes meanwhile is delivered
// together, and one keeps PostgreSQL informed while delivering takes long.
type stream struct {
	source   Source
	conn     *pgconn.PgConn
	feed     orchestrator.Feed
	position position // the deliverer's
	cancel   context.CancelCauseFunc
	box      *box

	confirmed atomic.Uint64 // LSN before which everything is delivered
	reading   atomic.Int64  // since when PostgreSQL is waited for, Unix nanoseconds; 0 = it is not
	sending   sync.Mutex    // held while a status is sent
}

// read puts what PostgreSQL sends into the box until ctx ends.
func (st *stream) read(ctx context.Context, d *decoder) error {
	for {
		st.reading.Store(time.Now().UnixNano())
		message, err := st.conn.ReceiveMessage(ctx)
		st.reading.Store(0)
		if err != nil {
			return err
		}
		switch m := message.(type) {
		case *pgproto3.CopyData:
			if err := st.take(ctx, d, m.Data); err != nil {
				return err
			}
		case *pgproto3.ErrorResponse:
			return pgconn.ErrorResponseToPgError(m)
		case *pgproto3.CopyDone:
			return orchestrator.Errorf(orchestrator.ErrUnavailable, "postgres-unavailable", "PostgreSQL has ended the stream")
		}
	}
}

// take takes one message of the stream apart.
func (st *stream) take(ctx context.Context, d *decoder, data []byte) error {
	if len(data) == 0 {
		return nil
	}
	switch data[0] {
	case pglogrepl.PrimaryKeepaliveMessageByteID:
		alive, err := pglogrepl.ParsePrimaryKeepaliveMessage(data[1:])
		if err != nil {
			return fmt.Errorf("decode what PostgreSQL sent: %w", err)
		}
		b := batch{reply: alive.ReplyRequested}
		if !d.open {
			b.confirm = alive.ServerWALEnd // there was nothing for this trigger up to here
		}
		return st.box.put(ctx, b)
	case pglogrepl.XLogDataByteID:
		x, err := pglogrepl.ParseXLogData(data[1:])
		if err != nil {
			return fmt.Errorf("decode what PostgreSQL sent: %w", err)
		}
		got, err := d.decode(x)
		if err != nil || len(got.events) == 0 && got.end == 0 {
			return err
		}
		return st.box.put(ctx, batch{events: got.events, end: got.end, confirm: got.end})
	}
	return nil
}

// deliverAll delivers what is in the box, and confirms it, until ctx ends.
func (st *stream) deliverAll(ctx context.Context) error {
	ahead := false // events were delivered since the position was told
	for {
		b, err := st.box.take(ctx)
		if err != nil {
			return err
		}
		ahead = ahead || len(b.events) > 0
		var position []byte
		if b.end > 0 && ahead {
			st.position.LSN, ahead = b.end, false
			position = st.position.encode()
		}
		if len(b.events) > 0 || position != nil {
			if err := st.deliver(ctx, position, b.events); err != nil {
				return err
			}
		}
		if uint64(b.confirm) > st.confirmed.Load() {
			st.confirmed.Store(uint64(b.confirm))
		} else if !b.reply {
			continue
		}
		if err := st.send(ctx, false); err != nil {
			return err
		}
	}
}

func (st *stream) deliver(ctx context.Context, position []byte, events []orchestrator.CloudEvent) error {
	if len(events) > 0 {
		st.feed.Report(orchestrator.Progress{Pending: -1, Oldest: events[0].Time})
	}
	err := st.feed.Deliver(ctx, position, events...)
	if errors.Is(err, orchestrator.ErrInvalid) || errors.Is(err, orchestrator.ErrTooLarge) {
		// One of them cannot be taken, and then none was.
		for _, event := range events {
			err := st.feed.Deliver(ctx, nil, event)
			switch {
			case errors.Is(err, orchestrator.ErrInvalid), errors.Is(err, orchestrator.ErrTooLarge):
				st.feed.Drop(event, err)
			case err != nil:
				return err
			}
		}
		err = st.feed.Deliver(ctx, position)
	}
	if err == nil {
		st.feed.Report(orchestrator.Progress{})
	}
	return err
}

// send tells PostgreSQL how far this side is; with ask, it is to answer.
func (st *stream) send(ctx context.Context, ask bool) error {
	st.sending.Lock()
	defer st.sending.Unlock()
	if err := st.conn.Conn().SetWriteDeadline(time.Now().Add(sendTimeout)); err != nil {
		return err
	}
	at := pglogrepl.LSN(st.confirmed.Load())
	return pglogrepl.SendStandbyStatusUpdate(ctx, st.conn, pglogrepl.StandbyStatusUpdate{
		WALWritePosition: at, WALFlushPosition: at, WALApplyPosition: at, ReplyRequested: ask,
	})
}

// beat keeps PostgreSQL informed, notices when it is silent, and looks at what it
// keeps for the trigger, until ctx ends.
func (st *stream) beat(ctx context.Context) error {
	status := time.NewTicker(statusEvery)
	defer status.Stop()
	every := st.source.LookEvery
	if every == 0 {
		every = DefaultLookEvery
	}
	look := time.NewTicker(every)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-look.C:
			st.look(ctx)
		case <-status.C:
			if since := st.reading.Load(); since != 0 && time.Since(time.Unix(0, since)) > silenceLimit {
				return orchestrator.Errorf(orchestrator.ErrUnavailable, "postgres-unavailable", "PostgreSQL at %s has not been heard of for %s", st.position.Place.address(), silenceLimit)
			}
			if err := st.send(ctx, true); err != nil {
				return err
			}
		}
	}
}

// look warns people of a slot that holds much back. An answer that does not come
// is no trouble of its own.
func (st *stream) look(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	conn, err := st.source.connect(ctx, st.feed.Function(), st.position.Place, "")
	if err != nil {
		return
	}
	defer hangUp(conn)
	rows, err := query(ctx, conn, "SELECT (CASE WHEN pg_is_in_recovery() THEN pg_last_wal_receive_lsn() ELSE pg_current_wal_lsn() END - restart_lsn)::bigint, coalesce(wal_status, '')"+
		" FROM pg_replication_slots WHERE restart_lsn IS NOT NULL AND slot_name = "+literal(st.position.Slot))
	if err != nil || len(rows) != 1 {
		return
	}
	limit := st.source.Retained
	if limit == 0 {
		limit = DefaultRetained
	}
	retained, err := strconv.ParseInt(rows[0][0], 10, 64)
	if err != nil || retained < limit && rows[0][1] != "unreserved" {
		return
	}
	const hint = "see whether the function keeps up, and for long transactions in pg_stat_activity"
	warning := orchestrator.Errorf(orchestrator.ErrExhausted, "postgres-log-retained", "PostgreSQL keeps %s of its log for the replication slot %s: %s",
		orchestrator.Bytes(retained), st.position.Slot, hint).WithHint(hint)
	st.feed.Fail(warning)
	st.source.logger().Warn("a replication slot holds much of the log back", "function", st.feed.Function(), "slot", st.position.Slot, "bytes", retained)
}

// batch is what was read and is not delivered yet.
type batch struct {
	events  []orchestrator.CloudEvent
	end     pglogrepl.LSN // of the last transaction that is whole in it; 0 = none
	confirm pglogrepl.LSN // what may be confirmed once it is delivered; 0 = nothing new
	reply   bool          // PostgreSQL wants to hear of that
}

// box holds one batch between who reads and who delivers.
type box struct {
	filled, emptied chan struct{} // one token each: look again

	mu    sync.Mutex
	batch batch // guarded by mu
	bytes int   // guarded by mu: of its events' data
}

func newBox() *box { return &box{filled: make(chan struct{}, 1), emptied: make(chan struct{}, 1)} }

// put adds to the batch, once there is room.
func (b *box) put(ctx context.Context, more batch) error {
	size := 0
	for _, event := range more.events {
		size += len(event.Data)
	}
	for !b.add(more, size) {
		select {
		case <-b.emptied:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	select {
	case b.filled <- struct{}{}:
	default:
	}
	return nil
}

func (b *box) add(more batch, size int) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.batch.events) > 0 && len(more.events) > 0 && (len(b.batch.events)+len(more.events) > maxBatch || b.bytes+size > maxBatchBytes) {
		return false
	}
	b.batch.events = append(b.batch.events, more.events...)
	b.bytes += size
	b.batch.end = max(b.batch.end, more.end)
	b.batch.confirm = max(b.batch.confirm, more.confirm)
	b.batch.reply = b.batch.reply || more.reply
	return true
}

// take returns the batch, once there is one.
func (b *box) take(ctx context.Context) (batch, error) {
	for {
		select {
		case <-b.filled:
		case <-ctx.Done():
			return batch{}, context.Cause(ctx)
		}
		b.mu.Lock()
		taken := b.batch
		b.batch, b.bytes = batch{}, 0
		b.mu.Unlock()
		select {
		case b.emptied <- struct{}{}:
		default:
		}
		if len(taken.events) > 0 || taken.end > 0 || taken.confirm > 0 || taken.reply {
			return taken, nil
		}
	}
}
