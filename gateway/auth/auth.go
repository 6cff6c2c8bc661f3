// Package auth says who calls, and whether they may.
//
// A Guard keeps every token in memory and writes changes through to its store.
// Checking one takes no lock and no store call: a hash, a comparison in constant
// time, and, once a minute for each token, a note of when it was last used,
// which is written back later.
package auth

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/kilnfaas/kiln/orchestrator"
)

const (
	// useGrain is how exactly a token's last use is known.
	useGrain = time.Minute
	// flushInterval is how often last uses are written back.
	flushInterval = time.Minute
	// storeTimeout bounds writing one of them.
	storeTimeout = 10 * time.Second
	// maxTokens bounds what is kept in memory: machines and people of one
	// installation, by far.
	maxTokens = 10_000
)

// Config sets a Guard up.
type Config struct {
	Store  orchestrator.TokenStore
	Logger *slog.Logger // nil = discard
	// Insecure lets everybody do everything.
	Insecure bool
}

// Guard checks and keeps tokens. All methods are safe for concurrent use.
type Guard struct {
	config Config
	tokens atomic.Pointer[map[string]*holder] // by id; copied on write

	limits atomic.Pointer[map[string]limit] // of functions, by name; copied on write

	mu sync.Mutex // guards changes of tokens and limits

	cancel context.CancelFunc
	done   chan struct{}
}

// holder is a token in use.
type holder struct {
	token   orchestrator.Token // immutable; its Version and LastUsed are as they were read
	hash    [sha256.Size]byte
	limit   *rate.Limiter // nil = none
	used    atomic.Int64  // last use, Unix seconds
	written int64         // last use as it is stored; flush's
	version atomic.Uint64 // stored; 0 until the token is
}

func hold(t orchestrator.Token) *holder {
	h := &holder{token: t}
	copy(h.hash[:], t.Hash)
	h.version.Store(t.Version)
	if t.Rate.Limited() {
		h.limit = rate.NewLimiter(rate.Limit(t.Rate.PerSecond), t.Rate.AtOnce())
	}
	if !t.LastUsed.IsZero() {
		h.written = t.LastUsed.Unix()
		h.used.Store(h.written)
	}
	return h
}

// Open loads the tokens and starts writing last uses back; Close ends that.
func Open(ctx context.Context, config Config) (*Guard, error) {
	if config.Logger == nil {
		config.Logger = slog.New(slog.DiscardHandler)
	}
	g := &Guard{config: config, done: make(chan struct{})}
	all, err := config.Store.Tokens(ctx)
	if err != nil {
		return nil, err
	}
	tokens := make(map[string]*holder, len(all))
	for _, t := range all {
		tokens[t.ID] = hold(t)
	}
	g.tokens.Store(&tokens)
	g.limits.Store(&map[string]limit{})
	ctx, g.cancel = context.WithCancel(context.WithoutCancel(ctx))
	go g.flushing(ctx)
	return g, nil
}

// Close writes last uses back and ends. It may be called more than once.
func (g *Guard) Close() error {
	g.cancel()
	<-g.done
	return nil
}

// Caller is who sent a request. The zero Caller may nothing.
type Caller struct{ token *orchestrator.Token }

// anybody is the caller where nobody is asked who they are.
var anybody = Caller{&orchestrator.Token{ID: "anybody", Name: "anybody", Scopes: []orchestrator.Scope{orchestrator.ScopeAdmin}}}

// ID identifies the caller's token; empty for somebody unknown.
func (c Caller) ID() string {
	if c.token == nil {
		return ""
	}
	return c.token.ID
}

// Name is that of the caller's token; empty for somebody unknown.
func (c Caller) Name() string {
	if c.token == nil {
		return ""
	}
	return c.token.Name
}

// May returns nil when the caller may do what needs a scope; ErrDenied.
func (c Caller) May(scope orchestrator.Scope) error {
	switch {
	case c.token == nil:
		return errMissing
	case c.token.Can(scope):
		return nil
	}
	return orchestrator.Errorf(orchestrator.ErrDenied, "scope-missing", "the token %s has not the scope %s", c.token.Name, scope).
		WithHint("use a token that has it; kiln token create makes one")
}

