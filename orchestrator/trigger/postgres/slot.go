package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/kilnfaas/kiln/orchestrator"
)

const (
	// replicationDatabase opens a connection for logical replication.
	replicationDatabase = "database"
	plugin              = "pgoutput"
	// setupTimeout bounds making a slot: PostgreSQL waits until the transactions
	// that write have ended. Another try follows.
	setupTimeout = 2 * time.Minute
	// askTimeout bounds one question.
	askTimeout = 10 * time.Second
	// releaseTimeout is how long a slot may stay in use after the connection that
	// had it has ended, releasePause how soon it is tried again.
	releaseTimeout = 3 * time.Second
	releasePause   = 20 * time.Millisecond
)

// setup makes ready what a trigger needs in a database.
type setup struct {
	source Source
	conn   *pgconn.PgConn
	spec   spec
	feed   orchestrator.Feed
	was    position // as stored
	p      position // as it is to be
}

// prepare sees to the publication and the slot. It returns the position to go on
// from, which is stored.
func (u *setup) prepare(ctx context.Context) (position, error) {
	ctx, cancel := context.WithTimeout(ctx, setupTimeout)
	defer cancel()
	id := own(u.feed.ID())
	u.p = position{Function: u.feed.Function(), Place: u.spec.place, Slot: u.spec.slot, Publication: u.spec.publication, LSN: u.was.LSN}
	if u.p.Slot == "" {
		u.p.Slot, u.p.OwnSlot = id, true
	}
	if u.p.Publication == "" {
		u.p.Publication, u.p.OwnPublication = id, true
	}
	now, err := u.identify(ctx)
	if err != nil {
		return u.p, err
	}
	if err := u.supersede(ctx, now); err != nil {
		return u.p, err
	}
	// What is made is written down first: it is found again whoever dies.
	if u.p != u.was {
		if err := u.feed.Deliver(ctx, u.p.encode()); err != nil {
			return u.p, err
		}
	}
	fresh, err := u.publication(ctx)
	if err != nil {
		return u.p, err
	}
	if err := u.slot(ctx, fresh); err != nil {
		return u.p, err
	}
	if u.p != u.was {
		err = u.feed.Deliver(ctx, u.p.encode())
	}
	return u.p, err
}

// identify checks that the database can do this, notes which one it is, and
// returns how far its log has got.
func (u *setup) identify(ctx context.Context) (pglogrepl.LSN, error) {
	rows, err := query(ctx, u.conn, "SHOW wal_level")
	if err != nil {
		return 0, err
	}
	if len(rows) != 1 || rows[0][0] != "logical" {
		return 0, refused("postgres-wal-level", "ALTER SYSTEM SET wal_level = logical, and restart PostgreSQL", "PostgreSQL does not write down changes of rows: its wal_level is %s", rows[0][0])
	}
	system, err := pglogrepl.IdentifySystem(ctx, u.conn)
	u.p.System = system.SystemID
	return system.XLogPos, err
}

// refused is an error that needs people.
func refused(code, hint, format string, args ...any) error {
	e := orchestrator.Errorf(orchestrator.ErrInvalid, code, format, args...).WithHint("%s", hint)
	e.Detail += ": " + hint // the detail is what is shown of it
	return e
}

// supersede clears away what earlier settings had, and notices a database that is
// not the one that it was. The position then begins anew.
func (u *setup) supersede(ctx context.Context, now pglogrepl.LSN) error {
	if u.was.Slot == "" {
		return nil
	}
	if u.was.Place.Database != u.p.Place.Database || u.was.System != u.p.System && !u.was.Place.same(u.p.Place) {
		// Another host alone may be another name of the same; this is another database.
		u.source.leave(ctx, u.feed, u.was)
		u.was, u.p.LSN = position{}, 0
		return nil
	}
	anew := u.was.Slot != u.p.Slot || u.was.Publication != u.p.Publication
	switch {
	case u.was.System != u.p.System:
		u.lost("the database %s is not the one that it was", u.p.Place.address())
		anew = true
	case u.was.LSN > now:
		// Its places would be skipped until the log gets there again.
		u.lost("the database %s was set back to before %s", u.p.Place.address(), u.was.LSN)
		u.p.LSN = 0
	}
	if !anew {
		return nil
	}
	u.p.LSN = 0
	if u.was.OwnSlot {
		// A slot cannot be read with a publication that is younger.
		if err := dropSlot(ctx, u.conn, u.was.Slot); err != nil {
			return err
		}
	}
	if u.was.OwnPublication && u.was.Publication != u.p.Publication {
		_, err := query(ctx, u.conn, "DROP PUBLICATION IF EXISTS "+identifier(u.was.Publication))
		return err
	}
	return nil
}

