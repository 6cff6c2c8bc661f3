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
	handler handlerFunc
}

// table is the control API. docs/openapi.yaml describes the same rows.
func (s *Server) table() []route {
	return []route{
		{"POST", "/upload", deployer, s.upload},
		{"GET", "/v1/functions", reader, s.listFunctions},
		{"GET", "/v1/functions/{name}", reader, s.getFunction},
		{"PUT", "/v1/functions/{name}", deployer, s.putFunction},
		{"PATCH", "/v1/functions/{name}", deployer, s.patchFunction},
		{"DELETE", "/v1/functions/{name}", deployer, s.deleteFunction},
		{"GET", "/v1/functions/{name}/revisions", reader, s.listRevisions},
		{"POST", "/v1/functions/{name}/rollback", deployer, s.rollback},
		{"GET", "/v1/functions/{name}/logs", reader, s.logs},
		{"GET", "/v1/functions/{name}/instances", reader, s.listInstances},
		{"POST", "/async/{name}", needNothing, s.invokeAsync}, // as the data plane: the function says who may
		{"POST", "/async/{name}/" + rest, needNothing, s.invokeAsync},
		{"GET", "/v1/invocations", needToken, s.listInvocations}, // mayFollow has the rest
		{"GET", "/v1/invocations/{id}", needToken, s.getInvocation},
		{"POST", "/v1/invocations/{id}/retry", needToken, s.retryInvocation},
		{"POST", "/v1/invocations/{id}/cancel", needToken, s.cancelInvocation},
		{"GET", "/v1/functions/{name}/dead-letters", reader, s.listDeadLetters},
		{"POST", "/v1/functions/{name}/dead-letters/replay", invoker, s.replayDeadLetters},
		{"DELETE", "/v1/functions/{name}/dead-letters", deployer, s.dropDeadLetters},
		{"POST", "/sequence/{name}", needNothing, s.invokeSequence},
		{"POST", "/sequence/{name}/" + rest, needNothing, s.invokeSequence},
		{"POST", "/events/{name}", needNothing, s.takeEvents}, // as the data plane
		{"POST", "/hooks/{id}", needNothing, s.receiveHook},   // the address is the right
		{"POST", "/hooks/{id}/" + rest, needNothing, s.receiveHook},
		{"GET", "/v1/triggers", reader, s.listTriggers},
		{"GET", "/v1/functions/{name}/triggers", reader, s.listTriggers},
		{"GET", "/v1/functions/{name}/triggers/{trigger}", reader, s.getTrigger()},
		{"POST", "/v1/functions/{name}/triggers/{trigger}/pause", deployer, s.pauseTrigger()},
		{"POST", "/v1/functions/{name}/triggers/{trigger}/resume", deployer, s.resumeTrigger()},
		{"POST", "/v1/functions/{name}/triggers/{trigger}/test", invoker, s.testTrigger},
		{"GET", "/v1/buckets", viewer, s.listBuckets},
		{"GET", "/v1/buckets/{name}", viewer, s.listObjects},
		{"GET", "/v1/buckets/{name}/" + rest, viewer, s.getObject},
		{"PUT", "/v1/buckets/{name}/" + rest, filer, s.putObject},
		{"DELETE", "/v1/buckets/{name}/" + rest, filer, s.deleteObject},
		{"GET", "/v1/templates", needToken, s.listTemplates},
		{"GET", "/v1/templates/{name}", needToken, s.getTemplate},
		{"GET", "/v1/templates/{name}/scaffold", needToken, s.scaffold},
		{"GET", "/v1/version", needToken, s.version},
		{"GET", "/v1/secrets", reader, s.listSecrets},
		{"PUT", "/v1/secrets/{name}", deployer, s.putSecret},
		{"DELETE", "/v1/secrets/{name}", deployer, s.deleteSecret},
		{"GET", "/v1/tokens", admin, s.listTokens},
		{"POST", "/v1/tokens", admin, s.createToken},
		{"DELETE", "/v1/tokens/{name}", admin, s.deleteToken},
		{"GET", "/healthz", needNothing, s.healthz},
		{"GET", "/readyz", needNothing, s.readyz},
		{"GET", "/metrics", reader, s.metrics()},
		{"GET", "/openapi.yaml", needNothing, s.openapi},
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
		router.Handle(path, s.control(route{needs: needNothing, handler: func(_ http.ResponseWriter, r *http.Request) error {
			return problem.MethodNotAllowed(r.Method, r.URL.Path, methods[path])
		}}))
	}
	unknown := s.control(route{needs: needNothing, handler: func(_ http.ResponseWriter, r *http.Request) error {
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
