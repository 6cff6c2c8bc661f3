package gateway_test

import (
	"context"
	"io"
	"io/fs"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing/fstest"
	"time"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/intake"
	"github.com/kilnfaas/kiln/orchestrator/manifest"
)

var fakeTime = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// fakeFunctions are use cases in memory. With err set, every one fails with it.
type fakeFunctions struct {
	mu        sync.Mutex
	err       error
	functions map[string]orchestrator.Function
	revisions map[string][]orchestrator.Revision
	status    map[string]orchestrator.FunctionStatus
	lines     []orchestrator.FunctionLog
	secrets   map[string][]byte
	// deploy, when set, happens inside Deploy, in place of its progress.
	deploy func(ctx context.Context, d orchestrator.Deploy, progress func(orchestrator.BuildEvent)) error
	// logs, when set, is what Logs yields.
	logs func(ctx context.Context, options orchestrator.LogOptions) iter.Seq2[orchestrator.FunctionLog, error]
}

func newFakeFunctions(names ...string) *fakeFunctions {
	f := &fakeFunctions{
		functions: map[string]orchestrator.Function{},
		revisions: map[string][]orchestrator.Revision{},
		status:    map[string]orchestrator.FunctionStatus{},
		secrets:   map[string][]byte{},
	}
	for _, name := range names {
		spec := orchestrator.DefaultSpec()
		spec.Name, spec.Template = name, "python"
		f.put(orchestrator.Deploy{Spec: spec, ArchiveDigest: "sha256:0"})
	}
	return f
}

func (f *fakeFunctions) put(d orchestrator.Deploy) (orchestrator.Function, orchestrator.Revision) {
	name := d.Spec.Name
	function := f.functions[name]
	function.Name, function.Spec, function.CreatedAt, function.UpdatedAt = name, d.Spec, fakeTime, fakeTime
	function.Revision++
	r := orchestrator.Revision{
		ID: "r" + string(rune('0'+function.Revision)) + "-abc123", Function: name, Number: function.Revision, Spec: d.Spec,
		ArchiveDigest: d.ArchiveDigest, Status: orchestrator.RevisionReady, CreatedAt: fakeTime, ReadyAt: fakeTime,
	}
	function.Live = r.ID
	f.functions[name] = function
	f.revisions[name] = slices.Insert(f.revisions[name], 0, r)
	return function, r
}

func (f *fakeFunctions) fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = err
}

func (f *fakeFunctions) Deploy(ctx context.Context, d orchestrator.Deploy, progress func(orchestrator.BuildEvent)) (orchestrator.Function, orchestrator.Revision, error) {
	f.mu.Lock()
	fail, deploy := f.err, f.deploy
	f.mu.Unlock()
	if fail == nil && deploy != nil {
		fail = deploy(ctx, d, progress)
	}
	if fail != nil {
		return orchestrator.Function{}, orchestrator.Revision{}, fail
	}
	progress(orchestrator.BuildEvent{Kind: orchestrator.BuildStep, Time: fakeTime, Step: "build", Name: "[1/1] COPY", State: orchestrator.StepDone, Duration: orchestrator.Duration(time.Second)})
	f.mu.Lock()
	defer f.mu.Unlock()
	function, revision := f.put(d)
	return function, revision, nil
}

func (f *fakeFunctions) Function(_ context.Context, name string) (orchestrator.Function, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	function, ok := f.functions[name]
	if !ok {
		return function, orchestrator.Errorf(orchestrator.ErrNotFound, "function-unknown", "there is no function %q", name).WithHint("kiln ls")
	}
	return function, nil
}

func (f *fakeFunctions) Functions(context.Context) ([]orchestrator.Function, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.SortedFunc(maps.Values(f.functions), func(a, b orchestrator.Function) int { return strings.Compare(a.Name, b.Name) }), f.err
}

