// Package postgres is the kind of triggers that tell of changes in a PostgreSQL
// database: rows of tables by logical replication, and notifications.
//
// # Rows
//
// A trigger has a replication slot in the database, which holds back what it has
// not taken in yet, and a publication that says which tables. Both are made by the
// first Run, named after the trigger's ID, and dropped when the trigger goes;
// either may be one that somebody else keeps. PostgreSQL sends each transaction
// once it is committed, whole and in the order of the commits. The slot is moved
// on (the LSN is confirmed) once Feed.Deliver has returned for all of a
// transaction; so nothing is lost, whoever dies. Large transactions are delivered
// in pieces: memory is bounded by maxBatch.
//
// The position is the end of the last transaction that was delivered, and what
// was made where. PostgreSQL writes a slot down at checkpoints only, so after a
// crash of its own it would begin earlier than the position does.
//
// # Notifications
//
// What is sent to a channel with NOTIFY while nobody listens is gone: there is
// neither slot nor position.
package postgres

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pglogrepl"

	"github.com/kilnfaas/kiln/orchestrator"
)

// Type is the type of these triggers.
const Type = "postgres"

// Source is an orchestrator.Forgetter.
type Source struct {
	Secret orchestrator.SecretFunc // required for triggers that name one
	Logger *slog.Logger            // nil = discard
	// Retained is from how much log on, in bytes, that PostgreSQL keeps for a
	// trigger people are warned; 0 = DefaultRetained.
	Retained int64
	// LookEvery is how often that is looked at; 0 = DefaultLookEvery.
	LookEvery time.Duration
}

// Defaults of a Source.
const (
	// DefaultRetained is what a quiet database does not come to, and a disk bears.
	DefaultRetained = 1 << 30
	// DefaultLookEvery costs a hundred triggers one connection every three seconds.
	DefaultLookEvery = 5 * time.Minute
)

var _ orchestrator.Forgetter = Source{}

// Check implements orchestrator.Source.
func (Source) Check(trigger orchestrator.Trigger) error {
	_, err := read(trigger)
	return err
}

// Sample implements orchestrator.Source.
func (Source) Sample(trigger orchestrator.Trigger) orchestrator.CloudEvent {
	s, err := read(trigger)
	if err == nil && s.channel != "" {
		return notified(s.channel, `{"test":true}`)
	}
	c := change{operation: opInsert, table: table{"public", "example"}, lsn: pglogrepl.LSN(0).String(), committed: time.Now().UTC()}
	if err == nil && len(s.tables) > 0 {
		c.table = s.tables[0]
	}
	c.columns = []*pglogrepl.RelationMessageColumn{{Name: "id", DataType: oidInt8}, {Name: "text", DataType: oidText}}
	c.after = &pglogrepl.TupleData{Columns: []*pglogrepl.TupleDataColumn{
		{DataType: pglogrepl.TupleDataTypeText, Data: []byte("1")}, {DataType: pglogrepl.TupleDataTypeText, Data: []byte("a sample")},
	}}
	return c.event(s.order)
}

// position is where a trigger has got to.
type position struct {
	Function string `json:"function"` // whose secrets open the place
	Place    place  `json:"place"`
	System   string `json:"system"` // of the database's cluster, made when it was
	// Slot and Publication are those that are read, Own tells which of them are
	// Kiln's and go with the trigger.
	Slot           string        `json:"slot"`
	Publication    string        `json:"publication"`
	OwnSlot        bool          `json:"own_slot"`
	OwnPublication bool          `json:"own_publication"`
	LSN            pglogrepl.LSN `json:"lsn"` // what ended before was delivered; 0 = the slot is not known to be there
}

func (p position) encode() []byte {
	data, err := json.Marshal(p)
	if err != nil {
		panic("postgres: encode a position: " + err.Error()) // texts and numbers
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

// own is the name of what Kiln makes for the trigger of an id. It is one that needs
// no quotes.
func own(id string) string { return "kiln_" + lower(id) }

func lower(id string) string {
	name := []byte(id)
	for i, c := range name {
		switch {
		case 'A' <= c && c <= 'Z':
			name[i] = c - 'A' + 'a'
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9':
		default:
			name[i] = '_'
		}
	}
	return string(name)
}

// Run implements orchestrator.Source.
func (source Source) Run(ctx context.Context, trigger orchestrator.Trigger, feed orchestrator.Feed) error {
	s, err := read(trigger)
	if err != nil {
		return err
	}
	p, err := decodePosition(feed.Position())
	if err != nil {
		return err
	}
	if s.channel == "" {
		return source.replicate(ctx, s, p, feed)
	}
	if p.Slot != "" {
		source.leave(ctx, feed, p)
		if err := feed.Deliver(ctx, position{}.encode()); err != nil {
			return err
		}
	}
	return source.listen(ctx, s, feed)
}

// leaveTimeout bounds the farewell to a database that the settings no longer
// name. It may be gone.
const leaveTimeout = 5 * time.Second

// leave clears away what was made in a database that the trigger no longer
// watches. It is tried once; people hear of what stays.
func (source Source) leave(ctx context.Context, feed orchestrator.Feed, p position) {
	ctx, cancel := context.WithTimeout(ctx, leaveTimeout)
	defer cancel()
	if err := source.remove(ctx, p); err != nil {
		feed.Fail(err)
		source.logger().Warn("what a trigger made in a database that it no longer watches stays there, and holds its log back",
			"function", feed.Function(), "database", p.Place.address(), "slot", p.Slot, "error", err)
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
	// The position is written before anything is made, so it tells of all there is.
	p, err := decodePosition(stored)
	if err != nil || p.Slot == "" {
		return err
	}
	return source.remove(ctx, p)
}

// remove drops what Kiln made at a place.
func (source Source) remove(ctx context.Context, p position) error {
	if !p.OwnSlot && !p.OwnPublication {
		return nil
	}
	conn, err := source.connect(ctx, p.Function, p.Place, replicationDatabase)
	if err != nil {
		return left(err, p)
	}
	defer hangUp(conn)
	if p.OwnSlot {
		err = dropSlot(ctx, conn, p.Slot)
	}
	if p.OwnPublication {
		_, dropErr := query(ctx, conn, "DROP PUBLICATION IF EXISTS "+identifier(p.Publication))
		err = errors.Join(err, dropErr)
	}
	return left(err, p)
}

// left explains why something could not be removed, and how people do it.
func left(err error, p position) error {
	if err == nil {
		return nil
	}
	return orchestrator.Errorf(orchestrator.ErrUnavailable, "postgres-left", "the replication slot %s stays in %s: %w", p.Slot, p.Place.address(), explain(err, p.Place)).
		WithHint("SELECT pg_drop_replication_slot('%s') and DROP PUBLICATION IF EXISTS %s there", p.Slot, identifier(p.Publication))
}
