package gateway_test

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime/metrics"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kilnfaas/kiln/gateway"
	"github.com/kilnfaas/kiln/gateway/api"
	"github.com/kilnfaas/kiln/gateway/auth"
	"github.com/kilnfaas/kiln/gateway/problem"
	"github.com/kilnfaas/kiln/gateway/proxy"
	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/archive"
	"github.com/kilnfaas/kiln/orchestrator/intake"
	"github.com/kilnfaas/kiln/orchestrator/pool"
	"github.com/kilnfaas/kiln/orchestrator/route"
	"github.com/kilnfaas/kiln/orchestrator/storetest"
	"github.com/kilnfaas/kiln/templates"
)

var updateBad = flag.Bool("update", false, "write the table of bad input anew; read it before you commit it")

const (
	// badTable says what each bad input is answered with.
	badTable = "testdata/badinput.txt"
	// leastBad is how many there have to be.
	leastBad = 500
	// badPatience bounds one of them; nothing takes that long when it works.
	badPatience = 20 * time.Second
	// mostMemory bounds what refusing one may allocate: the largest buffers are
	// zstd's window and a form in memory.
	mostMemory = 48 << 20
	// mostDocument bounds a problem document, however much it could quote.
	mostDocument = 6 << 10
)

// bad is one bad input: what is sent on a connection of its own.
type bad struct {
	name string
	send string
	to   *platform
	// last tells that the answer ends the connection: what follows cannot be
	// told from the rest of what was refused.
	last bool
	// plain tells that net/http answers, before anybody of ours sees it.
	plain bool
	// called tells that the function sees the call: what is bad comes later.
	called bool
}

// TestBadInput sends everything bad that we could think of to a gateway of which
// only the engine is not real. Each has to be refused as testdata/badinput.txt
// says, with a problem document that blames the caller and says what to do, and
// has to leave nothing behind.
func TestBadInput(t *testing.T) {
	p := newPlatform(t, openGuard(t, auth.Config{Store: storetest.NewFakeTokens(), Insecure: true}), "")
	p.checkGood(t)
	guard, admin, tokens := badTokens(t)
	asking := newPlatform(t, guard, admin)
	var rows []bad
	for _, group := range []struct {
		name string
		to   *platform
		rows []bad
	}{
		{"head", p, badHeads()}, {"control", p, badControl()}, {"name", p, badNames()}, {"form", p, badForms(t)},
		{"settings", p, badSettings(t)}, {"code", p, badCode(t)}, {"archive", p, badArchives(t)}, {"token", asking, tokens},
	} {
		for _, b := range group.rows {
			b.name, b.to = group.name+": "+b.name, group.to
			rows = append(rows, b)
		}
	}
	if len(rows) < leastBad {
		t.Errorf("there are %d bad inputs, want at least %d", len(rows), leastBad)
	}
	seen := map[string]bool{}
	var got strings.Builder
	for _, b := range rows {
		if seen[b.name] {
			t.Errorf("there are two of %q", b.name)
		}
		seen[b.name] = true
		t.Run(b.name, func(t *testing.T) { fmt.Fprintf(&got, "%s  %s\n", b.to.try(t, b), b.name) })
	}
	p.checkGood(t)
	if *updateBad {
		if err := os.WriteFile(badTable, []byte(got.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(badTable)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(got.String(), "\n")); diff != "" {
		t.Errorf("answers (-%s +got):\n%s", badTable, diff)
	}
}

// try sends one bad input, checks what always holds, and returns the answer as
// the table writes it.
func (p *platform) try(t *testing.T, b bad) string {
	before := allocated()
	answer, ended := p.send(t, b)
	if spent := allocated() - before; spent > mostMemory {
		t.Errorf("refusing it took %d bytes of memory", spent)
	}
	if b.last && !ended {
		t.Error("the connection goes on")
	}
	code := answer.check(t, b)
	if b.called {
		select {
		case <-p.called:
		case <-time.After(badPatience):
			t.Error("the function was not called")
		}
	}
	p.checkCalm(t)
	if t.Failed() && answer.status < 400 {
		p.send(t, bad{send: request("DELETE", "/v1/functions/x", "")})
		p.remember(t)
	}
	return fmt.Sprintf("%d %-26s", answer.status, code)
}

// clientsOwn are statuses of 5xx that say what the client did: a coding or a
// version that is not known, a deadline that had passed.
var clientsOwn = []int{http.StatusNotImplemented, http.StatusHTTPVersionNotSupported, http.StatusGatewayTimeout}

// check returns the code of an answer that refuses something.
func (r reply) check(t *testing.T, b bad) string {
	t.Helper()
	if r.status < 400 || r.status >= 500 && !slices.Contains(clientsOwn, r.status) {
		t.Errorf("got %d, want it refused: %s", r.status, r.body)
		return "-"
	}
	if b.plain {
		return "-"
	}
	document := r.problem(t)
	if r.header.Get(api.HeaderError) != api.FaultPlatform || document.Fault != api.FaultPlatform {
		t.Errorf("blamed is the %s", document.Fault)
	}
	if document.Code == problem.CodeInternal || document.Detail == "" || document.Type != api.TypePrefix+document.Code {
		t.Errorf("the document says little: %+v", document)
	}
	if len(r.body) > mostDocument {
		t.Errorf("the document has %d bytes", len(r.body))
	}
	return document.Code
}

// allocated is what was allocated since the process began.
func allocated() uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}

// send sends one bad input and returns the answer, and whether the connection
// ended with it.
func (p *platform) send(t *testing.T, b bad) (reply, bool) {
	t.Helper()
	conn, err := net.Dial("tcp", p.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(badPatience))
	written := make(chan struct{})
	go func() { // it may be refused before all of it is taken
		defer close(written)
		io.WriteString(conn, b.send)
	}()
	defer func() {
		conn.Close()
		<-written
	}()
	method, _, _ := strings.Cut(b.send, " ")
	reader := bufio.NewReader(conn)
	response, err := http.ReadResponse(reader, &http.Request{Method: method})
	if err != nil {
		t.Fatalf("no answer: %v", err)
	}
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatalf("half an answer: %v", err)
	}
	ended := false
	if b.last {
		<-written
		conn.(*net.TCPConn).CloseWrite()
		rest, _ := io.ReadAll(reader) // a reset ends it as well
		ended = len(rest) == 0
	}
	return reply{response.StatusCode, response.Header, string(body)}, ended
}

