package gateway_test

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kilnfaas/kiln/docs"
	"github.com/kilnfaas/kiln/gateway"
	"github.com/kilnfaas/kiln/gateway/api"
	"github.com/kilnfaas/kiln/orchestrator"
)

// decode decodes a reply with a status.
func decode[T any](t *testing.T, got reply, status int) (v T) {
	t.Helper()
	if got.status != status {
		t.Fatalf("status = %d, want %d: %s", got.status, status, got.body)
	}
	if err := json.Unmarshal([]byte(got.body), &v); err != nil {
		t.Fatalf("body: %v: %s", err, got.body)
	}
	return v
}

func TestReadFunctions(t *testing.T) {
	f := newFixture(t, "b", "a")
	f.functions.status["a"] = orchestrator.FunctionStatus{
		Ready: 1, Wake: "image", Instances: []orchestrator.InstanceStatus{{ID: "c1", Revision: "r1-abc123", State: "ready", StartedAt: fakeTime, Origin: "image"}},
	}
	list := decode[api.FunctionList](t, f.call(t, "GET", "/v1/functions", ""), 200)
	if len(list.Functions) != 2 || list.Functions[0].Name != "a" || list.Functions[0].Status.Ready != 1 || list.Functions[1].URL != "/invoke/b" {
		t.Errorf("list = %+v, want a with its status and b", list)
	}
	one := decode[api.Function](t, f.call(t, "GET", "/v1/functions/a", ""), 200)
	if diff := cmp.Diff(list.Functions[0], one); diff != "" {
		t.Errorf("one is not as listed (-listed +one):\n%s", diff)
	}
	status := decode[orchestrator.FunctionStatus](t, f.call(t, "GET", "/v1/functions/a/instances", ""), 200)
	if diff := cmp.Diff(one.Status, status); diff != "" {
		t.Errorf("instances (-of the function +own):\n%s", diff)
	}
	if got := f.call(t, "GET", "/v1/functions/b/instances", ""); !strings.Contains(got.body, `"instances":[]`) {
		t.Errorf("no instances are not an empty list: %s", got.body)
	}
	if got := f.call(t, "GET", "/v1/functions/zzz", "").problem(t); got.Code != "function-unknown" || got.Status != 404 {
		t.Errorf("unknown function: %+v, want 404", got)
	}
	if list := decode[api.FunctionList](t, newFixture(t).call(t, "GET", "/v1/functions", ""), 200); list.Functions == nil {
		t.Error("no functions are not an empty list")
	}
}

func TestConfigure(t *testing.T) {
	f := newFixture(t, "a")
	for _, media := range []string{api.MediaPatch, "application/json; charset=utf-8", api.MediaYAML} {
		got := decode[api.Deployment](t, f.call(t, "PATCH", "/v1/functions/a", `{"scale":{"min":2}}`, "Content-Type", media), 200)
		if got.Function.Spec.Scale.Min != 2 || got.Function.Spec.Scale.Max != orchestrator.DefaultMax || got.Revision.ID != got.Function.Live {
			t.Errorf("%s: spec = %+v, want min 2 and the rest as it was", media, got.Function.Spec)
		}
	}
	for _, media := range []string{"text/plain", ""} {
		if got := f.call(t, "PATCH", "/v1/functions/a", `{}`, "Content-Type", media); got.problem(t).Code != "media-type-unsupported" || got.status != 415 {
			t.Errorf("Content-Type %q: %d %s, want 415", media, got.status, got.body)
		}
	}
	if got := f.call(t, "PATCH", "/v1/functions/a", strings.Repeat(" ", gateway.MaxSpec+1), "Content-Type", "application/json"); got.status != 413 {
		t.Errorf("a body over the limit: %d, want 413", got.status)
	}
	if got := f.call(t, "PATCH", "/v1/functions/a", `{"scale":{"min":true}}`, "Content-Type", "application/json"); got.status != 422 {
		t.Errorf("a wrong type: %d, want 422: %s", got.status, got.body)
	}
}

