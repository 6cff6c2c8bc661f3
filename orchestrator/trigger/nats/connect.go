package nats

import (
	"context"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"time"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"

	"github.com/kilnfaas/kiln/orchestrator"
)

const (
	// dialTimeout bounds one connection, with TLS and login; a list of servers is
	// tried one after the other.
	dialTimeout = 5 * time.Second
	// pingEvery and pingsOut bound how long a server may be silent: half a minute.
	pingEvery = 10 * time.Second
	pingsOut  = 2
	// askTimeout bounds one question.
	askTimeout = 10 * time.Second
	// drainTimeout is how long what has come may take to be put on disk when a trigger
	// ends, flushTimeout how long the server to answer then. Both fit into StopTimeout.
	drainTimeout = 3 * time.Second
	flushTimeout = time.Second
)

// dialer ends connections that are being made when ctx ends.
type dialer struct {
	ctx context.Context

	mu   sync.Mutex
	keep []func() bool // guarded by mu: each lets a connection live
}

// Dial implements natsgo.CustomDialer.
func (d *dialer) Dial(network, address string) (net.Conn, error) {
	direct := net.Dialer{Timeout: dialTimeout}
	conn, err := direct.DialContext(d.ctx, network, address)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.keep = append(d.keep, context.AfterFunc(d.ctx, func() { conn.Close() }))
	return conn, nil
}

// made lets the connection live.
func (d *dialer) made() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, keep := range d.keep {
		keep()
	}
}

// connect opens a connection, which is not made again when it is lost. How it ends,
// and what the server does not allow, lost is told.
func (source Source) connect(ctx context.Context, function string, p place, lost func(error)) (*natsgo.Conn, error) {
	d := &dialer{ctx: ctx}
	options := []natsgo.Option{
		natsgo.Name("kiln " + function), natsgo.Timeout(dialTimeout), natsgo.NoReconnect(), natsgo.SetCustomDialer(d),
		natsgo.PingInterval(pingEvery), natsgo.MaxPingsOutstanding(pingsOut), natsgo.DrainTimeout(drainTimeout),
		natsgo.ClosedHandler(func(c *natsgo.Conn) {
			err := c.LastError()
			if err == nil {
				err = errHungUp
			}
			lost(explain(context.Background(), err, p))
		}),
		natsgo.ErrorHandler(func(_ *natsgo.Conn, _ *natsgo.Subscription, err error) {
			if errors.Is(err, natsgo.ErrPermissionViolation) {
				lost(explain(context.Background(), err, p))
			}
		}),
	}
	dial := source.Home
	if p.URL != "" {
		login, err := source.credentials(ctx, function, p)
		if err != nil {
			return nil, err
		}
		options = append(options, login...)
		dial = func(options ...natsgo.Option) (*natsgo.Conn, error) { return natsgo.Connect(p.URL, options...) }
	}
	if dial == nil {
		return nil, orchestrator.Errorf(orchestrator.ErrUnavailable, "nats-missing", "this gateway has no NATS of its own: give a url")
	}
	conn, err := dial(options...)
	if err != nil {
		return nil, explain(ctx, err, p)
	}
	d.made()
	return conn, nil
}

// credentials reads the secret: the content of a .creds file, the seed of an nkey,
// USER:PASSWORD, or a token.
func (source Source) credentials(ctx context.Context, function string, p place) ([]natsgo.Option, error) {
	if p.Secret == "" {
		return nil, nil
	}
	if source.Secret == nil {
		return nil, orchestrator.Errorf(orchestrator.ErrUnavailable, "secrets-unavailable", "this gateway keeps no secrets")
	}
	value, err := source.Secret(ctx, function, p.Secret)
	if err != nil {
		return nil, err
	}
	text := strings.TrimSpace(string(value))
	if strings.Contains(text, "-----BEGIN NATS USER JWT-----") {
		return []natsgo.Option{natsgo.UserCredentialBytes([]byte(text))}, nil
	}
	if key, err := nkeys.FromSeed([]byte(text)); err == nil {
		public, err := key.PublicKey()
		if err != nil || !nkeys.IsValidPublicUserKey(public) {
			return nil, refused("nats-secret-invalid", "store the seed of a user, which begins with SU", "the secret %s is the seed of an nkey that is no user's", p.Secret)
		}
		return []natsgo.Option{natsgo.Nkey(public, key.Sign)}, nil
	}
	if user, password, ok := strings.Cut(text, ":"); ok {
		return []natsgo.Option{natsgo.UserInfo(user, password)}, nil
	}
	return []natsgo.Option{natsgo.Token(text)}, nil
}

