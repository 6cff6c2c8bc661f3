package main_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/kilnfaas/kiln/gateway/api"
	"github.com/kilnfaas/kiln/orchestrator"
)

// stubToken is what the stub wants for the function "guarded".
const stubToken = "kiln_s3cret"

// stubGateway answers like a gateway with two functions, hello and crashy, that
// never change, so that the command line is tested without an engine.
func stubGateway() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) { answer(w, api.Readiness{Status: "ready"}) })
	mux.HandleFunc("GET /v1/version", func(w http.ResponseWriter, _ *http.Request) { answer(w, api.Version{Version: "v9", Go: "go1.26"}) })
	mux.HandleFunc("GET /v1/functions", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, api.FunctionList{Functions: []api.Function{stubFunction("crashy"), stubFunction("hello")}})
	})
	mux.HandleFunc("GET /v1/functions/{name}", func(w http.ResponseWriter, r *http.Request) {
		if known(w, r) {
			answer(w, stubFunction(r.PathValue("name")))
		}
	})
	mux.HandleFunc("PATCH /v1/functions/{name}", stubConfigure)
	mux.HandleFunc("DELETE /v1/functions/{name}", func(w http.ResponseWriter, r *http.Request) {
		if known(w, r) {
			w.WriteHeader(http.StatusNoContent)
		}
	})
	mux.HandleFunc("PUT /v1/functions/{name}", stubDeploy)
	mux.HandleFunc("POST /upload", stubUpload)
	mux.HandleFunc("GET /v1/functions/{name}/revisions", func(w http.ResponseWriter, r *http.Request) {
		failed := orchestrator.Revision{ID: "r2-bbbbbb", Number: 2, Status: orchestrator.RevisionFailed, Error: "the build failed\nwith details", CreatedAt: time.Now().Add(-time.Hour)}
		live := orchestrator.Revision{ID: "r1-aaaaaa", Number: 1, Status: orchestrator.RevisionReady, CreatedAt: time.Now().Add(-3 * time.Hour)}
		answer(w, api.RevisionList{Revisions: []api.Revision{{Revision: failed}, {Revision: live, Live: true}}})
	})
	mux.HandleFunc("POST /v1/functions/{name}/rollback", func(w http.ResponseWriter, r *http.Request) {
		var body api.Rollback
		if json.NewDecoder(r.Body).Decode(&body) != nil || body.Revision == "9" {
			problem(w, http.StatusNotFound, "revision-unknown", `function "hello" has no revision "9"`, "kiln revisions hello shows what there is")
			return
		}
		answer(w, api.Deployment{Function: stubFunction("hello"), Revision: orchestrator.Revision{ID: "r1-aaaaaa"}})
	})
	mux.HandleFunc("GET /v1/functions/{name}/logs", stubLogs)
	mux.HandleFunc("GET /v1/templates", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, api.TemplateList{Templates: []orchestrator.Template{
			{Name: "go", Description: "Go functions", Handlers: []string{"handler.go"}, Defaults: orchestrator.TemplateDefaults{Concurrency: 64}},
			{Name: "python", Description: "Python functions", Handlers: []string{"handler.py"}},
		}})
	})
	mux.HandleFunc("GET /v1/templates/{name}/scaffold", stubScaffold)
	mux.HandleFunc("GET /v1/tokens", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, api.TokenList{Tokens: []api.Token{
			{ID: "aaaaaaaaaa", Name: "admin", Scopes: []orchestrator.Scope{orchestrator.ScopeAdmin}, LastUsed: time.Now().Add(-3 * time.Hour)},
			{ID: "bbbbbbbbbb", Name: "ci", Scopes: []orchestrator.Scope{orchestrator.ScopeDeploy, orchestrator.ScopeInvoke}, Functions: []string{"team-a-*"},
				Rate: orchestrator.Rate{PerSecond: 2.5}, ExpiresAt: time.Now().Add(-time.Hour)},
		}})
	})
	mux.HandleFunc("POST /v1/tokens", func(w http.ResponseWriter, r *http.Request) {
		var want api.NewToken
		if err := json.NewDecoder(r.Body).Decode(&want); err != nil {
			problem(w, http.StatusBadRequest, "request-malformed", err.Error(), "")
			return
		}
		w.WriteHeader(http.StatusCreated)
		answer(w, api.CreatedToken{Token: api.Token{Name: want.Name, Scopes: want.Scopes, Functions: want.Functions, Rate: want.Rate}, Secret: fmt.Sprint("kiln_for_", time.Duration(want.ExpiresIn))})
	})
	mux.HandleFunc("DELETE /v1/tokens/{name}", func(w http.ResponseWriter, r *http.Request) {
		if r.PathValue("name") != "ci" {
			problem(w, http.StatusNotFound, "token-not-found", "there is no token", "kiln token ls lists those there are")
			return
		}
		w.WriteHeader(http.StatusNoContent)
	})
	stubSecrets(mux)
	stubAsync(mux)
	stubTriggers(mux)
	stubBuckets(mux)
	mux.HandleFunc("/invoke/{name}", stubInvoke)
	mux.HandleFunc("/invoke/{name}/{rest...}", stubInvoke)
	return mux
}