func TestRemoveDropsItsSeries(t *testing.T) {
	f := newFixture(t, "a")
	f.Metrics.Invocations.Function("a").Observe(200, 0, 0, 1)
	const series = `kiln_invocations_total{code="200",function="a"}`
	if got := f.call(t, "GET", "/metrics", ""); !strings.Contains(got.body, series) || !strings.Contains(got.body, `kiln_instances{function="a",state="ready"} 0`) {
		t.Fatalf("metrics lack the function's series:\n%s", got.body)
	}
	if got := f.call(t, "DELETE", "/v1/functions/a", ""); got.status != 204 || got.body != "" {
		t.Errorf("remove: %d %q, want 204 and nothing", got.status, got.body)
	}
	if got := f.call(t, "GET", "/metrics", ""); strings.Contains(got.body, `function="a"`) {
		t.Errorf("series remain:\n%s", got.body)
	}
	if got := f.call(t, "DELETE", "/v1/functions/a", ""); got.status != 404 {
		t.Errorf("remove again: %d, want 404", got.status)
	}
}

func TestRevisionsAndRollback(t *testing.T) {
	f := newFixture(t, "a", "a")
	list := decode[api.RevisionList](t, f.call(t, "GET", "/v1/functions/a/revisions", ""), 200)
	if len(list.Revisions) != 2 || !list.Revisions[0].Live || list.Revisions[1].Live {
		t.Fatalf("revisions = %+v, want two, the first live", list)
	}
	back := decode[api.Deployment](t, f.call(t, "POST", "/v1/functions/a/rollback", ""), 200)
	if back.Revision.Number != 1 || back.Function.Live != list.Revisions[1].ID {
		t.Errorf("rollback = %+v, want revision 1", back)
	}
	forth := decode[api.Deployment](t, f.call(t, "POST", "/v1/functions/a/rollback", `{"revision":"r2-abc123"}`, "Content-Type", "application/json"), 200)
	if forth.Function.Live != "r2-abc123" {
		t.Errorf("rollback to r2 = %+v", forth)
	}
	refused := map[string]struct {
		body, media string
		status      int
	}{
		"unknown revision": {`{"revision":"r9"}`, "application/json", 404},
		"unknown field":    {`{"revison":"r1"}`, "application/json", 400},
		"no JSON":          {`r1`, "application/json", 400},
		"two documents":    {`{} {}`, "application/json", 400},
		"other media":      {`{}`, "text/plain", 415},
		"too long":         {`{"revision":"` + strings.Repeat("1", 5000) + `"}`, "application/json", 413},
	}
	for what, tt := range refused {
		if got := f.call(t, "POST", "/v1/functions/a/rollback", tt.body, "Content-Type", tt.media); got.status != tt.status {
			t.Errorf("%s: %d, want %d: %s", what, got.status, tt.status, got.body)
		}
	}
}

func TestTemplates(t *testing.T) {
	f := newFixture(t)
	list := decode[api.TemplateList](t, f.call(t, "GET", "/v1/templates", ""), 200)
	if diff := cmp.Diff([]orchestrator.Template{python}, list.Templates); diff != "" {
		t.Errorf("templates (-want +got):\n%s", diff)
	}
	decode[orchestrator.Template](t, f.call(t, "GET", "/v1/templates/python", ""), 200)
	if got := f.call(t, "GET", "/v1/templates/cobol", ""); got.status != 404 {
		t.Errorf("unknown template: %d, want 404", got.status)
	}

	got := f.call(t, "GET", "/v1/templates/python/scaffold?name=resize", "")
	if disposition := got.header.Get("Content-Disposition"); got.status != 200 || disposition != `attachment; filename="resize.tar.gz"` {
		t.Fatalf("scaffold: %d, Content-Disposition %q", got.status, disposition)
	}
	files := untar(t, got.body)
	if files["function.yaml"] != "0644 name: resize\n" || files["bin/run"] != "0755 #!/bin/sh\n" {
		t.Errorf("scaffold has %q", files)
	}
	for query, status := range map[string]int{"?name=Bad_Name": 422, "?nam=a": 400, "?name=a&name=b": 400, "": 200} {
		if got := f.call(t, "GET", "/v1/templates/python/scaffold"+query, ""); got.status != status {
			t.Errorf("scaffold%s: %d, want %d", query, got.status, status)
		}
	}
}

