package jetstream

import (
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"net"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/kilnfaas/kiln/orchestrator"
)

const (
	// eventsAccount is where events are on the embedded server: destinations publish
	// there, triggers listen there, and so do clients from outside. Kiln's own streams
	// are in the server's global account, which none of these can see. Renaming it
	// loses the streams that others made.
	eventsAccount = "events"
	// eventsUser is what a connection of this process calls itself to be there.
	eventsUser = "events"
	// pipeNetwork is the network of connections within this process (net.Pipe).
	pipeNetwork = "pipe"
	// maxClients bounds the connections to the embedded server, this process's own
	// among them.
	maxClients = 4096
	// DefaultEventsStore bounds the streams that others make, in bytes, so that they
	// leave room for Kiln's own.
	DefaultEventsStore = 1 << 30
)

// Clients opens the embedded server to others than this process. They get an
// account of their own, with JetStream, and never see Kiln's streams.
type Clients struct {
	Address        string // "127.0.0.1:4222"; port 0 = any that is free
	User, Password string
	TLS            *tls.Config // nil = connections are not encrypted
}

// apply writes the listener's settings into a server's.
func (c *Clients) apply(settings *server.Options) error {
	host, text, err := net.SplitHostPort(c.Address)
	if err != nil {
		return badAddress(c.Address)
	}
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return badAddress(c.Address)
	}
	settings.Host, settings.Port = host, int(port)
	if host == "" {
		settings.Host = server.DEFAULT_HOST
	}
	if port == 0 {
		settings.Port = server.RANDOM_PORT
	}
	if c.TLS != nil {
		settings.TLSConfig = c.TLS.Clone()
		settings.TLSConfig.NextProtos = nil // those are HTTP's
	}
	return nil
}

func badAddress(address string) error {
	return orchestrator.Errorf(orchestrator.ErrInvalid, "nats-listen-invalid", "%.80q is no address to listen on", address).
		WithHint("write HOST:PORT, for example 127.0.0.1:4222")
}

// gate lets connections into their accounts. It is a server.Authentication.
type gate struct {
	clients *Clients                       // nil = nobody else comes in
	events  atomic.Pointer[server.Account] // nil while the server starts
}

// Check implements server.Authentication. A pipe has this process at its other
// end, which needs no password; everybody else needs one.
func (g *gate) Check(c server.ClientAuthentication) bool {
	events, said, address := g.events.Load(), c.GetOpts(), c.RemoteAddress()
	switch {
	case c.Kind() != server.CLIENT || address == nil:
		return false
	case address.Network() == pipeNetwork:
		if said.Username != eventsUser {
			return true // into the global account, where connections begin
		}
	case g.clients == nil || !g.clients.admit(said):
		return false
	}
	if events == nil {
		return false
	}
	c.RegisterUser(&server.User{Username: said.Username, Account: events})
	return true
}

// admit compares in a time that tells nothing of what is right.
func (c *Clients) admit(said *server.ClientOpts) bool {
	user, password := same(said.Username, c.User), same(said.Password, c.Password)
	return user && password && c.Password != ""
}

func same(a, b string) bool {
	x, y := sha256.Sum256([]byte(a)), sha256.Sum256([]byte(b))
	return subtle.ConstantTimeCompare(x[:], y[:]) == 1
}

// openEvents makes the account of events on a server whose JetStream has started,
// and restores what it had.
func openEvents(srv *server.Server, g *gate, options Options) error {
	store := options.EventsStore
	if store == 0 {
		store = DefaultEventsStore
	}
	account, _ := srv.LookupOrRegisterAccount(eventsAccount)
	err := account.EnableJetStream(map[string]server.JetStreamAccountLimits{"": {
		MaxMemory: maxMemory, MaxStore: store,
		MaxStreams: -1, MaxConsumers: -1, MaxAckPending: -1, MemoryMaxStreamBytes: -1, StoreMaxStreamBytes: -1,
	}}, nil)
	if err != nil {
		return orchestrator.Errorf(orchestrator.ErrUnavailable, "store-unavailable", "open the account of events: %w", err)
	}
	g.events.Store(account)
	return nil
}

// listen lets clients in, once what they use is restored.
func listen(srv *server.Server, log *serverLog, clients *Clients) error {
	srv.AcceptLoop(make(chan struct{})) // returns once it listens, or after a fatal message
	if reason := log.fatal(); reason != "" {
		return orchestrator.Errorf(orchestrator.ErrUnavailable, "nats-listen-failed", "%s", reason).
			WithHint("is the address %s this machine's, and free?", clients.Address)
	}
	return nil
}

// ClientsAddress returns where others than this process reach the embedded server;
// "" when they do not.
func (s *Server) ClientsAddress() string {
	if s.embedded == nil {
		return ""
	}
	if address := s.embedded.Addr(); address != nil {
		return address.String()
	}
	return ""
}

// Dial opens a connection to where Publish sends, for those who listen there: the
// account of events on the embedded server, or that of Kiln on an external one. The
// caller closes it.
func (s *Server) Dial(options ...nats.Option) (*nats.Conn, error) {
	if s.embedded != nil {
		options = append(options, nats.InProcessServer(s.embedded), nats.UserInfo(eventsUser, ""))
	}
	return nats.Connect(s.url, options...)
}

// Private says whether a subject that Dial leads to is Kiln's own, or the server's,
// and not for functions: an external server has Kiln's streams in the same account.
func (s *Server) Private(subject string) bool {
	return s.embedded == nil && (strings.HasPrefix(subject, "$") || strings.HasPrefix(subject, "kiln."))
}
