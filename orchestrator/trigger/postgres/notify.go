package postgres

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/kilnfaas/kiln/orchestrator"
)

// listen tells of notifications until ctx ends.
func (source Source) listen(ctx context.Context, s spec, feed orchestrator.Feed) error {
	conn, err := source.connect(ctx, feed.Function(), s.place, "")
	if err != nil {
		return err
	}
	defer hangUp(conn)
	asked, cancel := context.WithTimeout(ctx, askTimeout)
	_, err = query(asked, conn, "LISTEN "+identifier(s.channel))
	cancel()
	if err != nil {
		return explain(err, s.place)
	}
	feed.Ready()
	since := time.Now().UnixNano()
	for n := 0; ; {
		message, err := conn.ReceiveMessage(ctx)
		if err != nil {
			return explain(err, s.place)
		}
		switch m := message.(type) {
		case *pgproto3.ErrorResponse:
			return explain(pgconn.ErrorResponseToPgError(m), s.place)
		case *pgproto3.NotificationResponse:
			// Each is read once, and nothing names it outside.
			event := notified(m.Channel, m.Payload)
			event.ID, event.Time = fmt.Sprintf("%x-%d", since, n), time.Now()
			n++
			err := feed.Deliver(ctx, nil, event)
			if errors.Is(err, orchestrator.ErrInvalid) || errors.Is(err, orchestrator.ErrTooLarge) {
				feed.Drop(event, err)
				err = nil
			}
			if err != nil {
				return err
			}
		}
	}
}

// notified is the event of a notification.
func notified(channel, payload string) orchestrator.CloudEvent {
	e := orchestrator.CloudEvent{Type: typePrefix + "notified", Subject: printable(channel), ContentType: "text/plain; charset=utf-8", Data: []byte(payload)}
	if json.Valid(e.Data) {
		e.ContentType = mediaJSON
	}
	return e
}
