// Package gateway is Kiln's HTTP interface: it serves the control API, mounts
// the data plane, and turns errors into problem documents.
//
// Handlers read a request, call one use case and write what it returned; they
// return errors, and one function (package problem) answers with them. The
// routes are a table (routes.go) that docs/openapi.yaml describes and a test
// compares. Everything below /invoke/ goes to the data plane and passes none of
// the control API's middleware.
//
// Set the fields of a Server, then Open it, or Serve listeners of your own, and
// Close it when done.
package gateway

import (
	"context"
	"io/fs"
	"iter"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/kilnfaas/kiln/gateway/api"
	"github.com/kilnfaas/kiln/gateway/audit"
	"github.com/kilnfaas/kiln/gateway/auth"
	"github.com/kilnfaas/kiln/gateway/metrics"
	"github.com/kilnfaas/kiln/gateway/proxy"
	"github.com/kilnfaas/kiln/orchestrator"
)

// Functions are the use cases that the control API offers;
// *orchestrator.Service has them.
type Functions interface {
	// Deploy builds, proves and makes live. It goes on when ctx ends, but calls
	// progress no more once it has returned. Progress is never slow.
	Deploy(ctx context.Context, d orchestrator.Deploy, progress func(orchestrator.BuildEvent)) (orchestrator.Function, orchestrator.Revision, error)
	Function(ctx context.Context, name string) (orchestrator.Function, error)
	// Functions returns all, by name, from memory.
	Functions(ctx context.Context) ([]orchestrator.Function, error)
	Configure(ctx context.Context, name string, change func(orchestrator.Spec) (orchestrator.Spec, error)) (orchestrator.Function, orchestrator.Revision, error)
	Remove(ctx context.Context, name string) error
	Revisions(ctx context.Context, name string) ([]orchestrator.Revision, error)
	Rollback(ctx context.Context, name, revision string) (orchestrator.Function, orchestrator.Revision, error)
	Status(name string) orchestrator.FunctionStatus
	Logs(ctx context.Context, name string, options orchestrator.LogOptions) iter.Seq2[orchestrator.FunctionLog, error]
	// Secrets returns all, by name, without what they hold.
	Secrets(ctx context.Context) ([]orchestrator.SecretInfo, error)
	// SetSecret creates or changes one and has the functions that use it start anew,
	// which goes on when ctx ends.
	SetSecret(ctx context.Context, name string, functions []string, value []byte) (orchestrator.SecretInfo, []orchestrator.Rolled, error)
	RemoveSecret(ctx context.Context, name string) error
}

// Templates is the catalogue of languages.
type Templates interface {
	// Templates returns all, by name.
	Templates() []orchestrator.Template
	// Template returns one; ErrNotFound.
	Template(name string) (orchestrator.Template, error)
	// Scaffold returns the first files of a function; ErrNotFound for the
	// template, ErrInvalid for the name.
	Scaffold(template, function string) (fs.FS, error)
}

// Check is something the gateway needs to work, for /readyz.
type Check struct {
	Name string // one word, for people
	// Ready returns nil when it is there. The context has a deadline.
	Ready func(ctx context.Context) error
}

// DefaultShutdown is how long Close lets requests finish.
const DefaultShutdown = 30 * time.Second

// Server is the gateway's HTTP server. Fields are set before its first use.
type Server struct {
	Addr      string // for Open: "127.0.0.1:8080", or port 0 for any
	Functions Functions
	Intake    Intake
	Templates Templates
	// Guard says who may use the control API. Without one nobody may.
	Guard *auth.Guard
	// Audit takes a record of every call that changed something, and of refusals;
	// may be nil. It must not wait long.
	Audit func(audit.Record)
	// TokenRemoved is told the id of a token that was removed; may be nil.
	TokenRemoved func(id string)
	// Inside says whether an address is an instance's: functions may invoke and, with
	// a token, use buckets, and nothing else. nil = none is.
	Inside func(addr netip.Addr) bool
	Async  Async
	// Triggers are those of functions; nil = functions can have none.
	Triggers Triggers
	// Call makes one call of a sequence, whose caller was admitted already.
	Call func(r *http.Request, limit int) proxy.Reply
	// Buckets are those that keep files; nil = there are none.
	Buckets orchestrator.Buckets
	// Invoke answers everything below /invoke/. It sees requests as they come.
	Invoke  http.Handler
	Checks  []Check
	Metrics *metrics.Metrics
	Version api.Version
	Log     *slog.Logger
	// MaxArchive bounds an uploaded archive as it is sent.
	MaxArchive orchestrator.Bytes
	// SpoolDir holds uploads while they come in; "" for the system's own.
	SpoolDir string
	// Shutdown is how long Close lets requests finish.
	Shutdown time.Duration

	handler http.Handler
	http    *http.Server
	// refusals bounds how many calls of strangers are recorded: they must not
	// push out of the log what others did.
	refusals *rate.Limiter
	// stopping ends when Close begins, deploysEnd when deploys may not be
	// followed any longer.
	stopping   context.Context
	stop       context.CancelFunc
	deploysEnd context.Context
	endDeploys context.CancelCauseFunc
	prepare    sync.Once
	closing    sync.Once
	serving    sync.WaitGroup

	mu       sync.Mutex
	listener net.Listener // guarded by mu; Open's
	closed   bool         // guarded by mu
	closeErr error        // set by closing
}

// New returns a server of the use cases with all defaults and no data plane.
func New(functions Functions, intake Intake, templates Templates) *Server {
	return &Server{
		Addr:       "127.0.0.1:8080",
		Functions:  functions,
		Intake:     intake,
		Templates:  templates,
		Metrics:    metrics.New(""),
		Log:        slog.New(slog.DiscardHandler),
		MaxArchive: defaultMaxArchive,
		Shutdown:   DefaultShutdown,
	}
}

// Handler returns the whole HTTP interface. Fields of the server must not be
// changed any more.
func (s *Server) Handler() http.Handler {
	s.init()
	return s.handler
}

func (s *Server) init() {
	s.prepare.Do(func() {
		s.stopping, s.stop = context.WithCancel(context.Background())
		s.deploysEnd, s.endDeploys = context.WithCancelCause(context.Background())
		s.Metrics.WatchInstances(s.statuses)
		s.refusals = rate.NewLimiter(refusalsPerSecond, refusalsAtOnce)
		s.handler = s.routes()
		s.http = s.server()
	})
}

// statuses yields what runs for each function.
func (s *Server) statuses(yield func(string, orchestrator.FunctionStatus) bool) {
	functions, err := s.Functions.Functions(s.stopping)
	if err != nil {
		s.Log.Error("functions not listed for a scrape", "error", err)
		return
	}
	for _, f := range functions {
		if !yield(f.Name, s.Functions.Status(f.Name)) {
			return
		}
	}
}
