package gateway_test

import (
	"errors"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/kilnfaas/kiln/gateway"
	"github.com/kilnfaas/kiln/gateway/problem"
	"github.com/kilnfaas/kiln/orchestrator"
)

// TestEveryRouteIsDocumented compares the table of routes with the document,
// both ways. The data plane's paths are not in the table.
func TestEveryRouteIsDocumented(t *testing.T) {
	served := map[string]bool{}
	for _, row := range newFixture(t).Table() {
		served[row[0]+" "+row[1]] = true
	}
	for _, method := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"} {
		served[method+" /invoke/{name}"] = true
		served[method+" /invoke/{name}/{path}"] = true
	}
	documented := map[string]bool{}
	for path, item := range document(t).spec.Paths.Map() {
		for method := range item.Operations() {
			documented[method+" "+path] = true
		}
	}
	if diff := cmp.Diff(slices.Sorted(maps.Keys(documented)), slices.Sorted(maps.Keys(served))); diff != "" {
		t.Errorf("routes (-documented +served):\n%s", diff)
	}
}

// TestEveryParameterIsDocumented compares the query parameters that each row knows
// with the document's, and sees others refused.
func TestEveryParameterIsDocumented(t *testing.T) {
	f := newFixture(t, "a")
	rows := f.Table()
	for i, known := range f.KnownParameters() {
		method, path := rows[i][0], rows[i][1]
		theirs := slices.Equal(known, gateway.Theirs)
		if theirs {
			known = nil
		}
		var documented []string
		for _, p := range document(t).spec.Paths.Find(path).GetOperation(method).Parameters {
			if p.Value.In != openapi3.ParameterInQuery {
				continue
			}
			name := p.Value.Name
			if p.Value.Schema.Value.Type.Is(openapi3.TypeArray) {
				name += gateway.Repeated
			}
			documented = append(documented, name)
		}
		if diff := cmp.Diff(documented, known, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("parameters of %s %s (-documented +known):\n%s", method, path, diff)
		}
		if theirs {
			continue
		}
		target := strings.NewReplacer("{name}", "a", "{trigger}", "t", "{id}", "i", "{path}", "p").Replace(path)
		got := f.call(t, method, target+"?colour=red", "")
		if got.status != http.StatusBadRequest || !strings.Contains(got.body, `there is no parameter \"colour\" here`) {
			t.Errorf("%s %s with an unknown parameter: %d %s", method, path, got.status, got.body)
		}
	}
}

// requests has one request for each row that can fail in a use case.
var requests = []struct{ method, target, body, media string }{
	{"GET", "/v1/functions", "", ""},
	{"GET", "/v1/functions/a/revisions", "", ""},
	{"GET", "/v1/functions/a/logs", "", ""},
	{"PUT", "/v1/functions/a", "archive", "application/gzip"},
	{"PATCH", "/v1/functions/a", `{}`, "application/json"},
	{"DELETE", "/v1/functions/a", "", ""},
	{"POST", "/v1/functions/a/rollback", "", ""},
	{"GET", "/v1/secrets", "", ""},
	{"PUT", "/v1/secrets/API_KEY", "value", "application/octet-stream"},
	{"DELETE", "/v1/secrets/API_KEY", "", ""},
}

// changes are the methods that may meet every class of error; reading has no
// conflicts, limits or failing functions.
var readClasses = []error{orchestrator.ErrUnavailable, orchestrator.ErrDeadline}

// TestEveryErrorClassIsDocumented makes every use case fail with every class
// that it may, and with a defect; call checks the answers against the document.
func TestEveryErrorClassIsDocumented(t *testing.T) {
	all := []error{
		orchestrator.ErrNotFound, orchestrator.ErrConflict, orchestrator.ErrInvalid, orchestrator.ErrTooLarge,
		orchestrator.ErrUnavailable, orchestrator.ErrExhausted, orchestrator.ErrDeadline, orchestrator.ErrFunction,
	}
	for _, request := range requests {
		classes := all
		switch request.method {
		case "GET":
			classes = readClasses
		case "DELETE":
			classes = append(slices.Clone(readClasses), orchestrator.ErrNotFound, orchestrator.ErrConflict, orchestrator.ErrExhausted)
		}
		for _, class := range classes {
			t.Run(request.method+" "+request.target+" "+class.Error(), func(t *testing.T) {
				f := newFixture(t, "a")
				failure := &orchestrator.Error{Class: class, Code: "some-code", Detail: "detail", Hint: "hint", Output: []string{"line"}}
				f.functions.fail(failure)
				got := f.call(t, request.method, request.target, request.body, "Content-Type", request.media)
				want := problem.Status(failure)
				if class == orchestrator.ErrFunction {
					want = http.StatusUnprocessableEntity // nothing to deploy, and no gateway is bad
				}
				document := got.problem(t)
				if got.status != want || document.Code != "some-code" || document.Hint != "hint" || len(document.Output) != 1 {
					t.Errorf("answer = %d %+v, want %d with the error's own words", got.status, document, want)
				}
			})
		}
		t.Run(request.method+" "+request.target+" defect", func(t *testing.T) {
			f := newFixture(t, "a")
			f.functions.fail(errors.New("secret cause"))
			got := f.call(t, request.method, request.target, request.body, "Content-Type", request.media)
			if got.status != 500 || strings.Contains(got.body, "secret cause") {
				t.Errorf("answer = %d %s, want 500 without the cause", got.status, got.body)
			}
			if log := f.log.String(); !strings.Contains(log, "secret cause") || !strings.Contains(log, got.header.Get("Kiln-Request-Id")) {
				t.Errorf("the log has not the cause with the request id: %s", log)
			}
		})
	}
}
