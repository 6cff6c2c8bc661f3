package gateway_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kilnfaas/kiln/gateway"
	"github.com/kilnfaas/kiln/gateway/api"
	"github.com/kilnfaas/kiln/gateway/problem"
	"github.com/kilnfaas/kiln/orchestrator"
)

// part is a part of a form; with a filename it is a file.
type part struct{ name, filename, content string }

// formOf returns a form and its Content-Type.
func formOf(t testing.TB, parts ...part) (body, media string) {
	t.Helper()
	var out bytes.Buffer
	w := multipart.NewWriter(&out)
	for _, p := range parts {
		create := func() (io.Writer, error) { return w.CreateFormField(p.name) }
		if p.filename != "" {
			create = func() (io.Writer, error) { return w.CreateFormFile(p.name, p.filename) }
		}
		field, err := create()
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(field, p.content)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.String(), w.FormDataContentType()
}

func TestPutDeploysARawArchive(t *testing.T) {
	f := newFixture(t)
	for _, media := range []string{"", "application/octet-stream", "application/zip", "application/x-www-form-urlencoded"} {
		got := f.call(t, "PUT", "/v1/functions/new"+strings.Repeat("x", len(media)), "the archive", "Content-Type", media)
		deployed := decode[api.Deployment](t, got, 201)
		if !deployed.Created || got.header.Get("Location") != "/v1/functions/"+deployed.Function.Name || f.intake.body != "the archive" {
			t.Errorf("%q: %+v, Location %q, body %q", media, deployed, got.header.Get("Location"), f.intake.body)
		}
		if deployed.Function.Spec.Name != deployed.Function.Name {
			t.Errorf("name = %q, want the path's to win over function.yaml", deployed.Function.Name)
		}
	}
	f = newFixture(t, "a")
	if got := decode[api.Deployment](t, f.call(t, "PUT", "/v1/functions/a", "x"), 200); got.Created || got.Revision.Number != 2 {
		t.Errorf("update = %+v, want revision 2, not created", got)
	}
}

func TestPutDeploysAForm(t *testing.T) {
	spec := `{"name":"of-the-spec","scale":{"max":3}}`
	for _, parts := range [][]part{
		{{"archive", "a.tgz", "the archive"}, {"spec", "", spec}},
		{{"spec", "", spec}, {"archive", "a.tgz", "the archive"}},
	} {
		body, media := formOf(t, parts...)
		f := newFixture(t)
		got := decode[api.Deployment](t, f.call(t, "PUT", "/v1/functions/of-the-path", body, "Content-Type", media), 201)
		if got.Function.Name != "of-the-path" || got.Function.Spec.Scale.Max != 3 || f.intake.body != "the archive" || f.intake.filename != "a.tgz" {
			t.Errorf("deployed %+v from %q named %q", got.Function.Spec, f.intake.body, f.intake.filename)
		}
	}
}

func TestUpload(t *testing.T) {
	f := newFixture(t)
	body, media := formOf(t, part{"file", "handler.py", "def handle(r): ..."}, part{"name", "", "hello"}, part{"template", "", "node"}, part{"spec", "", `{"timeout":"5s","name":"x"}`})
	got := decode[api.Deployment](t, f.call(t, "POST", "/upload", body, "Content-Type", media), 201)
	spec := got.Function.Spec
	if spec.Name != "hello" || spec.Template != "node" || spec.Timeout.String() != "5s" || f.intake.filename != "handler.py" {
		t.Errorf("spec = %+v of %q; want the form's name and template over those of spec", spec, f.intake.filename)
	}
	body, media = formOf(t, part{"file", "a.zip", "PK"})
	if got := decode[api.Deployment](t, f.call(t, "POST", "/upload", body, "Content-Type", media), 201); got.Function.Name != "of-the-manifest" {
		t.Errorf("name = %q, want the one of function.yaml", got.Function.Name)
	}
}

func TestLargeUploadsLeaveNoFile(t *testing.T) {
	f := newFixture(t)
	content := strings.Repeat("0123456789abcdef", gateway.SpoolMemory/16+1000)
	body, media := formOf(t, part{"archive", "a", content}, part{"spec", "", "{}"})
	decode[api.Deployment](t, f.call(t, "PUT", "/v1/functions/a", body, "Content-Type", media), 201)
	if f.intake.body != content {
		t.Errorf("the archive has %d bytes, want the %d that were sent", len(f.intake.body), len(content))
	}
	if left, err := os.ReadDir(f.SpoolDir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	f.SpoolDir += "/missing"
	if got := f.call(t, "PUT", "/v1/functions/a", body, "Content-Type", media); got.status != 500 {
		t.Errorf("a spool that cannot be made: %d, want 500: %s", got.status, got.body)
	}
}

func TestRefusedUploads(t *testing.T) {
	form := func(parts ...part) [2]string {
		body, media := formOf(t, parts...)
		return [2]string{body, media}
	}
	good, media := formOf(t, part{"file", "f", "x"})
	tests := map[string]struct {
		form   [2]string
		status int
		code   string
	}{
		"no file":              {form(part{"name", "", "a"}), 400, "field-missing"},
		"unknown field":        {form(part{"file", "f", "x"}, part{"tempalte", "", "go"}), 400, "field-unknown"},
		"field of the other":   {form(part{"archive", "f", "x"}), 400, "field-unknown"},
		"two files":            {form(part{"file", "f", "x"}, part{"file", "g", "y"}), 400, "field-duplicate"},
		"two names":            {form(part{"file", "f", "x"}, part{"name", "", "a"}, part{"name", "", "b"}), 400, "field-duplicate"},
		"name without an end":  {form(part{"file", "f", "x"}, part{"name", "", strings.Repeat("a", gateway.MaxField+1)}), 413, "field-too-large"},
		"spec without an end":  {form(part{"spec", "", strings.Repeat("a", gateway.MaxSpec+1)}), 413, "field-too-large"},
		"body over all limits": {form(part{"file", "f", strings.Repeat("a", 3<<20)}), 413, "request-too-large"},
		"cut off":              {[2]string{good[:len(good)-10], media}, 400, "request-malformed"},
		"empty":                {[2]string{"", media}, 400, "request-malformed"},
		"no boundary":          {[2]string{good, "multipart/form-data"}, 400, "request-malformed"},
		"other boundary":       {[2]string{good, "multipart/form-data; boundary=zzz"}, 400, "request-malformed"},
		"no form":              {[2]string{good, "application/zip"}, 415, "media-type-unsupported"},
		"no Content-Type":      {[2]string{good, ""}, 415, "media-type-unsupported"},
		"bad Content-Type":     {[2]string{good, "multipart/form-data; boundary"}, 400, "request-malformed"},
		"nameless part":        {form(part{"", "f", "x"}), 400, "field-unknown"},
		"cut off in a header":  {[2]string{good[:len(good)-4-len(boundaryOf(good))] + boundaryOf(good) + "\r\nContent-Disposition: form-data; name=\"spec\"\r\nX", media}, 400, "request-malformed"},
		"header without end":   {[2]string{"--b\r\nContent-Disposition: form-data; name=\"" + strings.Repeat("a", 1<<20), "multipart/form-data; boundary=b"}, 400, "request-malformed"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.MaxArchive = 1 << 10
			f.functions.deploy = func(context.Context, orchestrator.Deploy, func(orchestrator.BuildEvent)) error {
				t.Error("a refused upload was deployed")
				return nil
			}
			got := f.call(t, "POST", "/upload", tt.form[0], "Content-Type", tt.form[1])
			if document := got.problem(t); got.status != tt.status || document.Code != tt.code {
				t.Errorf("answer = %d %s (%s), want %d %s", got.status, document.Code, document.Detail, tt.status, tt.code)
			}
		})
	}
}

func TestRefusedDeploys(t *testing.T) {
	f := newFixture(t)
	f.MaxArchive = 1 << 10
	body, media := formOf(t, part{"archive", "a", "x"}, part{"name", "", "b"})
	tests := map[string]struct {
		path, body, media, accept string
		status                    int
		code                      string
	}{
		"bad name":            {"/v1/functions/Bad_Name", "x", "", "", 422, "name-invalid"},
		"JSON for an archive": {"/v1/functions/a", "{}", "application/json", "", 415, "media-type-unsupported"},
		"a name in the form":  {"/v1/functions/a", body, media, "", 400, "field-unknown"},
		"raw over the limit":  {"/v1/functions/a", strings.Repeat("a", 3<<20), "", "", 413, "request-too-large"},
		"nothing acceptable":  {"/v1/functions/a", "x", "", "text/html", 406, "not-acceptable"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got := f.call(t, "PUT", tt.path, tt.body, "Content-Type", tt.media, "Accept", tt.accept)
			if document := got.problem(t); got.status != tt.status || document.Code != tt.code {
				t.Errorf("answer = %d %s (%s), want %d %s", got.status, document.Code, document.Detail, tt.status, tt.code)
			}
		})
	}
}