// refused is an error that needs people.
func refused(code, hint, format string, args ...any) error {
	return say(orchestrator.ErrInvalid, code, hint, format, args...)
}

// say is an error whose detail, which is what people are shown of it, has the next
// step, too.
func say(class error, code, hint, format string, args ...any) error {
	e := orchestrator.Errorf(class, code, format, args...).WithHint("%s", hint)
	e.Detail += ": " + hint
	return e
}

var errHungUp = errors.New("it hung up")

// explain makes an error of the server's, or of the way there, one that says what
// to do. ctx is that of the question.
func explain(ctx context.Context, err error, p place) error {
	if _, ok := errors.AsType[*orchestrator.Error](err); ok || err == nil {
		return err
	}
	if e, ok := errors.AsType[*orchestrator.Error](context.Cause(ctx)); ok {
		return e // the connection ended meanwhile, and this is why
	}
	if e, ok := errors.AsType[*jetstream.APIError](err); ok {
		switch e.ErrorCode {
		case jetstream.JSErrCodeJetStreamNotEnabled, jetstream.JSErrCodeJetStreamNotEnabledForAccount:
			return noJetStream(p)
		}
		return orchestrator.Errorf(orchestrator.ErrUnavailable, "nats-error", "%s says: %s (%d)", p, e.Description, e.ErrorCode)
	}
	for _, denied := range []error{natsgo.ErrAuthorization, natsgo.ErrAuthExpired, natsgo.ErrAuthRevoked, natsgo.ErrAccountAuthExpired} {
		if errors.Is(err, denied) {
			return say(orchestrator.ErrDenied, "nats-login-refused", "see that the secret that is named in secret holds what the server wants: USER:PASSWORD, a token, an nkey's seed or a .creds file",
				"%s does not let Kiln in (%s)", p, strings.TrimPrefix(denied.Error(), "nats: "))
		}
	}
	if errors.Is(err, natsgo.ErrNoResponders) {
		return noJetStream(p)
	}
	if errors.Is(err, natsgo.ErrPermissionViolation) {
		return say(orchestrator.ErrDenied, "nats-denied", "give the user of the secret these rights", "%s does not allow it (%s)", p, strings.TrimPrefix(err.Error(), "nats: "))
	}
	if errors.Is(err, natsgo.ErrSecureConnWanted) {
		return say(orchestrator.ErrInvalid, "nats-tls-missing", "write nats:// in place of tls:// if nobody can listen on the way", "%s does not offer TLS", p)
	}
	if e, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return say(orchestrator.ErrDenied, "nats-certificate", "start the gateway with SSL_CERT_FILE naming a file with that authority", "the certificate of %s cannot be trusted: %w", p, e)
	}
	if e, ok := errors.AsType[x509.HostnameError](err); ok {
		return say(orchestrator.ErrDenied, "nats-certificate", "use the name that is in the certificate", "the certificate of %s cannot be trusted: %w", p, e)
	}
	return unreachable(err, p)
}

// unreachable explains an error of the way to the server.
func unreachable(err error, p place) error {
	cause := strings.TrimPrefix(err.Error(), "nats: ")
	if e, ok := errors.AsType[*net.OpError](err); ok && e.Err != nil {
		cause = e.Err.Error()
	} else if errors.Is(err, io.EOF) {
		cause = errHungUp.Error()
	} else if errors.Is(err, natsgo.ErrNoServers) {
		cause = "nobody listens there"
	} else if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, natsgo.ErrTimeout) {
		cause = "it does not answer"
	}
	e := orchestrator.Errorf(orchestrator.ErrUnavailable, "nats-unavailable", "%s is not there: %s", p, cause)
	e.Cause = err
	return e
}

func noJetStream(p place) error {
	return refused("nats-jetstream-missing", "enable JetStream for the account, or leave stream out", "%s has no JetStream for this user", p)
}