// For returns nil when the caller has to do with a function; ErrDenied.
func (c Caller) For(function string) error {
	switch {
	case c.token == nil:
		return errMissing
	case c.token.For(function):
		return nil
	}
	return orchestrator.Errorf(orchestrator.ErrDenied, "function-denied", "the token %s is not for this function", c.token.Name).
		WithHint("it is for %s", strings.Join(c.token.Functions, ", "))
}

// Bound says whether the caller has to do with some functions only.
func (c Caller) Bound() bool { return c.token == nil || len(c.token.Functions) > 0 }

var (
	errMissing = orchestrator.Errorf(orchestrator.ErrDenied, orchestrator.CodeTokenMissing, "a token is needed").
			WithHint("send it as Authorization: Bearer TOKEN; with the CLI: kiln login, --token or KILN_TOKEN")
	errInvalid = orchestrator.Errorf(orchestrator.ErrDenied, orchestrator.CodeTokenInvalid, "the token is not valid").
			WithHint("it may have been removed; kiln token create makes another, kiln login stores it")
	errExpired = orchestrator.Errorf(orchestrator.ErrDenied, orchestrator.CodeTokenExpired, "the token has expired").
			WithHint("kiln token create makes another, kiln login stores it")
)

// Identify returns who sent a request with an Authorization header, and takes
// one from what they may send. The error is ErrDenied for somebody unknown,
// ErrExhausted for somebody too fast.
func (g *Guard) Identify(authorization string) (Caller, error) {
	if g.config.Insecure {
		return anybody, nil
	}
	h, err := g.find(authorization)
	if err != nil {
		return Caller{}, err
	}
	if err := take(h.limit, "token-rate", "the token is used too often"); err != nil {
		return Caller{}, err
	}
	return Caller{&h.token}, nil
}

// find returns the holder of a valid token.
func (g *Guard) find(authorization string) (*holder, error) {
	if authorization == "" {
		return nil, errMissing
	}
	id, secret, ok := parse(authorization)
	if !ok {
		return nil, errInvalid
	}
	h := (*g.tokens.Load())[id]
	if h == nil {
		return nil, errInvalid
	}
	shown := hash(secret)
	if subtle.ConstantTimeCompare(shown[:], h.hash[:]) != 1 {
		return nil, errInvalid
	}
	now := time.Now()
	if h.token.Expired(now) {
		return nil, errExpired
	}
	if second, used := now.Unix(), h.used.Load(); second-used >= int64(useGrain/time.Second) {
		h.used.Store(second)
	}
	return h, nil
}

// Create makes a token with the name, scopes, functions, rate and expiry of t.
// What it returns as secret is shown to the client and kept nowhere. Errors:
// ErrInvalid, ErrConflict for a name that is taken, the store's.
func (g *Guard) Create(ctx context.Context, t orchestrator.Token) (_ orchestrator.Token, secret string, err error) {
	if err := t.Validate(); err != nil {
		return orchestrator.Token{}, "", err
	}
	if t.Expired(time.Now()) {
		return orchestrator.Token{}, "", orchestrator.Errorf(orchestrator.ErrInvalid, "token-settings-invalid", "the token would have expired already")
	}
	id, random := mint()
	sum := hash(random)
	t.ID, t.Hash, t.CreatedAt, t.LastUsed, t.Version = id, sum[:], time.Now().UTC(), time.Time{}, 0
	h := hold(t)
	if err := g.reserve(h); err != nil {
		return orchestrator.Token{}, "", err
	}
	stored, err := g.config.Store.PutToken(ctx, t)
	if err != nil {
		g.drop(id)
		return orchestrator.Token{}, "", err
	}
	h.version.Store(stored.Version)
	return stored, write(id, random), nil
}