// boundaryOf returns the boundary of a form with its leading dashes.
func boundaryOf(form string) string {
	line, _, _ := strings.Cut(form, "\r\n")
	return line
}

// eventsOf decodes a stream.
func eventsOf(t *testing.T, got reply) (events []api.Event) {
	t.Helper()
	if media := got.header.Get("Content-Type"); got.status != 200 || media != api.MediaNDJSON {
		t.Fatalf("answer = %d %s, want a stream: %s", got.status, media, got.body)
	}
	for line := range strings.Lines(got.body) {
		var e api.Event
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("line %q: %v", line, err)
		}
		events = append(events, e)
	}
	return events
}

func TestDeployStream(t *testing.T) {
	f := newFixture(t)
	f.functions.deploy = func(_ context.Context, _ orchestrator.Deploy, progress func(orchestrator.BuildEvent)) error {
		progress(orchestrator.BuildEvent{Kind: orchestrator.BuildStep, Time: fakeTime, Step: "1", Name: "[1/2] FROM", State: orchestrator.StepCached})
		progress(orchestrator.BuildEvent{Kind: orchestrator.BuildLog, Time: fakeTime, Step: "1", Line: "hello"})
		return nil
	}
	events := eventsOf(t, f.call(t, "PUT", "/v1/functions/a", "x", "Accept", api.MediaNDJSON))
	var kinds []api.EventKind
	for _, e := range events {
		kinds = append(kinds, e.Kind)
	}
	if diff := cmp.Diff([]api.EventKind{"step", "log", "step", "result"}, kinds); diff != "" {
		t.Fatalf("kinds (-want +got):\n%s", diff)
	}
	last := events[3]
	if last.Deployment == nil || !last.Deployment.Created || last.Deployment.Function.Name != "a" || last.Time.IsZero() {
		t.Errorf("result = %+v", last)
	}
	if events[1].Line != "hello" || events[0].State != orchestrator.StepCached || events[2].Duration.String() != "1s" {
		t.Errorf("events lost something: %+v", events)
	}
}