// untar returns the files of a tar.gz with mode and content.
func untar(t *testing.T, packed string) map[string]string {
	t.Helper()
	plain, err := gzip.NewReader(strings.NewReader(packed))
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for archive := tar.NewReader(plain); ; {
		header, err := archive.Next()
		if err == io.EOF {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(archive)
		if err != nil {
			t.Fatal(err)
		}
		if header.Typeflag == tar.TypeReg {
			files[header.Name] = "0" + octal(header.Mode) + " " + string(content)
		}
	}
}

func octal(mode int64) string {
	const digits = "01234567"
	return string([]byte{digits[mode>>6&7], digits[mode>>3&7], digits[mode&7]})
}

func TestSystem(t *testing.T) {
	f := newFixture(t)
	decode[api.Health](t, f.call(t, "GET", "/healthz", ""), 200)
	if got := decode[api.Version](t, f.call(t, "GET", "/v1/version", ""), 200); got.Version != "1.2.3" {
		t.Errorf("version = %+v", got)
	}
	if got := f.call(t, "GET", "/openapi.yaml", ""); got.status != 200 || got.body != string(docs.OpenAPI) {
		t.Errorf("openapi.yaml: %d, %d bytes", got.status, len(got.body))
	}
	if got := f.call(t, "HEAD", "/v1/version", ""); got.status != 200 {
		t.Errorf("HEAD: %d", got.status)
	}
}

func TestReady(t *testing.T) {
	f := newFixture(t)
	var failure error
	f.Checks = []gateway.Check{
		{Name: "store", Ready: func(context.Context) error { return nil }},
		{Name: "engine", Ready: func(ctx context.Context) error {
			if _, ok := ctx.Deadline(); !ok {
				t.Error("the check has no deadline")
			}
			return failure
		}},
	}
	if got := decode[api.Readiness](t, f.call(t, "GET", "/readyz", ""), 200); got.Status != "ready" || len(got.Checks) != 2 {
		t.Errorf("ready = %+v", got)
	}
	failure = orchestrator.Errorf(orchestrator.ErrUnavailable, "engine-unreachable", "%w", errors.New("dial /var/run/docker.sock")).WithHint("start Docker")
	got := f.call(t, "GET", "/readyz", "")
	document := got.problem(t)
	if got.status != 503 || document.Detail != "not ready: engine" || document.Hint != "start Docker" || got.header.Get("Retry-After") != "2" {
		t.Errorf("not ready = %d %+v", got.status, document)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if got := f.call(t, "GET", "/readyz", ""); got.problem(t).Code != "stopping" {
		t.Errorf("stopping: %s", got.body)
	}
}

// BenchmarkListFunctions lists 200 functions with an instance each.
func BenchmarkListFunctions(b *testing.B) {
	var names []string
	for n := range 200 {
		names = append(names, fmt.Sprintf("function-%03d", n))
	}
	f := newFixture(b, names...)
	for _, name := range names {
		f.functions.status[name] = orchestrator.FunctionStatus{Ready: 1, Instances: []orchestrator.InstanceStatus{{ID: strings.Repeat("c", 64), State: "ready"}}}
	}
	handler := f.Handler()
	b.ReportAllocs()
	for b.Loop() {
		recorder := httptest.NewRecorder()
		handler.ServeHTTP(recorder, httptest.NewRequest("GET", "/v1/functions", nil))
		if recorder.Code != 200 {
			b.Fatal(recorder.Body)
		}
	}
}