// platform is a gateway as `kiln serve` makes it, with a store in memory and
// without an engine: builds succeed at once, and instances are a server of the
// test. One function, "hello", is deployed.
type platform struct {
	addr     string
	store    orchestrator.Store
	temp     string
	log      *logBuffer
	function orchestrator.Function
	archives []string
	called   chan string
}

const goodHandler = "def handle(request):\n    return 'hello'\n"

// newPlatform makes one whose administrator sends the given Authorization.
func newPlatform(t *testing.T, guard *auth.Guard, admin string) *platform {
	t.Helper()
	p := &platform{store: storetest.NewFake(), temp: t.TempDir(), log: &logBuffer{}, called: make(chan string, 1)}
	instance := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body) // a call that breaks is not answered
		select {
		case p.called <- r.RequestURI + " " + string(body):
		default:
		}
	}))
	t.Cleanup(instance.Close)
	logger := slog.New(slog.NewTextHandler(p.log, &slog.HandlerOptions{Level: slog.LevelWarn}))
	catalogue, err := templates.Embedded()
	if err != nil {
		t.Fatal(err)
	}
	table := route.New(route.Config{Launcher: standing{instance.Listener.Addr().String()}, NewConns: proxy.NewConns, Logger: logger})
	service := &orchestrator.Service{
		Vault: emptyVault{}, Store: p.store, Images: noImages{}, Builder: noBuilder{}, Fleet: table, Templates: catalogue, Logger: logger,
		BuildDigest: func(archive, template string, spec orchestrator.Spec) string {
			return archive + template + strings.Join(spec.Build.Packages, ",")
		},
	}
	if err := service.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	table.Open()
	handler := &proxy.Handler{Routes: table, Gate: guard, Fail: problem.Write}
	server := gateway.New(service, intake.New(p.store, catalogue, badLimits(), p.temp), scaffolds{catalogue})
	server.Guard = guard
	server.Invoke, server.Log, server.SpoolDir, server.MaxArchive = handler, logger, p.temp, badLimits().Compressed
	p.serve(t, server, handler, func() error {
		ctx, cancel := context.WithTimeout(context.Background(), badPatience)
		defer cancel()
		return errors.Join(service.Close(), table.Close(ctx))
	})
	p.deployHello(t, admin)
	return p
}

