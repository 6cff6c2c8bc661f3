package gateway_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/gorillamux"
	"go.uber.org/goleak"

	"github.com/kilnfaas/kiln/docs"
	"github.com/kilnfaas/kiln/gateway"
	"github.com/kilnfaas/kiln/gateway/api"
	"github.com/kilnfaas/kiln/gateway/auth"
	"github.com/kilnfaas/kiln/orchestrator/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fixture is a gateway over fakes.
type fixture struct {
	*gateway.Server
	functions *fakeFunctions
	intake    *fakeIntake
	log       *logBuffer
}

func newFixture(t testing.TB, names ...string) *fixture {
	t.Helper()
	f := &fixture{functions: newFakeFunctions(names...), intake: &fakeIntake{}, log: &logBuffer{}}
	f.Server = gateway.New(f.functions, f.intake, fakeTemplates{})
	f.Async = noAsync{}
	f.Log = slog.New(slog.NewTextHandler(f.log, nil))
	f.SpoolDir = t.TempDir()
	f.Guard = openGuard(t, auth.Config{Store: storetest.NewFakeTokens(), Insecure: true})
	f.Version = api.Version{Version: "1.2.3", Go: "go1.26"}
	return f
}

func openGuard(t testing.TB, config auth.Config) *auth.Guard {
	t.Helper()
	guard, err := auth.Open(context.Background(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { guard.Close() })
	return guard
}

// logBuffer is a log that several goroutines write.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// reply is an answer that was read.
type reply struct {
	status int
	header http.Header
	body   string
}

// problem decodes the reply as a problem document.
func (r reply) problem(t *testing.T) *api.Error {
	t.Helper()
	var e api.Error
	if got := r.header.Get("Content-Type"); got != api.MediaProblem {
		t.Fatalf("Content-Type = %q, want a problem document; status %d, body: %s", got, r.status, r.body)
	}
	if err := json.Unmarshal([]byte(r.body), &e); err != nil {
		t.Fatalf("problem document: %v: %s", err, r.body)
	}
	if e.Status != r.status || e.RequestID != r.header.Get(api.HeaderRequestID) || e.RequestID == "" {
		t.Errorf("the document says status %d and request %q, the answer %d and %q", e.Status, e.RequestID, r.status, r.header.Get(api.HeaderRequestID))
	}
	return &e
}

// call sends a request to the gateway's handler and checks the answer against
// the OpenAPI document. Headers are pairs of key and value.
func (f *fixture) call(t *testing.T, method, target, body string, headers ...string) reply {
	t.Helper()
	request := httptest.NewRequest(method, target, strings.NewReader(body))
	for i := 0; i+1 < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	recorder := httptest.NewRecorder()
	f.Handler().ServeHTTP(recorder, request)
	got := reply{recorder.Code, recorder.Header(), recorder.Body.String()}
	document(t).check(t, request, got)
	return got
}

// contract is the OpenAPI document, to check answers against.
type contract struct {
	spec   *openapi3.T
	router routers.Router
}

var document = func() func(testing.TB) *contract {
	load := sync.OnceValues(func() (*contract, error) {
		spec, err := openapi3.NewLoader().LoadFromData(docs.OpenAPI)
		if err != nil {
			return nil, err
		}
		if err := spec.Validate(context.Background()); err != nil {
			return nil, err
		}
		router, err := gorillamux.NewRouter(spec)
		openapi3filter.RegisterBodyDecoder(api.MediaNDJSON, decodeLines)
		openapi3filter.RegisterBodyDecoder("application/gzip", openapi3filter.FileBodyDecoder)
		openapi3filter.RegisterBodyDecoder(api.MediaYAML, openapi3filter.FileBodyDecoder)
		return &contract{spec, router}, err
	})
	return func(t testing.TB) *contract {
		t.Helper()
		c, err := load()
		if err != nil {
			t.Fatalf("docs/openapi.yaml: %v", err)
		}
		return c
	}
}()

// decodeLines checks each line of a stream and returns the last.
func decodeLines(body io.Reader, _ http.Header, schema *openapi3.SchemaRef, _ openapi3filter.EncodingFn) (any, error) {
	var last any
	decoder := json.NewDecoder(body)
	for n := 1; ; n++ {
		var line any
		switch err := decoder.Decode(&line); {
		case err == io.EOF:
			return last, nil
		case err != nil:
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		if err := schema.Value.VisitJSON(line); err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		last = line
	}
}

// check fails the test if an answer is not as the document says. Routes and
// methods that are not in the document have the problem document alone to keep.
func (c *contract) check(t *testing.T, request *http.Request, got reply) {
	t.Helper()
	if request.Method == http.MethodHead {
		request = request.Clone(request.Context())
		request.Method = http.MethodGet // HEAD is implied
	}
	if bucket, key, ok := strings.Cut(strings.TrimPrefix(request.URL.Path, "/v1/buckets/"), "/"); ok && strings.HasPrefix(request.URL.Path, "/v1/buckets/") {
		// A key is one parameter, which OpenAPI has no way to say of what holds slashes.
		request = request.Clone(request.Context())
		request.URL.Path, request.URL.RawPath = "/v1/buckets/"+bucket+"/"+strings.ReplaceAll(key, "/", "_"), ""
	}
	route, params, err := c.router.FindRoute(request)
	if err != nil {
		if got.status != 404 && got.status != 405 {
			t.Errorf("%s %s: not in docs/openapi.yaml, but the answer is %d", request.Method, request.URL.Path, got.status)
		}
		got.problem(t)
		return
	}
	if len(got.body) == 0 && got.status == 200 && strings.Contains(got.header.Get("Content-Type"), "ndjson") {
		return // a stream without lines
	}
	options := &openapi3filter.Options{IncludeResponseStatus: true, MultiError: true}
	err = openapi3filter.ValidateResponse(context.Background(), &openapi3filter.ResponseValidationInput{
		RequestValidationInput: &openapi3filter.RequestValidationInput{Request: request, PathParams: params, Route: route, Options: options},
		Status:                 got.status, Header: got.header, Options: options,
		Body: io.NopCloser(strings.NewReader(got.body)),
	})
	if err != nil {
		t.Errorf("%s %s: the answer %d is not as documented: %v\n%s", request.Method, request.URL.Path, got.status, err, got.body)
	}
}
