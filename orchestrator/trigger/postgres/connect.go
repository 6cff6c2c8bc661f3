package postgres

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/kilnfaas/kiln/orchestrator"
)

const (
	// dialTimeout bounds one connection, with its name look-up, TLS and login.
	dialTimeout = 10 * time.Second
	// closeTimeout bounds the goodbye to PostgreSQL.
	closeTimeout = time.Second
	// maxMessage bounds a row as PostgreSQL sends it, in bytes, so that one cannot
	// take the gateway's memory.
	maxMessage = 64 << 20
	// minVersion is the oldest PostgreSQL that is good for this: 13 publishes
	// partitioned tables as one.
	minVersion = 13
)

// dialer makes connections that notice within a minute when PostgreSQL's machine
// went without a word.
var dialer = net.Dialer{KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 30 * time.Second, Interval: 10 * time.Second, Count: 3}}

// password looks the password up.
func (source Source) password(ctx context.Context, function string, p place) (string, error) {
	if p.Secret == "" {
		return "", nil
	}
	if source.Secret == nil {
		return "", orchestrator.Errorf(orchestrator.ErrUnavailable, "secrets-unavailable", "this gateway keeps no secrets")
	}
	value, err := source.Secret(ctx, function, p.Secret)
	return strings.TrimRight(string(value), "\r\n"), err
}