// lost tells that changes may never be told.
func (u *setup) lost(format string, args ...any) {
	why := fmt.Sprintf(format, args...)
	event := orchestrator.CloudEvent{ID: "lost-" + u.was.LSN.String(), Type: typePrefix + "lost"}
	u.feed.Drop(event, orchestrator.Errorf(orchestrator.ErrNotFound, "postgres-changes-lost", "%s: changes after %s may be lost", why, u.was.LSN))
}

// slot sees to the slot; fresh says that the publication was made just now.
func (u *setup) slot(ctx context.Context, fresh bool) error {
	rows, err := query(ctx, u.conn, "SELECT plugin, coalesce(wal_status, ''), database = current_database(), coalesce(confirmed_flush_lsn, '0/0') FROM pg_replication_slots WHERE slot_name = "+literal(u.p.Slot))
	if err != nil {
		return err
	}
	if !u.p.OwnSlot {
		switch {
		case len(rows) == 0:
			return refused("postgres-slot-unknown", fmt.Sprintf("SELECT pg_create_logical_replication_slot('%s', 'pgoutput'), or leave slot out", u.p.Slot), "there is no replication slot %s", u.p.Slot)
		case rows[0][0] != plugin || rows[0][2] != "t":
			return refused("postgres-slot-unfit", "leave slot out, and Kiln makes one", "the replication slot %s is none of pgoutput in this database", u.p.Slot)
		}
		if !fresh {
			return u.confirmed(rows[0][3])
		}
		// What happened before the publication was made cannot be read with it.
		rows, err = query(ctx, u.conn, "SELECT end_lsn FROM pg_replication_slot_advance("+literal(u.p.Slot)+", pg_current_wal_lsn())")
		if err != nil {
			return err
		}
		return u.confirmed(rows[0][0])
	}
	if len(rows) > 0 {
		stale := rows[0][1] == "lost"
		if !stale && !fresh {
			return u.confirmed(rows[0][3])
		}
		if stale {
			u.lost("PostgreSQL has thrown away what the replication slot %s held back", u.p.Slot)
		} else if u.was.LSN > 0 {
			u.lost("the publication %s was removed", u.p.Publication)
		}
		if err := dropSlot(ctx, u.conn, u.p.Slot); err != nil {
			return err
		}
	} else if u.p.LSN > 0 {
		u.lost("the replication slot %s was removed", u.p.Slot)
	}
	made, err := pglogrepl.CreateReplicationSlot(ctx, u.conn, u.p.Slot, plugin, pglogrepl.CreateReplicationSlotOptions{
		Mode: pglogrepl.LogicalReplication, SnapshotAction: "NOEXPORT_SNAPSHOT",
	})
	if err != nil {
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return refused("postgres-slot-waits", "end what pg_stat_activity shows to be idle in transaction", "a transaction is open that keeps the replication slot from being made")
		}
		return err
	}
	u.p.LSN, err = pglogrepl.ParseLSN(made.ConsistentPoint)
	return err
}

// confirmed takes over what PostgreSQL knows to be delivered. It must not be told
// of less: some versions go back then.
func (u *setup) confirmed(lsn string) error {
	confirmed, err := pglogrepl.ParseLSN(lsn)
	u.p.LSN = max(u.p.LSN, confirmed)
	return err
}

// dropSlot drops a slot if it is there, once nobody reads it any more.
func dropSlot(ctx context.Context, conn *pgconn.PgConn, name string) error {
	rows, err := query(ctx, conn, "SELECT 1 FROM pg_replication_slots WHERE slot_name = "+literal(name))
	if err != nil || len(rows) == 0 {
		return err
	}
	err = pglogrepl.DropReplicationSlot(ctx, conn, name, pglogrepl.DropReplicationSlotOptions{Wait: true})
	if code(err) == codeUndefined {
		return nil
	}
	return err
}

// publication sees to the publication and says whether it was made just now.
func (u *setup) publication(ctx context.Context) (fresh bool, err error) {
	name := u.p.Publication
	rows, err := query(ctx, u.conn, "SELECT pubinsert, pubupdate, pubdelete, pubtruncate FROM pg_publication WHERE pubname = "+literal(name))
	if err != nil {
		return false, err
	}
	if !u.p.OwnPublication {
		if len(rows) == 0 {
			return false, refused("postgres-publication-unknown", "CREATE PUBLICATION "+identifier(name)+" FOR TABLE …, or name tables instead", "there is no publication %s", name)
		}
		return false, nil
	}
	if err := u.tables(ctx); err != nil {
		return false, err
	}
	var targets []string
	for _, t := range u.spec.tables {
		targets = append(targets, t.sql())
	}
	publish := "publish = " + literal(strings.Join(u.spec.operations, ", "))
	if len(rows) == 0 {
		_, err := query(ctx, u.conn, "CREATE PUBLICATION "+identifier(name)+" FOR TABLE "+strings.Join(targets, ", ")+" WITH ("+publish+", publish_via_partition_root = true)")
		return true, u.mayPublish(err)
	}
	var has []string
	for i, operation := range []string{opInsert, opUpdate, opDelete, opTruncate} {
		if rows[0][i] == "t" {
			has = append(has, operation)
		}
	}
	slices.Sort(has)
	if !slices.Equal(has, u.spec.operations) {
		if _, err := query(ctx, u.conn, "ALTER PUBLICATION "+identifier(name)+" SET ("+publish+")"); err != nil {
			return false, u.mayPublish(err)
		}
	}
	return false, u.mayPublish(u.retable(ctx, targets))
}