// stubSecrets refuses values other than "value", perhaps with a line's end.
func stubSecrets(mux *http.ServeMux) {
	changed := time.Now().Add(-3 * time.Hour)
	mux.HandleFunc("GET /v1/secrets", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, api.SecretList{Secrets: []api.Secret{
			{Name: "API_KEY", Functions: []string{"shop-*", "mail"}, UpdatedAt: changed, UsedBy: []string{"hello"}},
			{Name: "tls.pem", UpdatedAt: changed, UsedBy: []string{}},
		}})
	})
	mux.HandleFunc("PUT /v1/secrets/{name}", func(w http.ResponseWriter, r *http.Request) {
		value, err := io.ReadAll(r.Body)
		if err != nil || strings.TrimSuffix(string(value), "\n") != "value" {
			problem(w, http.StatusUnprocessableEntity, "secret-empty", fmt.Sprintf("the value came as %q", value), "")
			return
		}
		set := api.ChangedSecret{Secret: api.Secret{Name: r.PathValue("name"), Functions: r.URL.Query()["function"], UsedBy: []string{"hello"}}}
		set.Rolled = []api.RolledFunction{{Function: "hello"}}
		if set.Name == "BROKEN" {
			set.Rolled[0].Error = "it did not start"
		}
		answer(w, set)
	})
	mux.HandleFunc("DELETE /v1/secrets/{name}", func(w http.ResponseWriter, r *http.Request) {
		if r.PathValue("name") == "API_KEY" {
			problem(w, http.StatusConflict, "secret-in-use", "the secret API_KEY is used by hello", "")
			return
		}
		w.WriteHeader(http.StatusNoContent)
	})
}

func stubFunction(name string) api.Function {
	spec := orchestrator.DefaultSpec()
	spec.Name, spec.Template, spec.Env = name, "python", map[string]string{"STAGE": "test"}
	f := api.Function{URL: "/invoke/" + name}
	f.Name, f.Spec, f.Live, f.UpdatedAt = name, spec, "r1-aaaaaa", time.Now().Add(-3*time.Hour)
	started := time.Now().Add(-10 * time.Minute)
	switch name {
	case "hello":
		f.Status = orchestrator.FunctionStatus{Ready: 1, Frozen: 1, InFlight: 3, Wake: "image", Instances: []orchestrator.InstanceStatus{
			{ID: "0123456789abcdef0123", Revision: "r1-aaaaaa", State: "ready", InFlight: 3, StartedAt: started, LastUsed: time.Now(), Origin: "image"},
			{ID: "fedcba9876543210ffff", Revision: "r1-aaaaaa", State: "frozen", StartedAt: started, Origin: "adopted"},
		}}
	case "crashy":
		f.Status.CrashLoop = &orchestrator.CrashLoop{Failures: 4, NextStart: time.Now().Add(45 * time.Second), LastError: "it ended with 3\nboom"}
	}
	return f
}