// serve puts the data plane's listener in front of the server, as the daemon does.
func (p *platform) serve(t *testing.T, server *gateway.Server, handler *proxy.Handler, then func() error) {
	t.Helper()
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p.addr = tcp.Addr().String()
	listener, err := proxy.Listen(tcp.(*net.TCPListener), proxy.Config{Handler: handler, Loops: 1})
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), badPatience)
		defer cancel()
		fast := make(chan error, 1)
		go func() { fast <- listener.Shutdown(ctx) }()
		if err := errors.Join(server.Close(), <-fast, <-served, then()); err != nil {
			t.Errorf("close the gateway: %v", err)
		}
	})
}

// badLimits are limits that are reached with little.
func badLimits() archive.Limits {
	limits := archive.DefaultLimits()
	limits.Compressed, limits.Unpacked, limits.RatioFloor = 1*orchestrator.MiB, 2*orchestrator.MiB, 256*orchestrator.KiB
	limits.Entries, limits.Ratio = 100, 100
	return limits
}

func (p *platform) deployHello(t *testing.T, admin string) {
	t.Helper()
	files := []file{{"handler.py", goodHandler}}
	if admin != "" {
		files = append(files, file{"function.yaml", "access: token"})
	}
	answer, _ := p.send(t, bad{send: request("PUT", "/v1/functions/hello", zipOf(t, files...), "Authorization", admin)})
	if answer.status != http.StatusCreated {
		t.Fatalf("deploy hello: %d %s", answer.status, answer.body)
	}
	p.remember(t)
}

// remember takes what is there for what has to stay.
func (p *platform) remember(t *testing.T) {
	t.Helper()
	functions, err := p.store.Functions(t.Context())
	if err != nil || len(functions) != 1 {
		t.Fatalf("functions: %v, %v", functions, err)
	}
	archives, err := p.store.Archives(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	p.function, p.archives = functions[0], archives
}

// checkGood proves that what is good is taken: what the others are refused for is
// what is bad about them.
func (p *platform) checkGood(t *testing.T) {
	t.Helper()
	hello := file{"handler.py", goodHandler}
	body, media := formOf(t, part{"file", "hello.tar", string(tarOf(t, hello))}, part{"name", "", "hello"}, part{"spec", "", "template: python"})
	good := map[string]string{
		"a zip":           request("PUT", "/v1/functions/hello", zipOf(t, hello)),
		"a tar.gz":        request("PUT", "/v1/functions/hello", gzipOf(t, tarOf(t, hello))),
		"a form":          request("POST", "/upload", body, "Content-Type", media),
		"settings":        request("PATCH", "/v1/functions/hello", "{}", "Content-Type", "application/json"),
		"a rollback":      request("POST", "/v1/functions/hello/rollback", `{"revision":"1"}`, "Content-Type", "application/json"),
		"an invocation":   request("POST", "/invoke/hello/x", "body"),
		"a strange query": request("GET", "/invoke/hello?a=%zz&b", ""),
	}
	for name, send := range good {
		if answer, _ := p.send(t, bad{send: send}); answer.status != http.StatusOK {
			t.Errorf("%s: got %d, want 200: %s", name, answer.status, answer.body)
		}
	}
	select {
	case <-p.called:
	case <-time.After(badPatience):
		t.Error("the function was not called")
	}
	select {
	case <-p.called:
	default:
	}
	p.remember(t)
	p.checkCalm(t)
}

// checkCalm fails the test when anything was left behind, has reached the
// function, or was worth a line in the log.
func (p *platform) checkCalm(t *testing.T) {
	t.Helper()
	select {
	case call := <-p.called:
		t.Errorf("the function was called with %q", call)
	default:
	}
	functions, err := p.store.Functions(t.Context())
	if diff := cmp.Diff([]orchestrator.Function{p.function}, functions); diff != "" || err != nil {
		t.Errorf("functions, %v (-before +after):\n%s", err, diff)
	}
	revisions, err := p.store.AllRevisions(t.Context())
	if err != nil || len(revisions) != 1 {
		t.Errorf("there are %d revisions, %v", len(revisions), err)
	}
	if archives, err := p.store.Archives(t.Context()); err != nil || !slices.Equal(archives, p.archives) {
		t.Errorf("archives are %v, %v; want %v", archives, err, p.archives)
	}
	if left, err := os.ReadDir(p.temp); err != nil || len(left) > 0 {
		t.Errorf("left in the temporary folder: %v, %v", left, err)
	}
	if log := p.log.String(); log != "" {
		t.Errorf("logged: %s", log)
		p.log.reset()
	}
}

func (l *logBuffer) reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.buf.Reset()
}