// reserve enters a token that is not stored yet: nobody knows its secret, so
// that all it does is to take the name.
func (g *Guard) reserve(h *holder) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	tokens := maps.Clone(*g.tokens.Load())
	if len(tokens) >= maxTokens {
		return orchestrator.Errorf(orchestrator.ErrExhausted, "tokens-too-many", "there are %d tokens, and no more are kept", maxTokens).
			WithHint("kiln token rm removes those that are not used any more")
	}
	for _, other := range tokens {
		if other.token.Name == h.token.Name {
			return orchestrator.Errorf(orchestrator.ErrConflict, "token-exists", "there is a token %q", h.token.Name).
				WithHint("choose another name, or remove it: kiln token rm %s", h.token.Name)
		}
	}
	tokens[h.token.ID] = h
	g.tokens.Store(&tokens)
	return nil
}

func (g *Guard) drop(id string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	tokens := maps.Clone(*g.tokens.Load())
	delete(tokens, id)
	g.tokens.Store(&tokens)
}

// Tokens returns all tokens, by name.
func (g *Guard) Tokens() []orchestrator.Token {
	var all []orchestrator.Token
	for _, h := range *g.tokens.Load() {
		t := h.token
		if used := h.used.Load(); used != 0 {
			t.LastUsed = time.Unix(used, 0).UTC()
		}
		all = append(all, t)
	}
	slices.SortFunc(all, func(a, b orchestrator.Token) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// Remove removes the token of a name. When it returns the token is refused, and
// will be for ever. The last token of an administrator that has not expired
// stays: without it nobody could make another.
func (g *Guard) Remove(ctx context.Context, name string) (orchestrator.Token, error) {
	h, err := g.revoke(name)
	if err != nil {
		return orchestrator.Token{}, err
	}
	if err := g.config.Store.DeleteToken(ctx, h.token.ID); err != nil {
		g.enter(h)
		return orchestrator.Token{}, err
	}
	return h.token, nil
}

// revoke takes a token out of use.
func (g *Guard) revoke(name string) (found *holder, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	tokens := maps.Clone(*g.tokens.Load())
	administrators := 0
	for _, h := range tokens {
		if h.token.Name == name {
			found = h
		} else if h.administers() {
			administrators++
		}
	}
	if found == nil {
		return nil, orchestrator.Errorf(orchestrator.ErrNotFound, "token-not-found", "there is no token %.80q", name).
			WithHint("kiln token ls lists those there are")
	}
	if administrators == 0 && found.administers() {
		return nil, orchestrator.Errorf(orchestrator.ErrConflict, "token-last", "%s is the last token with the scope admin", name).
			WithHint("make another before: kiln token create NAME --scope admin")
	}
	delete(tokens, found.token.ID)
	g.tokens.Store(&tokens)
	return found, nil
}

// enter takes a token into use again.
func (g *Guard) enter(h *holder) {
	g.mu.Lock()
	defer g.mu.Unlock()
	tokens := maps.Clone(*g.tokens.Load())
	tokens[h.token.ID] = h
	g.tokens.Store(&tokens)
}

func (h *holder) administers() bool {
	return h.token.Can(orchestrator.ScopeAdmin) && !h.token.Expired(time.Now())
}

// flushing writes last uses back until ctx ends, and then once more.
func (g *Guard) flushing(ctx context.Context) {
	defer close(g.done)
	ticker := time.NewTicker(flushInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			g.flush()
		case <-ctx.Done():
			g.flush()
			return
		}
	}
}

// flush writes last uses back. One that is lost is written with the next.
func (g *Guard) flush() {
	for id, h := range *g.tokens.Load() {
		if err := h.flush(g.config.Store); err != nil {
			g.config.Logger.Warn("a token's last use is not written", "token_id", id, "error", err)
		}
	}
}

func (h *holder) flush(store orchestrator.TokenStore) error {
	used, version := h.used.Load(), h.version.Load()
	if used == h.written || version == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), storeTimeout)
	defer cancel()
	t := h.token
	t.LastUsed, t.Version = time.Unix(used, 0).UTC(), version
	stored, err := store.PutToken(ctx, t)
	if err == nil {
		h.written = used
		h.version.Store(stored.Version)
	}
	return err
}