func answer(w http.ResponseWriter, value any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(value) // a client that went away fails its test itself
}

func problem(w http.ResponseWriter, status int, code, detail, hint string) {
	w.Header().Set("Content-Type", api.MediaProblem)
	w.Header().Set(api.HeaderError, api.FaultPlatform)
	w.Header().Set(api.HeaderRequestID, "req-1")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(api.Error{Type: api.TypePrefix + code, Status: status, Code: code, Detail: detail, Hint: hint})
}

func known(w http.ResponseWriter, r *http.Request) bool {
	switch name := r.PathValue("name"); name {
	case "hello", "crashy":
		return true
	default:
		problem(w, http.StatusNotFound, "function-unknown", fmt.Sprintf("there is no function %q", name), "kiln ls shows those that are deployed")
		return false
	}
}

// stubConfigure applies the part of a patch that scripts look at.
func stubConfigure(w http.ResponseWriter, r *http.Request) {
	if !known(w, r) {
		return
	}
	f := stubFunction(r.PathValue("name"))
	if err := json.NewDecoder(r.Body).Decode(&f.Spec); err != nil {
		problem(w, http.StatusBadRequest, "patch-invalid", err.Error(), "")
		return
	}
	answer(w, api.Deployment{Function: f})
}

// stubDeploy answers with what it got as the names of steps; the function
// "broken" fails with more lines of output than are shown.
func stubDeploy(w http.ResponseWriter, r *http.Request) {
	file, _, err := r.FormFile(api.FieldArchive)
	if err != nil {
		problem(w, http.StatusBadRequest, "form-invalid", err.Error(), "")
		return
	}
	defer file.Close()
	files, err := tarNames(file)
	if err != nil {
		problem(w, http.StatusBadRequest, "archive-corrupt", err.Error(), "")
		return
	}
	name := r.PathValue("name")
	if name == "refused" {
		problem(w, http.StatusBadRequest, "spec-invalid", "function.yaml:3:1: unknown key memroy", "did you mean memory?")
		return
	}
	w.Header().Set("Content-Type", api.MediaNDJSON)
	events := json.NewEncoder(w)
	send := func(e api.Event) { _ = events.Encode(e) }
	send(api.Event{Kind: api.EventStep, Step: "1", Name: "files " + strings.Join(files, " "), State: orchestrator.StepStarted})
	send(api.Event{Kind: api.EventLog, Step: "1", Line: "\x1b[31mcompiling\x1b[0m\a"})
	send(api.Event{Kind: api.EventStep, Step: "1", Name: "files " + strings.Join(files, " "), State: orchestrator.StepDone, Duration: orchestrator.Duration(1500 * time.Millisecond)})
	send(api.Event{Kind: api.EventStep, Step: "2", Name: "spec " + r.FormValue(api.FieldSpec), State: orchestrator.StepCached})
	if name == "broken" {
		var output []string
		for n := range 60 {
			output = append(output, fmt.Sprintf("line %d", n+1))
		}
		send(api.Event{Kind: api.EventError, Problem: &api.Error{Code: "build-failed", Detail: "the build failed", Hint: "read the lines above", Output: output, Fault: api.FaultFunction}})
		return
	}
	send(api.Event{Kind: api.EventResult, Deployment: &api.Deployment{Function: stubFunction(name), Revision: orchestrator.Revision{ID: "r1-aaaaaa"}}})
}