func (f *fakeFunctions) Configure(ctx context.Context, name string, change func(orchestrator.Spec) (orchestrator.Spec, error)) (orchestrator.Function, orchestrator.Revision, error) {
	function, err := f.Function(ctx, name)
	if err != nil {
		return function, orchestrator.Revision{}, err
	}
	spec, err := change(function.Spec.Clone())
	if err != nil {
		return function, orchestrator.Revision{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil {
		return function, orchestrator.Revision{}, f.err
	}
	function, revision := f.put(orchestrator.Deploy{Spec: spec})
	return function, revision, nil
}

func (f *fakeFunctions) Remove(ctx context.Context, name string) error {
	if _, err := f.Function(ctx, name); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err == nil {
		delete(f.functions, name)
	}
	return f.err
}

func (f *fakeFunctions) Revisions(_ context.Context, name string) ([]orchestrator.Revision, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.revisions[name], f.err
}

func (f *fakeFunctions) Rollback(ctx context.Context, name, want string) (orchestrator.Function, orchestrator.Revision, error) {
	function, err := f.Function(ctx, name)
	f.mu.Lock()
	defer f.mu.Unlock()
	if err == nil {
		err = f.err
	}
	if err != nil {
		return function, orchestrator.Revision{}, err
	}
	for _, r := range f.revisions[name] {
		if r.ID == want || want == "" && r.ID != function.Live {
			function.Live = r.ID
			f.functions[name] = function
			return function, r, nil
		}
	}
	return function, orchestrator.Revision{}, orchestrator.Errorf(orchestrator.ErrNotFound, "revision-unknown", "no revision %q", want)
}

func (f *fakeFunctions) Status(name string) orchestrator.FunctionStatus {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.status[name]
}

func (f *fakeFunctions) Logs(ctx context.Context, _ string, options orchestrator.LogOptions) iter.Seq2[orchestrator.FunctionLog, error] {
	if f.logs != nil {
		return f.logs(ctx, options)
	}
	return func(yield func(orchestrator.FunctionLog, error) bool) {
		for _, line := range f.lines {
			if !yield(line, nil) {
				return
			}
		}
		if f.err != nil {
			yield(orchestrator.FunctionLog{}, f.err)
		}
	}
}

// fakeIntake takes everything and keeps the last upload.
func (f *fakeFunctions) Secrets(context.Context) ([]orchestrator.SecretInfo, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []orchestrator.SecretInfo
	for _, name := range slices.Sorted(maps.Keys(f.secrets)) {
		all = append(all, fakeSecret(name))
	}
	return all, f.err
}

func fakeSecret(name string, functions ...string) orchestrator.SecretInfo {
	return orchestrator.SecretInfo{Secret: orchestrator.Secret{
		Name: name, Functions: functions, Sealed: []byte("sealed"), CreatedAt: fakeTime, UpdatedAt: fakeTime,
	}}
}

// SetSecret rolls a function, and fails to roll another.
func (f *fakeFunctions) SetSecret(_ context.Context, name string, functions []string, value []byte) (orchestrator.SecretInfo, []orchestrator.Rolled, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil {
		return orchestrator.SecretInfo{}, nil, f.err
	}
	f.secrets[name] = value
	return fakeSecret(name, functions...), []orchestrator.Rolled{{Function: "a"}, {Function: "b", Err: orchestrator.Errorf(orchestrator.ErrFunction, "instance-start-failed", "it did not start")}}, nil
}

func (f *fakeFunctions) RemoveSecret(_ context.Context, name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := f.secrets[name]; !ok && f.err == nil {
		return orchestrator.Errorf(orchestrator.ErrNotFound, "secret-unknown", "there is no secret %s", name)
	}
	delete(f.secrets, name)
	return f.err
}

type fakeIntake struct {
	mu        sync.Mutex
	err       error
	body      string
	filename  string
	overrides []manifest.Document
}

func (f *fakeIntake) Receive(_ context.Context, upload intake.Upload) (orchestrator.Spec, string, error) {
	body, err := io.ReadAll(upload.Body)
	if err != nil {
		return orchestrator.Spec{}, "", orchestrator.Errorf(orchestrator.ErrInvalid, "archive-unreadable", "read the archive: %w", err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.body, f.filename, f.overrides = string(body), upload.Filename, upload.Overrides
	if f.err != nil {
		return orchestrator.Spec{}, "", f.err
	}
	spec := orchestrator.DefaultSpec()
	spec.Name, spec.Template = "of-the-manifest", "python"
	spec, err = manifest.Apply(spec, upload.Overrides...)
	return spec, "sha256:1", err
}

// fakeTemplates is a catalogue of one.
type fakeTemplates struct{}

var python = orchestrator.Template{
	Name: "python", Description: "Python 3", Digest: "sha256:2", Handlers: []string{"handler.py"}, HTTPReady: true, Cells: true,
	Bases:    []orchestrator.Base{{Image: "python:3.13-slim-trixie", Arg: "BASE", Fallback: "kiln-base/python:3.13"}},
	Defaults: orchestrator.TemplateDefaults{Concurrency: 8, Memory: orchestrator.DefaultMemory},
}

func (fakeTemplates) Templates() []orchestrator.Template { return []orchestrator.Template{python} }

func (fakeTemplates) Template(name string) (orchestrator.Template, error) {
	if name != python.Name {
		return orchestrator.Template{}, orchestrator.Errorf(orchestrator.ErrNotFound, "template-unknown", "there is no template %q", name)
	}
	return python, nil
}

func (t fakeTemplates) Scaffold(template, function string) (fs.FS, error) {
	if _, err := t.Template(template); err != nil {
		return nil, err
	}
	if err := orchestrator.ValidateName(function); err != nil {
		return nil, err
	}
	return fstest.MapFS{
		"function.yaml": {Data: []byte("name: " + function + "\n"), Mode: 0o644},
		"bin/run":       {Data: []byte("#!/bin/sh\n"), Mode: 0o755},
	}, nil
}
