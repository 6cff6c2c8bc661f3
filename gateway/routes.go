package gateway

import (
	"net/http"
	"net/url"
	"strings"

	"github.com/gorilla/mux"

	"github.com/kilnfaas/kiln/gateway/problem"
	"github.com/kilnfaas/kiln/orchestrator"
)

// handlerFunc is a handler that returns what went wrong, for one function to
// answer with. After it has begun to answer it returns nil.
type handlerFunc func(w http.ResponseWriter, r *http.Request) error

// need is what a route asks of its caller: a scope, or one of the constants. The
// zero need is met by administrators alone.
type need = orchestrator.Scope

const (
	needNothing need = "nothing" // for everybody
	needToken   need = "token"   // any valid one
)

// The scopes, as the table reads best.
const (
	admin    = orchestrator.ScopeAdmin
	deployer = orchestrator.ScopeDeploy
	invoker  = orchestrator.ScopeInvoke
	reader   = orchestrator.ScopeRead
	filer    = orchestrator.ScopeFiles
	viewer   = orchestrator.ScopeFilesRead
)

// route is one row of the API.
type route struct {
	method  string
	path    string
	needs   need
	query   parameters // those that it knows; others are refused
	handler handlerFunc
}

// table is the control API. docs/openapi.yaml describes the same rows.
func (s *Server) table() []route {
	return []route{
		{"POST", "/upload", deployer, nil, s.upload},
		{"GET", "/v1/functions", reader, nil, s.listFunctions},
		{"GET", "/v1/functions/{name}", reader, nil, s.getFunction},
		{"PUT", "/v1/functions/{name}", deployer, nil, s.putFunction},
		{"PATCH", "/v1/functions/{name}", deployer, nil, s.patchFunction},
		{"DELETE", "/v1/functions/{name}", deployer, nil, s.deleteFunction},
		{"GET", "/v1/functions/{name}/revisions", reader, nil, s.listRevisions},
		{"POST", "/v1/functions/{name}/rollback", deployer, nil, s.rollback},
		{"GET", "/v1/functions/{name}/logs", reader, parameters{"follow", "tail", "since"}, s.logs},
		{"GET", "/v1/functions/{name}/instances", reader, nil, s.listInstances},
		{"POST", "/async/{name}", needNothing, theirs, s.invokeAsync}, // as the data plane: the function says who may
		{"POST", "/async/{name}/" + rest, needNothing, theirs, s.invokeAsync},
		{"GET", "/v1/invocations", needToken, parameters{"function", "status", "before", "limit"}, s.listInvocations}, // mayFollow has the rest
		{"GET", "/v1/invocations/{id}", needToken, parameters{"wait"}, s.getInvocation},
		{"POST", "/v1/invocations/{id}/retry", needToken, nil, s.retryInvocation},
		{"POST", "/v1/invocations/{id}/cancel", needToken, nil, s.cancelInvocation},
		{"GET", "/v1/functions/{name}/dead-letters", reader, parameters{"before", "limit"}, s.listDeadLetters},
		{"POST", "/v1/functions/{name}/dead-letters/replay", invoker, nil, s.replayDeadLetters},
		{"DELETE", "/v1/functions/{name}/dead-letters", deployer, parameters{"id" + repeated}, s.dropDeadLetters},
		{"POST", "/sequence/{name}", needNothing, theirs, s.invokeSequence},
		{"POST", "/sequence/{name}/" + rest, needNothing, theirs, s.invokeSequence},
		{"POST", "/events/{name}", needNothing, theirs, s.takeEvents}, // as the data plane
		{"POST", "/hooks/{id}", needNothing, theirs, s.receiveHook},   // the address is the right
		{"POST", "/hooks/{id}/" + rest, needNothing, theirs, s.receiveHook},
		{"GET", "/v1/triggers", reader, nil, s.listTriggers},
		{"GET", "/v1/functions/{name}/triggers", reader, nil, s.listTriggers},
		{"GET", "/v1/functions/{name}/triggers/{trigger}", reader, nil, s.getTrigger()},
		{"POST", "/v1/functions/{name}/triggers/{trigger}/pause", deployer, nil, s.pauseTrigger()},
		{"POST", "/v1/functions/{name}/triggers/{trigger}/resume", deployer, nil, s.resumeTrigger()},
		{"POST", "/v1/functions/{name}/triggers/{trigger}/test", invoker, nil, s.testTrigger},
		{"GET", "/v1/buckets", viewer, nil, s.listBuckets},
		{"GET", "/v1/buckets/{name}", viewer, parameters{"prefix", "after", "limit"}, s.listObjects},
		{"GET", "/v1/buckets/{name}/" + rest, viewer, nil, s.getObject},
		{"PUT", "/v1/buckets/{name}/" + rest, filer, nil, s.putObject},
		{"DELETE", "/v1/buckets/{name}/" + rest, filer, nil, s.deleteObject},
		{"GET", "/v1/templates", needToken, nil, s.listTemplates},
		{"GET", "/v1/templates/{name}", needToken, nil, s.getTemplate},
		{"GET", "/v1/templates/{name}/scaffold", needToken, parameters{"name"}, s.scaffold},
		{"GET", "/v1/version", needToken, nil, s.version},
		{"GET", "/v1/secrets", reader, nil, s.listSecrets},
		{"PUT", "/v1/secrets/{name}", deployer, parameters{"function" + repeated}, s.putSecret},
		{"DELETE", "/v1/secrets/{name}", deployer, nil, s.deleteSecret},
		{"GET", "/v1/tokens", admin, nil, s.listTokens},
		{"POST", "/v1/tokens", admin, nil, s.createToken},
		{"DELETE", "/v1/tokens/{name}", admin, nil, s.deleteToken},
		{"GET", "/healthz", needNothing, theirs, s.healthz},
		{"GET", "/readyz", needNothing, theirs, s.readyz},
		{"GET", "/metrics", reader, theirs, s.metrics()},
		{"GET", "/openapi.yaml", needNothing, theirs, s.openapi},
	}
}