func TestDeployStreamEndsWithTheProblem(t *testing.T) {
	f := newFixture(t)
	f.functions.fail(&orchestrator.Error{Class: orchestrator.ErrFunction, Code: "build-failed", Detail: "no", Output: []string{"SyntaxError"}})
	got := f.call(t, "PUT", "/v1/functions/a", "x", "Accept", api.MediaNDJSON)
	events := eventsOf(t, got)
	last := events[len(events)-1]
	if last.Kind != api.EventError || last.Problem == nil {
		t.Fatalf("last = %+v, want an error", last)
	}
	want := &api.Error{
		Type: "urn:kiln:error:build-failed", Title: "Unprocessable Content", Status: 422, Detail: "no", Code: "build-failed",
		Instance: "urn:kiln:request:" + got.header.Get("Kiln-Request-Id"), RequestID: got.header.Get("Kiln-Request-Id"),
		Output: []string{"SyntaxError"}, Fault: "function",
	}
	if diff := cmp.Diff(want, last.Problem); diff != "" {
		t.Errorf("problem (-want +got):\n%s", diff)
	}
}

// TestProblemsOfAnUploadAreStatuses: before the deploy begins, errors are
// answers, whatever the client accepts.
func TestProblemsOfAnUploadAreStatuses(t *testing.T) {
	f := newFixture(t)
	f.intake.err = orchestrator.Errorf(orchestrator.ErrInvalid, "archive-path-escapes", "../x")
	got := f.call(t, "PUT", "/v1/functions/a", "x", "Accept", api.MediaNDJSON)
	if got.status != 422 || got.problem(t).Code != "archive-path-escapes" {
		t.Errorf("answer = %d %s, want 422", got.status, got.body)
	}
}