func stubUpload(w http.ResponseWriter, r *http.Request) {
	_, header, err := r.FormFile(api.FieldFile)
	if err != nil {
		problem(w, http.StatusBadRequest, "form-invalid", err.Error(), "")
		return
	}
	w.Header().Set("Content-Type", api.MediaNDJSON)
	events := json.NewEncoder(w)
	_ = events.Encode(api.Event{Kind: api.EventStep, Step: "1", State: orchestrator.StepCached,
		Name: fmt.Sprintf("upload %s as %s in %s", header.Filename, r.FormValue(api.FieldName), r.FormValue(api.FieldTemplate))})
	_ = events.Encode(api.Event{Kind: api.EventResult, Deployment: &api.Deployment{Function: stubFunction(r.FormValue(api.FieldName)), Revision: orchestrator.Revision{ID: "r1-aaaaaa"}}})
}

// tarNames lists the files of a tar.zst.
func tarNames(r io.Reader) ([]string, error) {
	decompressed, err := zstd.NewReader(r)
	if err != nil {
		return nil, err
	}
	defer decompressed.Close()
	var names []string
	for entries := tar.NewReader(decompressed); ; {
		header, err := entries.Next()
		if err == io.EOF {
			return names, nil
		}
		if err != nil {
			return nil, err
		}
		if header.Typeflag == tar.TypeReg {
			names = append(names, header.Name)
		}
	}
}

func stubLogs(w http.ResponseWriter, r *http.Request) {
	if !known(w, r) {
		return
	}
	w.Header().Set("Content-Type", api.MediaNDJSON)
	at := time.Date(2026, 1, 2, 3, 4, 5, 678e6, time.UTC)
	for _, line := range []api.LogLine{
		{Time: at, Instance: "0123456789abcdef0123", Revision: "r1-aaaaaa", Stream: api.Stdout, Text: "tail " + r.URL.Query().Get("tail")},
		{Time: at.Add(time.Second), Instance: "fedcba9876543210ffff", Revision: "r1-aaaaaa", Stream: api.Stderr, Text: "follow " + r.URL.Query().Get("follow")},
	} {
		_ = json.NewEncoder(w).Encode(line)
	}
}

func stubScaffold(w http.ResponseWriter, r *http.Request) {
	if r.PathValue("name") != "python" {
		problem(w, http.StatusNotFound, "template-unknown", fmt.Sprintf("there is no template %q", r.PathValue("name")), "kiln templates shows what there is")
		return
	}
	var packed bytes.Buffer
	compressed := gzip.NewWriter(&packed)
	entries := tar.NewWriter(compressed)
	for name, content := range map[string]string{"handler.py": "def handle(request): ...\n", "function.yaml": "name: " + r.URL.Query().Get("name") + "\n"} {
		_ = entries.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(content))})
		_, _ = io.WriteString(entries, content)
	}
	_ = entries.Close()
	_ = compressed.Close()
	_, _ = w.Write(packed.Bytes())
}

// stubInvoke echoes the request; some functions do something else.
func stubInvoke(w http.ResponseWriter, r *http.Request) {
	switch r.PathValue("name") {
	case "hello":
		body, _ := io.ReadAll(r.Body)
		w.Header().Set(api.HeaderRevision, "r1-aaaaaa")
		fmt.Fprintf(w, "%s %s\n%s\n%s\n%s", r.Method, r.URL.RequestURI(), r.Header.Get("Content-Type"), r.Header.Get("X-Test"), body)
	case "teapot":
		http.Error(w, "short and stout", http.StatusTeapot)
	case "guarded":
		if r.Header.Get("Authorization") != "Bearer "+stubToken {
			problem(w, http.StatusUnauthorized, "token-missing", "a token is needed", "kiln login --token TOKEN")
			return
		}
		fmt.Fprintln(w, "welcome")
	case "dead":
		w.Header().Set("Content-Type", api.MediaProblem)
		w.Header().Set(api.HeaderError, api.FaultFunction)
		w.WriteHeader(http.StatusBadGateway)
		_ = json.NewEncoder(w).Encode(api.Error{Code: "function-died", Detail: "the instance died", Hint: "kiln logs dead shows why"})
	default:
		known(w, r)
	}
}