// invokePrefix is where the data plane begins.
const invokePrefix = "/invoke/"

// routes returns the handler of everything: the data plane below invokePrefix,
// which nothing is put in front of, and the control API for the rest.
func (s *Server) routes() http.Handler {
	// No redirects: a path is right or unknown. And it is what was sent: an escaped
	// slash belongs to a name, or who checks paths in front of us sees another one.
	router := mux.NewRouter().SkipClean(true).UseEncodedPath()
	methods := map[string][]string{}
	var paths []string
	for _, r := range s.table() {
		allowed := []string{r.method}
		if r.method == http.MethodGet {
			allowed = append(allowed, http.MethodHead)
		}
		if methods[r.path] == nil {
			paths = append(paths, r.path)
		}
		methods[r.path] = append(methods[r.path], allowed...)
		router.Handle(r.path, s.control(r)).Methods(allowed...)
	}
	for _, path := range paths {
		router.Handle(path, s.control(route{needs: needNothing, query: theirs, handler: func(_ http.ResponseWriter, r *http.Request) error {
			return problem.MethodNotAllowed(r.Method, r.URL.Path, methods[path])
		}}))
	}
	unknown := s.control(route{needs: needNothing, query: theirs, handler: func(_ http.ResponseWriter, r *http.Request) error {
		return problem.RouteUnknown(r.URL.Path)
	}})
	router.NotFoundHandler = unknown
	invoke := s.Invoke
	if invoke == nil {
		invoke = unknown
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, invokePrefix) {
			invoke.ServeHTTP(w, r)
			return
		}
		router.ServeHTTP(w, r)
	})
}

// name returns the function or template that the path names.
func name(r *http.Request) string {
	escaped := mux.Vars(r)["name"]
	name, err := url.PathUnescape(escaped)
	if err != nil {
		return escaped // no name either
	}
	return name
}
