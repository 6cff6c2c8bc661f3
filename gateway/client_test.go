package gateway_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kilnfaas/kiln/gateway"
	"github.com/kilnfaas/kiln/gateway/api"
	"github.com/kilnfaas/kiln/orchestrator"
)

// TestClient takes the client and the gateway through the life of a function.
func TestClient(t *testing.T) {
	f := newFixture(t)
	f.functions.lines = logLines()
	f.Invoke = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.WriteHeader(http.StatusTeapot)
		io.WriteString(w, strings.Join([]string{r.Method, r.URL.RequestURI(), r.Host, r.Header.Get("X-Test"), string(body)}, " "))
	})
	c := serve(t, f)
	ctx := context.Background()
	check := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}

	check("ready", c.Ready(ctx))
	version, err := c.Version(ctx)
	check("version", err)
	if version.Version != "1.2.3" {
		t.Errorf("version = %+v", version)
	}
	templates, err := c.Templates(ctx)
	check("templates", err)
	if diff := cmp.Diff([]orchestrator.Template{python}, templates); diff != "" {
		t.Errorf("templates (-want +got):\n%s", diff)
	}
	scaffold, err := c.Scaffold(ctx, "python", "resize")
	check("scaffold", err)
	packed, err := io.ReadAll(scaffold)
	scaffold.Close()
	check("read the scaffold", err)
	if files := untar(t, string(packed)); files["function.yaml"] != "0644 name: resize\n" {
		t.Errorf("scaffold = %q", files)
	}

	var events []api.Event
	collect := func(e api.Event) { events = append(events, e) }
	large := strings.Repeat("0123456789", gateway.SpoolMemory/5)
	deployment, err := c.Deploy(ctx, api.Deploy{Name: "a", Archive: strings.NewReader(large), Spec: []byte("scale: {max: 4}")}, collect)
	check("deploy", err)
	if !deployment.Created || deployment.Function.Spec.Scale.Max != 4 || f.intake.body != large || len(events) != 1 || events[0].Kind != api.EventStep {
		t.Errorf("deploy = %+v with events %+v", deployment, events)
	}
	deployment, err = c.Upload(ctx, api.Upload{Name: "a", Template: "node", Filename: "handler.js", File: strings.NewReader("js")}, nil)
	check("upload", err)
	if deployment.Created || deployment.Function.Spec.Template != "node" || f.intake.filename != "handler.js" {
		t.Errorf("upload = %+v of %q", deployment, f.intake.filename)
	}
	deployment, err = c.Configure(ctx, "a", map[string]any{"template": "python", "scale": map[string]any{"min": 1}})
	check("configure", err)
	if deployment.Function.Spec.Scale.Min != 1 {
		t.Errorf("configure = %+v", deployment.Function.Spec)
	}
	revisions, err := c.Revisions(ctx, "a")
	check("revisions", err)
	if len(revisions) != 3 || !revisions[0].Live {
		t.Errorf("revisions = %+v", revisions)
	}
	deployment, err = c.Rollback(ctx, "a", revisions[2].ID)
	check("rollback", err)
	if deployment.Function.Live != revisions[2].ID {
		t.Errorf("rollback = %+v", deployment)
	}
	function, err := c.Function(ctx, "a")
	check("function", err)
	functions, err := c.Functions(ctx)
	check("functions", err)
	if diff := cmp.Diff([]api.Function{function}, functions); diff != "" {
		t.Errorf("functions (-one +list):\n%s", diff)
	}
	if _, err := c.Instances(ctx, "a"); err != nil {
		t.Errorf("instances: %v", err)
	}
	var lines []api.LogLine
	for line, err := range c.Logs(ctx, "a", api.LogOptions{Tail: -1, Follow: true, Since: fakeTime}) {
		check("logs", err)
		lines = append(lines, line)
	}
	if len(lines) != 2 || lines[1].Stream != api.Stderr || lines[1].Text != "oops ü" || lines[0].Instance != "0123456789abcdef" {
		t.Errorf("logs = %+v", lines)
	}
	response, err := c.Invoke(ctx, api.Invocation{Function: "a", Path: "x?y=1", Header: http.Header{"x-test": {"h"}, "Host": {"my.host"}}, Body: strings.NewReader("b")})
	check("invoke", err)
	if body, err := readAll(response); err != nil || response.StatusCode != 418 || body != "POST /invoke/a/x?y=1 my.host h b" {
		t.Errorf("invoke = %d %q, %v", response.StatusCode, body, err)
	}
	check("remove", c.Remove(ctx, "a"))
	if err := c.Remove(ctx, "a"); !errors.Is(err, orchestrator.ErrNotFound) {
		t.Errorf("remove again = %v, want not found", err)
	}
}

// TestClientErrors: what the gateway refuses arrives with all it said.
func TestClientErrors(t *testing.T) {
	f := newFixture(t, "a")
	c := serve(t, f)
	ctx := context.Background()
	for _, class := range []error{
		orchestrator.ErrNotFound, orchestrator.ErrConflict, orchestrator.ErrInvalid, orchestrator.ErrTooLarge,
		orchestrator.ErrUnavailable, orchestrator.ErrExhausted, orchestrator.ErrDeadline, orchestrator.ErrFunction,
	} {
		f.functions.fail(&orchestrator.Error{Class: class, Code: "some-code", Detail: "detail", Hint: "hint", Output: []string{"line"}})
		_, streamed := c.Deploy(ctx, api.Deploy{Name: "a", Archive: strings.NewReader("x")}, nil)
		_, plain := c.Configure(ctx, "a", map[string]any{})
		for _, err := range []error{streamed, plain} {
			var problem *api.Error
			if !errors.Is(err, class) || !errors.As(err, &problem) {
				t.Errorf("%v arrives as %v", class, err)
				continue
			}
			if problem.Code != "some-code" || problem.Error() != "detail" || problem.Hint != "hint" || len(problem.Output) != 1 || problem.RequestID == "" {
				t.Errorf("%v arrives as %+v", class, problem)
			}
		}
	}
}

// failing is a reader that fails after some bytes.
type failing struct{ rest io.Reader }

var errArchive = errors.New("cannot read the folder")

func (f failing) Read(p []byte) (int, error) {
	n, err := f.rest.Read(p)
	if err == io.EOF {
		err = errArchive
	}
	return n, err
}

// TestClientTellsItsOwnErrors: an archive that cannot be read is not deployed by
// half, and the error is the reader's.
func TestClientTellsItsOwnErrors(t *testing.T) {
	f := newFixture(t)
	c := serve(t, f)
	_, err := c.Deploy(context.Background(), api.Deploy{Name: "a", Archive: failing{strings.NewReader("half")}}, nil)
	if !errors.Is(err, errArchive) {
		t.Errorf("Deploy = %v, want the reader's error", err)
	}
	if got := f.call(t, "GET", "/v1/functions/a", ""); got.status != 404 {
		t.Errorf("half an archive was deployed: %d", got.status)
	}
}

// TestClientOfAnEarlyRefusal gets the answer although it has more to send.
func TestClientOfAnEarlyRefusal(t *testing.T) {
	f := newFixture(t)
	c := serve(t, f)
	archive := io.LimitReader(zeros{}, 8<<20)
	_, err := c.Deploy(context.Background(), api.Deploy{Name: "Bad_Name", Archive: archive}, nil)
	var problem *api.Error
	if !errors.As(err, &problem) || problem.Code != "name-invalid" {
		t.Errorf("Deploy = %v, want name-invalid", err)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return copy(p, bytes.Repeat([]byte{0}, len(p))), nil }
