package postgres

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pglogrepl"

	"github.com/kilnfaas/kiln/orchestrator"
)

const (
	typePrefix = "dev.kiln.postgres."
	mediaJSON  = "application/json"
	// longValue is from how many bytes on a value is left out of an event that
	// would be too large with it.
	longValue = 4 << 10
)

// types are the events' types by operation.
var types = map[string]string{
	opInsert: typePrefix + "inserted", opUpdate: typePrefix + "updated", opDelete: typePrefix + "deleted", opTruncate: typePrefix + "truncated",
}

// decoder makes events of the messages of pgoutput, version 1 of its protocol: a
// transaction comes whole, once it is committed, between Begin and Commit.
type decoder struct {
	spec      spec
	relations map[uint32]*pglogrepl.RelationMessage
	open      bool // between Begin and Commit
	begin     pglogrepl.BeginMessage
	at        pglogrepl.LSN // of the latest change
	nth       int           // how many changes before it had that LSN
}

func newDecoder(s spec) *decoder {
	return &decoder{spec: s, relations: map[uint32]*pglogrepl.RelationMessage{}}
}

// decoded is what a message comes to.
type decoded struct {
	events []orchestrator.CloudEvent
	end    pglogrepl.LSN // non-zero: a transaction has ended, and what is before this was told
}

func (d *decoder) decode(x pglogrepl.XLogData) (decoded, error) {
	message, err := pglogrepl.Parse(x.WALData)
	if err != nil {
		return decoded{}, fmt.Errorf("decode what PostgreSQL sent: %w", err)
	}
	switch m := message.(type) {
	case *pglogrepl.BeginMessage:
		d.open, d.begin, d.at, d.nth = true, *m, 0, 0
	case *pglogrepl.CommitMessage:
		d.open = false
		return decoded{end: m.TransactionEndLSN}, nil
	case *pglogrepl.RelationMessage:
		d.relations[m.RelationID] = m
	case *pglogrepl.InsertMessage:
		return d.change(x.WALStart, opInsert, m.RelationID, nil, m.Tuple, false)
	case *pglogrepl.UpdateMessage:
		return d.change(x.WALStart, opUpdate, m.RelationID, m.OldTuple, m.NewTuple, m.OldTupleType == pglogrepl.UpdateMessageTupleTypeKey)
	case *pglogrepl.DeleteMessage:
		return d.change(x.WALStart, opDelete, m.RelationID, m.OldTuple, nil, m.OldTupleType == pglogrepl.DeleteMessageTupleTypeKey)
	case *pglogrepl.TruncateMessage:
		var all decoded
		for _, relation := range m.RelationIDs {
			one, err := d.change(x.WALStart, opTruncate, relation, nil, nil, false)
			if err != nil {
				return decoded{}, err
			}
			all.events = append(all.events, one.events...)
		}
		return all, nil
	}
	return decoded{}, nil
}

// change makes the event of one change. Its id is where the change stands in the
// log of PostgreSQL, which is the same whenever it is read and whatever else is
// published, with the instant of the commit: a database that was set back writes
// other changes to the same places.
func (d *decoder) change(at pglogrepl.LSN, operation string, id uint32, before, after *pglogrepl.TupleData, keyOnly bool) (decoded, error) {
	if at == d.at {
		d.nth++
	} else {
		d.at, d.nth = at, 0
	}
	relation := d.relations[id]
	if relation == nil {
		return decoded{}, fmt.Errorf("decode what PostgreSQL sent: relation %d was not described", id)
	}
	if !slices.Contains(d.spec.operations, operation) {
		return decoded{}, nil
	}
	c := change{
		operation: operation, table: table{relation.Namespace, relation.RelationName},
		lsn: at.String(), xid: d.begin.Xid, committed: d.begin.CommitTime.UTC(), keyOnly: keyOnly,
		columns: relation.Columns, before: before, after: after,
	}
	event := c.event(d.spec.order)
	event.ID = fmt.Sprintf("%s-%d-%x", at, d.nth, d.begin.CommitTime.UnixMicro())
	return decoded{events: []orchestrator.CloudEvent{event}}, nil
}