// connect opens a connection: one that streams if replication is "database", an
// ordinary one if it is "".
func (source Source) connect(ctx context.Context, function string, p place, replication string) (*pgconn.PgConn, error) {
	password, err := source.password(ctx, function, p)
	if err != nil {
		return nil, err
	}
	// The environment and the files of whoever runs the gateway (PGPASSWORD,
	// ~/.pgpass, service files) are not the triggers' affair: nothing is left
	// unsaid that could be read there.
	config, err := pgconn.ParseConfig("postgres://127.0.0.1:1/x?user=x&password=x&sslmode=disable&target_session_attrs=any")
	if err != nil {
		return nil, orchestrator.Errorf(orchestrator.ErrUnavailable, "postgres-environment", "the gateway's environment has a variable for PostgreSQL clients that cannot be read")
	}
	config.Host, config.Port, config.Database, config.User, config.Password = p.Host, uint16(p.Port), p.Database, p.User, password
	config.TLSConfig, config.Fallbacks = encryption(p)
	config.ConnectTimeout = dialTimeout
	config.DialFunc = dialer.DialContext
	config.MaxProtocolMessageBodyLen = maxMessage
	config.SSLNegotiation, config.SSLCertMode = "", ""
	config.RuntimeParams = map[string]string{
		"application_name": "kiln " + function, "client_encoding": "UTF8", "standard_conforming_strings": "on",
		// How values are written: see appendValue.
		"DateStyle": "ISO", "IntervalStyle": "iso_8601", "TimeZone": "UTC", "bytea_output": "hex", "extra_float_digits": "1",
		// How soon PostgreSQL takes a gateway for dead; it hears of one every
		// statusEvery. Setting it here keeps other defaults from being shorter.
		"wal_sender_timeout": fmt.Sprint(senderTimeout.Milliseconds()),
	}
	if replication != "" {
		config.RuntimeParams["replication"] = replication
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	conn, err := pgconn.ConnectConfig(ctx, config)
	if err != nil {
		return nil, explain(err, p)
	}
	var major int
	if fmt.Sscanf(conn.ParameterStatus("server_version"), "%d", &major); major < minVersion {
		hangUp(conn)
		return nil, orchestrator.Errorf(orchestrator.ErrInvalid, "postgres-too-old", "PostgreSQL at %s is older than version %d", p.address(), minVersion)
	}
	return conn, nil
}

// encryption returns how to encrypt, and what to try when that fails.
func encryption(p place) (*tls.Config, []*pgconn.FallbackConfig) {
	config := &tls.Config{ServerName: p.Host, MinVersion: tls.VersionTLS12}
	switch p.SSLMode {
	case "disable":
		return nil, nil
	case "verify-full":
		return config, nil
	}
	// "require" and "prefer" keep listeners out and do not know whom they talk to,
	// as everywhere with PostgreSQL.
	config.InsecureSkipVerify = true
	if p.SSLMode == "require" {
		return config, nil
	}
	return config, []*pgconn.FallbackConfig{{Host: p.Host, Port: uint16(p.Port)}}
}

// hangUp ends a connection.
func hangUp(conn *pgconn.PgConn) {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	conn.Close(ctx) // what is not said to PostgreSQL it notices
}

// query runs one statement without parameters and returns its rows as text: a
// connection that streams knows no other way.
func query(ctx context.Context, conn *pgconn.PgConn, sql string) ([][]string, error) {
	results, err := conn.Exec(ctx, sql).ReadAll()
	if err != nil {
		return nil, err
	}
	var rows [][]string
	for _, result := range results {
		for _, values := range result.Rows {
			row := make([]string, len(values))
			for i, value := range values {
				row[i] = string(value)
			}
			rows = append(rows, row)
		}
	}
	return rows, nil
}

// literal quotes a text for SQL, where standard_conforming_strings is on.
func literal(text string) string { return "'" + strings.ReplaceAll(text, "'", "''") + "'" }

// identifier quotes a name for SQL.
func identifier(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

func (t table) sql() string { return identifier(t.schema) + "." + identifier(t.name) }

// Codes of errors (PostgreSQL's manual, appendix A).
const (
	codeDenied        = "42501" // insufficient_privilege
	codeUndefined     = "42704" // undefined_object
	codeInUse         = "55006" // object_in_use
	codeLimit         = "53400" // configuration_limit_exceeded
	codeConnections   = "53300" // too_many_connections
	codeNoDatabase    = "3D000" // invalid_catalog_name
	codeWrongPassword = "28P01" // invalid_password
	codeNoLogin       = "28000" // invalid_authorization_specification
	codeShutdown      = "57P01" // admin_shutdown
	codeStarting      = "57P03" // cannot_connect_now
)

// code returns the code of PostgreSQL's error; "" when it is none.
func code(err error) string {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		return e.Code
	}
	return ""
}

// explain makes an error of PostgreSQL's, or of the way there, one that says what
// to do. What is shown of it is PostgreSQL's message, not the client's, which
// tells of how it connected.
func explain(err error, p place) error {
	if _, ok := errors.AsType[*orchestrator.Error](err); ok || err == nil {
		return err
	}
	say := func(class error, code, hint, format string, args ...any) error {
		e := orchestrator.Errorf(class, code, format, args...).WithHint("%s", hint)
		// What people are shown is the detail; so it has the next step, too.
		e.Detail += ": " + hint
		return e
	}
	e, ok := errors.AsType[*pgconn.PgError](err)
	if !ok {
		return unreachable(err, p, say)
	}
	role := identifier(p.User)
	switch e.Code {
	case codeWrongPassword:
		return say(orchestrator.ErrDenied, "postgres-login-refused", "give the password's secret in secret: NAME, and see that it holds the right one",
			"PostgreSQL refuses the password of %s", p.User)
	case codeNoLogin:
		return say(orchestrator.ErrDenied, "postgres-login-refused", "see that the role exists, may LOGIN, and pg_hba.conf lets it in from this machine",
			"PostgreSQL does not let %s in: %s", p.User, e.Message)
	case codeNoDatabase:
		return say(orchestrator.ErrNotFound, "postgres-database-unknown", "correct the setting database", "%s", e.Message)
	case codeDenied:
		return say(orchestrator.ErrDenied, "postgres-denied", "ALTER ROLE "+role+" REPLICATION, if that is what it is about", "PostgreSQL does not allow it: %s", e.Message)
	case codeInUse:
		return say(orchestrator.ErrUnavailable, "postgres-slot-in-use", "one reader at a time can have it; if another gateway has it, stop that", "%s", e.Message)
	case codeUndefined:
		return say(orchestrator.ErrNotFound, "postgres-unknown", "a publication that is younger than the slot cannot be read with it: remove the trigger, and add it again", "PostgreSQL says: %s", e.Message)
	case codeLimit, codeConnections:
		return say(orchestrator.ErrExhausted, "postgres-exhausted", "raise max_replication_slots, max_wal_senders or max_connections, or remove what is not needed", "PostgreSQL is full: %s", e.Message)
	case codeShutdown, codeStarting:
		return orchestrator.Errorf(orchestrator.ErrUnavailable, "postgres-unavailable", "PostgreSQL at %s is not there: %s", p.address(), e.Message)
	}
	return orchestrator.Errorf(orchestrator.ErrUnavailable, "postgres-error", "PostgreSQL says: %s (%s)", e.Message, e.Code)
}

// unreachable explains an error of the way to PostgreSQL.
func unreachable(err error, p place, say func(class error, code, hint, format string, args ...any) error) error {
	if e, ok := errors.AsType[*pgproto3.ExceededMaxBodyLenErr](err); ok {
		return say(orchestrator.ErrTooLarge, "postgres-row-too-large",
			"publish the table without its large columns (CREATE PUBLICATION ... FOR TABLE name (columns)) and name that in publication",
			"a row of %s is over %s", orchestrator.Bytes(e.ActualBodyLen), orchestrator.Bytes(maxMessage))
	}
	if e, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return say(orchestrator.ErrDenied, "postgres-certificate", "start the gateway with SSL_CERT_FILE naming a file with that authority", "the certificate of %s cannot be trusted: %w", p.address(), e)
	}
	if e, ok := errors.AsType[x509.HostnameError](err); ok {
		return say(orchestrator.ErrDenied, "postgres-certificate", "use the name that is in the certificate", "the certificate of %s cannot be trusted: %w", p.address(), e)
	}
	cause := "it does not answer"
	if e, ok := errors.AsType[*net.OpError](err); ok && e.Err != nil {
		cause = e.Err.Error()
	} else if strings.Contains(err.Error(), "refused TLS") {
		cause = "it does not offer TLS, and sslmode wants it"
	} else if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		cause = "it hung up"
	}
	e := orchestrator.Errorf(orchestrator.ErrUnavailable, "postgres-unavailable", "PostgreSQL at %s is not there: %s", p.address(), cause)
	e.Cause = err
	return e
}