// TestStreamIsLive: an event is with the client while the deploy goes on, and a
// client that leaves does not end it.
func TestStreamIsLive(t *testing.T) {
	f := newFixture(t)
	proceed, left, done := make(chan struct{}), make(chan struct{}), make(chan struct{})
	f.functions.deploy = func(ctx context.Context, d orchestrator.Deploy, progress func(orchestrator.BuildEvent)) error {
		progress(orchestrator.BuildEvent{Kind: orchestrator.BuildLog, Time: fakeTime, Line: "first"})
		<-proceed
		<-ctx.Done() // as Service does: it returns, and the deploy goes on
		close(left)
		go func() {
			defer close(done)
			f.functions.mu.Lock()
			defer f.functions.mu.Unlock()
			f.functions.put(d)
		}()
		return context.Cause(ctx)
	}
	server := httptest.NewServer(f.Handler())
	defer server.Close()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	client := &api.Client{BaseURL: server.URL, HTTP: server.Client()}
	_, err := client.Deploy(ctx, api.Deploy{Name: "a", Archive: strings.NewReader("x")}, func(e api.Event) {
		if e.Line != "first" {
			t.Errorf("event = %+v, want the first line", e)
		}
		close(proceed) // the deploy is still under way
		cancel()
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Deploy = %v, want the context's error", err)
	}
	<-left
	<-done
	if got := f.call(t, "GET", "/v1/functions/a", ""); got.status != 200 {
		t.Errorf("the deploy did not go on: %d", got.status)
	}
}

// stalled is a writer that takes nothing until told.
type stalled struct {
	*httptest.ResponseRecorder
	release chan struct{}
}

func (s *stalled) Write(p []byte) (int, error) {
	<-s.release
	return s.ResponseRecorder.Write(p)
}

func (s *stalled) FlushError() error { return nil }

// TestSlowReaderDoesNotSlowTheDeploy: thousands of lines go by while the client
// takes nothing; it gets what there was room for, is told how many are missing,
// and still gets the result.
func TestSlowReaderDoesNotSlowTheDeploy(t *testing.T) {
	const lines = 5000
	f := newFixture(t)
	client := &stalled{httptest.NewRecorder(), make(chan struct{})}
	f.functions.deploy = func(_ context.Context, _ orchestrator.Deploy, progress func(orchestrator.BuildEvent)) error {
		for n := range lines {
			progress(orchestrator.BuildEvent{Kind: orchestrator.BuildLog, Time: fakeTime, Line: fmt.Sprint(n)})
		}
		close(client.release) // reached although nothing was read
		return nil
	}
	request := httptest.NewRequest("PUT", "/v1/functions/a", strings.NewReader("x"))
	request.Header.Set("Accept", api.MediaNDJSON)
	f.Handler().ServeHTTP(client, request)
	events := eventsOf(t, reply{client.Code, client.Header(), client.Body.String()})
	if last := events[len(events)-1]; last.Kind != api.EventResult || last.Deployment == nil {
		t.Errorf("last = %+v, want the result", last)
	}
	if len(events) >= lines || events[0].Line != "0" {
		t.Errorf("got %d events beginning with %+v; want the first ones, and not all", len(events), events[0])
	}
}

// FuzzUploadForm: whatever a form is, never a panic, nothing left behind, an
// error that blames the form, and of what is accepted each field once, whole, and
// within its bound.
func FuzzUploadForm(f *testing.F) {
	for _, parts := range [][]part{
		{{"file", "handler.py", "def handle(): pass"}, {"name", "", "a"}, {"template", "", "python"}},
		{{"spec", "", "{}"}, {"file", "a.zip", "PK\x03\x04"}},
		{{"file", "", ""}},
		{{"file", "a", "x"}, {"file", "b", "y"}},
		{{"file", "a", "x"}, {"name", "", "a"}, {"name", "", "b"}},
		{{"file", "a", "x"}, {"name", "", strings.Repeat("a", gateway.MaxField+1)}},
		{{"file", "a", "x"}, {"spec", "", strings.Repeat("#", gateway.MaxSpec+1)}},
		{{"file", "a", "x"}, {"other", "", ""}},
		{{"name", "", "a"}},
		{{"file", "a", strings.Repeat("x", gateway.SpoolMemory+1)}},
	} {
		body, _ := formOf(f, parts...)
		f.Add([]byte(body), strings.TrimPrefix(boundaryOf(body), "--"))
	}
	f.Add([]byte("--b\r\nContent-Disposition: form-data; name=file\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n=3D=\r\n--b--"), "b")
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, body []byte, boundary string) {
		values, file, err := gateway.UploadForm(bytes.NewReader(body), boundary, dir)
		if left, readErr := os.ReadDir(dir); readErr != nil || len(left) > 0 {
			t.Errorf("left behind: %v, %v", left, readErr)
		}
		if err != nil {
			if status := problem.Status(err); status != 400 && status != 413 {
				t.Errorf("%v is a %d", err, status)
			}
			return
		}
		seen := map[string]string{}
		for parts := multipart.NewReader(bytes.NewReader(body), boundary); ; {
			p, err := parts.NextPart()
			if err != nil {
				break // its end
			}
			content, err := io.ReadAll(p)
			if _, again := seen[p.FormName()]; again || err != nil {
				t.Errorf("the field %q was taken twice, or cut off: %v", p.FormName(), err)
			}
			seen[p.FormName()] = string(content)
		}
		got := map[string]string{"file": string(file)}
		for name, value := range values {
			got[name] = string(value)
		}
		if diff := cmp.Diff(seen, got); diff != "" {
			t.Errorf("fields (-in the form +taken):\n%s", diff)
		}
		for name, value := range got {
			bound, known := map[string]int{"file": len(body), "name": gateway.MaxField, "template": gateway.MaxField, "spec": gateway.MaxSpec}[name]
			if !known || len(value) > bound {
				t.Errorf("the field %q of %d bytes was taken", name, len(value))
			}
		}
	})
}