// request writes a request with a body, even an empty one, and one connection of
// its own. Headers are pairs of key and value.
func request[B string | []byte](method, target string, body B, headers ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: kiln.test\r\nContent-Length: %d\r\n", method, target, len(body))
	for i := 0; i+1 < len(headers); i += 2 {
		fmt.Fprintf(&b, "%s: %s\r\n", headers[i], headers[i+1])
	}
	return b.String() + "\r\n" + string(body)
}

// standing launches instances that stand already.
type standing struct{ addr string }

var standingIDs struct {
	sync.Mutex
	n int
}

func (s standing) Launch(context.Context, pool.Order) (pool.Launched, error) {
	standingIDs.Lock()
	defer standingIDs.Unlock()
	standingIDs.n++
	return pool.Launched{ID: fmt.Sprintf("i%d", standingIDs.n), Addr: s.addr, Origin: pool.OriginImage}, nil
}

// emptyVault keeps no secret, and is not asked to.
type emptyVault struct{ orchestrator.Vault }

func (emptyVault) Check(function string, names []string) error {
	if len(names) == 0 {
		return nil
	}
	return orchestrator.Errorf(orchestrator.ErrInvalid, "secret-unknown", "%s: there is no secret %s", function, names[0])
}

func (emptyVault) Versions([]string) map[string]uint64 { return nil }

func (standing) Verify(context.Context, orchestrator.Release, pool.Launched) error { return nil }
func (standing) Freeze(context.Context, string) error                              { return nil }
func (standing) Thaw(context.Context, string) error                                { return nil }
func (standing) Stop(context.Context, string, time.Duration) error                 { return nil }
func (standing) Owns(string) bool                                                  { return false }
func (standing) Died(string, int, bool)                                            {}

// noBuilder builds nothing, at once.
type noBuilder struct{}

func (noBuilder) BuildRevision(_ context.Context, r orchestrator.Revision, _ orchestrator.Template, _ func(orchestrator.BuildEvent)) (orchestrator.Image, error) {
	return orchestrator.Image{ID: "sha256:" + r.ID}, nil
}

// noImages has every image.
type noImages struct{ otherImages }

type otherImages interface{ orchestrator.Images } // not used

func (noImages) Image(_ context.Context, ref string) (orchestrator.Image, error) {
	return orchestrator.Image{ID: ref}, nil
}
func (noImages) RemoveImage(context.Context, string) error { return nil }

// scaffolds is the catalogue as the gateway sees it.
type scaffolds struct{ *templates.Catalogue }

func (s scaffolds) Scaffold(template, function string) (fs.FS, error) {
	files, err := s.Catalogue.Scaffold(template, function)
	if err != nil {
		return nil, err
	}
	tree := fstest.MapFS{}
	for name, f := range files {
		tree[name] = &fstest.MapFile{Data: f.Data, Mode: f.Mode}
	}
	return tree, nil
}
