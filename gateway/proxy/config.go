package proxy

import (
	"log/slog"
	"time"
)

// Defaults of a Config.
const (
	// DefaultMaxClients bounds the connections of clients, handed over ones
	// included. Each costs a descriptor, and about 1 KiB while idle.
	DefaultMaxClients = 16 << 10
	// DefaultHeadTimeout is how long a request's head may take. A client that is
	// slower is not one that waits for an answer.
	DefaultHeadTimeout = 10 * time.Second
	// DefaultIdleTimeout is how long a kept connection may be unused: longer than
	// the 60 s after which common clients and balancers give theirs up.
	DefaultIdleTimeout = 2 * time.Minute
)

// lingerTimeout is how long the rest of what a client sends is thrown away after
// its last answer. A connection that is closed with something unread is reset,
// and a reset may destroy the answer on its way.
const lingerTimeout = time.Second

// Config sets a Listener up.
type Config struct {
	Handler    *Handler     // whose routes, errors and counters are shared
	Logger     *slog.Logger // nil = discard
	Loops      int          // event loops; 0 = one for two processors
	MaxClients int          // connections of clients at most; 0 = DefaultMaxClients
	// HeadTimeout is how long a request's head may take, IdleTimeout how long a
	// kept connection may be unused; 0 = the defaults.
	HeadTimeout, IdleTimeout time.Duration
}