// change is one row that changed, or a table that was emptied.
type change struct {
	operation     string
	table         table
	lsn           string
	xid           uint32
	committed     time.Time
	columns       []*pglogrepl.RelationMessageColumn
	before, after *pglogrepl.TupleData // nil = not told, or there is none
	keyOnly       bool                 // of before, PostgreSQL tells the key alone
}

func (c change) event(order string) orchestrator.CloudEvent {
	e := orchestrator.CloudEvent{
		Type: types[c.operation], Subject: printable(c.table.String()), Time: c.committed, ContentType: mediaJSON, Data: c.encode(0),
	}
	if len(e.Data) > orchestrator.MaxEventData {
		e.Data = c.encode(longValue)
	}
	switch order {
	case orderCommit:
		e.Extensions = map[string]string{orchestrator.PartitionKey: "commit"}
	case orderTable:
		e.Extensions = map[string]string{orchestrator.PartitionKey: e.Subject}
	}
	return e
}

// printable makes a name one that an attribute may hold.
func printable(name string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r <= 0x9f {
			return '_'
		}
		return r
	}, name)
}

// encode writes the change as JSON, with the columns in the table's order. Values
// of more than longest bytes are left out and named, unless that is 0.
func (c change) encode(longest int) []byte {
	b := []byte(`{"operation":`)
	b = appendText(b, c.operation)
	b = appendText(append(b, `,"schema":`...), c.table.schema)
	b = appendText(append(b, `,"table":`...), c.table.name)
	var unchanged, omitted []string
	if c.after != nil {
		b = append(b, `,"new":`...)
		b = c.row(b, c.after, c.before, false, longest, &unchanged, &omitted)
	}
	if c.before != nil {
		b = append(b, `,"old":`...)
		b = c.row(b, c.before, nil, c.keyOnly, longest, nil, &omitted)
	}
	b = appendNames(b, "unchanged", unchanged)
	b = appendNames(b, "omitted", omitted)
	b = appendText(append(b, `,"commit":{"lsn":`...), c.lsn)
	b = fmt.Appendf(b, `,"xid":%d,"time":`, c.xid)
	b = appendText(b, c.committed.Format(time.RFC3339Nano))
	return append(b, "}}"...)
}

// appendNames appends a list of columns, once each, if there are any.
func appendNames(b []byte, key string, names []string) []byte {
	if len(names) == 0 {
		return b
	}
	b = append(b, `,"`+key+`":[`...)
	for i, name := range names {
		if slices.Contains(names[:i], name) {
			continue
		}
		if i > 0 {
			b = append(b, ',')
		}
		b = appendText(b, name)
	}
	return append(b, ']')
}

// row appends a row. A long value that an update left alone is not in what
// PostgreSQL sends; other has it where the table's REPLICA IDENTITY is FULL.
func (c change) row(b []byte, row, other *pglogrepl.TupleData, keyOnly bool, longest int, unchanged, omitted *[]string) []byte {
	b = append(b, '{')
	first := true
	for i, value := range row.Columns {
		if i >= len(c.columns) || keyOnly && c.columns[i].Flags&1 == 0 {
			continue
		}
		column := c.columns[i]
		if value.DataType == pglogrepl.TupleDataTypeToast && other != nil && !c.keyOnly && i < len(other.Columns) {
			value = other.Columns[i]
		}
		switch {
		case value.DataType == pglogrepl.TupleDataTypeToast:
			if unchanged != nil {
				*unchanged = append(*unchanged, column.Name)
			}
			continue
		case longest > 0 && len(value.Data) > longest:
			*omitted = append(*omitted, column.Name)
			continue
		}
		if !first {
			b = append(b, ',')
		}
		first = false
		b = append(appendText(b, column.Name), ':')
		if value.DataType == pglogrepl.TupleDataTypeText {
			b = appendValue(b, column.DataType, value.Data)
		} else {
			b = append(b, "null"...)
		}
	}
	return append(b, '}')
}