// retable makes the tables of Kiln's own publication those of the settings.
func (u *setup) retable(ctx context.Context, targets []string) error {
	rows, err := query(ctx, u.conn, "SELECT n.nspname, c.relname FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid"+
		" JOIN pg_class c ON c.oid = r.prrelid JOIN pg_namespace n ON n.oid = c.relnamespace WHERE p.pubname = "+literal(u.p.Publication))
	if err != nil {
		return err
	}
	same := len(rows) == len(u.spec.tables)
	for _, row := range rows {
		same = same && slices.Contains(u.spec.tables, table{row[0], row[1]})
	}
	if same {
		return nil
	}
	_, err = query(ctx, u.conn, "ALTER PUBLICATION "+identifier(u.p.Publication)+" SET TABLE "+strings.Join(targets, ", "))
	return err
}

// mayPublish explains that Kiln may not make a publication.
func (u *setup) mayPublish(err error) error {
	if code(err) != codeDenied {
		return err
	}
	return refused("postgres-publication-denied",
		fmt.Sprintf("have it made, CREATE PUBLICATION name FOR TABLE %s, and write publication: name; or make %s the owner and GRANT CREATE ON DATABASE to it", u.spec.tables[0].sql(), identifier(u.p.Place.User)),
		"%s may not publish the tables: %s", u.p.Place.User, postgresMessage(err))
}

func postgresMessage(err error) string {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		return e.Message
	}
	return err.Error()
}

// tables checks that the tables are there and can be published. PostgreSQL
// refuses UPDATE and DELETE of a published table without a key from then on, to
// everybody: that is not for a trigger to bring about.
func (u *setup) tables(ctx context.Context) error {
	rows, err := query(ctx, u.conn, "SELECT n.nspname, c.relname, c.relreplident = 'f' OR c.relreplident = 'i' OR c.relreplident = 'd' AND EXISTS"+
		" (SELECT 1 FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary AND i.indisvalid)"+
		" FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'p') AND (n.nspname, c.relname) IN ("+u.names()+")")
	if err != nil {
		return err
	}
	keyed := map[table]string{}
	for _, row := range rows {
		keyed[table{row[0], row[1]}] = row[2]
	}
	changes := slices.Contains(u.spec.operations, opUpdate) || slices.Contains(u.spec.operations, opDelete)
	for _, t := range u.spec.tables {
		switch {
		case keyed[t] == "":
			return refused("postgres-table-unknown", "correct the setting tables; names are as PostgreSQL keeps them, usually in lower case", "there is no table %s in %s", t, u.p.Place.address())
		case keyed[t] != "t" && changes:
			return refused("postgres-table-unkeyed",
				"give it a primary key, or ALTER TABLE "+t.sql()+" REPLICA IDENTITY FULL, or write operations: [insert, truncate]",
				"the table %s has no key, and PostgreSQL would refuse every UPDATE and DELETE of it", t)
		}
	}
	return nil
}

func (u *setup) names() string {
	var all []string
	for _, t := range u.spec.tables {
		all = append(all, "("+literal(t.schema)+", "+literal(t.name)+")")
	}
	return strings.Join(all, ", ")
}

// begin starts the stream. The connection that had the slot before may not have
// ended on PostgreSQL's side yet.
func begin(ctx context.Context, conn *pgconn.PgConn, p position) error {
	options := pglogrepl.StartReplicationOptions{
		Mode: pglogrepl.LogicalReplication, PluginArgs: []string{"proto_version '1'", "publication_names " + literal(identifier(p.Publication))},
	}
	for deadline := time.Now().Add(releaseTimeout); ; {
		asked, cancel := context.WithTimeout(ctx, askTimeout)
		err := pglogrepl.StartReplication(asked, conn, p.Slot, p.LSN, options)
		cancel()
		if code(err) != codeInUse || time.Now().After(deadline) {
			return err
		}
		if err := settle(ctx, conn); err != nil {
			return err
		}
		pause := time.NewTimer(releasePause)
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return context.Cause(ctx)
		}
	}
}

// settle reads what follows an error, up to where the next statement may come.
func settle(ctx context.Context, conn *pgconn.PgConn) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	for {
		message, err := conn.ReceiveMessage(ctx)
		if err != nil {
			return err
		}
		if _, ready := message.(*pgproto3.ReadyForQuery); ready {
			return nil
		}
	}
}
