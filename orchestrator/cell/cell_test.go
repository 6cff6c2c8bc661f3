package cell_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/capacity"
	"github.com/kilnfaas/kiln/orchestrator/cell"
	"github.com/kilnfaas/kiln/orchestrator/enginetest"
	"github.com/kilnfaas/kiln/orchestrator/launch"
	"github.com/kilnfaas/kiln/orchestrator/pool"
	"github.com/kilnfaas/kiln/templates"
)

const (
	owner     = "cell-test"
	network   = "kiln-cell-test"
	cellImage = "kiln/cell-python:1"
	ownImage  = "kiln/f:r1"
)

func TestContractIsTheTemplates(t *testing.T) {
	got := []string{cell.LoadPath, cell.EnvCell, cell.EnvToken, cell.CodePath}
	want := []string{templates.LoadPath, templates.EnvCell, templates.EnvCellToken, templates.CodePath}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// loaded is what a fake cell was loaded with.
type loaded struct {
	env     map[string]string
	code    string
	secrets map[string][]byte
	greeted bool // on a connection that was there before
}

// rig is a Launcher on a fake engine, with a fake runtime in its cells.
type rig struct {
	*cell.Launcher
	engine *enginetest.Fake
	notes  string

	mu     sync.Mutex
	loads  map[string]loaded // by address
	answer func(n int) int   // status of the nth load, from 1
	code   map[string]string // by revision
}

func newRig(t *testing.T, change ...func(*cell.Config)) *rig {
	t.Helper()
	r := &rig{engine: enginetest.NewFake(), loads: map[string]loaded{}, code: map[string]string{"r1": "print()"}, notes: t.TempDir()}
	r.engine.AddImage(cellImage, r.runtime, nil)
	r.engine.AddImage(ownImage, enginetest.Serve(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "image") })), nil)
	if _, err := r.engine.EnsureNetwork(t.Context(), orchestrator.NetworkConfig{Name: network}); err != nil {
		t.Fatal(err)
	}
	budget := capacity.New(capacity.Config{})
	config := cell.Config{
		Next:   launch.New(launch.Config{Engine: r.engine, Owner: owner, Network: network, Capacity: budget}),
		Engine: r.engine, Images: r, Code: codeStore{r}, Head: templates.LoadHead, Capacity: budget,
		Owner: owner, Network: network, Min: 2, Max: 4, Notes: r.notes,
	}
	for _, f := range change {
		f(&config)
	}
	r.Launcher = cell.New(config)
	ctx, cancel := context.WithCancel(context.Background())
	var events sync.WaitGroup
	events.Go(func() {
		r.engine.Events(ctx, map[string]string{orchestrator.LabelOwner: owner}, func(e orchestrator.Event) {
			if e.Kind == orchestrator.EventDied {
				r.Died(e.ID, e.ExitCode, false)
			}
		})
	})
	if err := r.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Launcher.Close(); err != nil {
			t.Error(err)
		}
		cancel()
		events.Wait()
		r.engine.Close()
	})
	return r
}

// CellImage implements cell.Images.
func (r *rig) CellImage(context.Context, orchestrator.Template) (string, error) {
	return cellImage, nil
}

// codeStore is the rig's cell.CodeStore.
type codeStore struct{ *rig }

// Size implements cell.CodeStore.
func (c codeStore) Size(revision orchestrator.Revision) (orchestrator.Bytes, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	code, ok := c.code[revision.ID]
	return orchestrator.Bytes(len(code)), ok
}

// Open implements cell.CodeStore.
func (c codeStore) Open(_ context.Context, revision orchestrator.Revision) (io.ReadCloser, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	code := c.code[revision.ID]
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	if err := w.WriteHeader(&tar.Header{Name: "function/handler.py", Size: int64(len(code)), Mode: 0o644}); err != nil {
		return nil, err
	}
	if _, err := io.WriteString(w, code); err != nil {
		return nil, err
	}
	return io.NopCloser(&out), w.Close()
}

// runtime is a cell's program: it does what the contract says.
func (r *rig) runtime(ctx context.Context, p *enginetest.Process) int {
	token := p.Config.Env[cell.EnvToken]
	if p.Config.Env[cell.EnvCell] != "1" || token == "" {
		fmt.Fprintln(p.Stderr, "no cell")
		return 2
	}
	used := false
	var asked sync.Map // addresses of clients that asked for readiness
	program := enginetest.Serve(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		switch {
		case q.URL.Path == "/_kiln/ready":
			asked.Store(q.RemoteAddr, true)
		case q.URL.Path != cell.LoadPath:
			io.WriteString(w, "cell")
		case q.Header.Get("Authorization") != "Bearer "+token:
			w.WriteHeader(http.StatusUnauthorized)
		default:
			r.mu.Lock()
			defer r.mu.Unlock()
			if used {
				w.WriteHeader(http.StatusConflict)
				return
			}
			used = true
			l, err := readLoad(q.Body)
			if err != nil {
				w.WriteHeader(http.StatusUnprocessableEntity)
				return
			}
			_, l.greeted = asked.Load(q.RemoteAddr)
			r.loads[p.Addr] = l
			if r.answer != nil {
				status := r.answer(len(r.loads))
				if status == 0 { // dies
					panic(http.ErrAbortHandler)
				}
				w.WriteHeader(status)
				fmt.Fprint(w, "Traceback\nSyntaxError: no")
			}
		}
	}))
	return program(ctx, p)
}

func readLoad(body io.Reader) (l loaded, err error) {
	in := tar.NewReader(body)
	for {
		header, err := in.Next()
		if err == io.EOF {
			return l, nil
		}
		if err != nil {
			return l, err
		}
		data, err := io.ReadAll(in)
		if err != nil {
			return l, err
		}
		switch header.Name {
		case "env.json":
			if err := json.Unmarshal(data, &l.env); err != nil {
				return l, err
			}
		case "function/handler.py":
			l.code = string(data)
		case "secrets.json":
			if err := json.Unmarshal(data, &l.secrets); err != nil {
				return l, err
			}
		default:
			return l, errors.New("unexpected " + header.Name)
		}
	}
}

func (r *rig) loadCount() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.loads)
}

func release(change ...func(*orchestrator.Release)) orchestrator.Release {
	spec := orchestrator.DefaultSpec()
	spec.Name, spec.Template = "f", "python"
	spec.Env = map[string]string{"COLOR": "blue"}
	rel := orchestrator.Release{
		Spec:     spec,
		Revision: orchestrator.Revision{ID: "r1", Function: "f", Image: ownImage, TemplateDigest: "sha256:t"},
		Template: orchestrator.Template{Name: "python", Digest: "sha256:t", HTTPReady: true, Cells: true},
	}
	for _, f := range change {
		f(&rel)
	}
	return rel
}

// await waits for a condition that others bring about.
func await(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !condition(); {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

// cells returns the ids of the containers that are cells, ended ones aside.
func (r *rig) cells(t *testing.T) (ids []string) {
	t.Helper()
	list, err := r.engine.List(t.Context(), map[string]string{orchestrator.LabelKind: orchestrator.KindCell})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range list {
		if c.State == orchestrator.ContainerRunning {
			ids = append(ids, c.ID)
		}
	}
	return ids
}

// full serves a function and waits for its cells.
func (r *rig) full(t *testing.T, rel orchestrator.Release) {
	t.Helper()
	r.Serving(rel)
	await(t, "the cells", func() bool { return r.Waiting()["python"] == 2 })
}

func (r *rig) get(t *testing.T, addr string) string {
	t.Helper()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Get("http://" + addr + "/")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

func TestLaunchLoadsACell(t *testing.T) {
	r := newRig(t)
	rel := release(func(r *orchestrator.Release) { r.Spec.Resources.Memory = 256 * orchestrator.MiB })
	r.full(t, rel)
	got, err := r.Launch(t.Context(), pool.Order{Release: rel})
	if err != nil {
		t.Fatal(err)
	}
	if got.Origin != pool.OriginCell || r.get(t, got.Addr) != "cell" {
		t.Errorf("%+v answers %q", got, r.get(t, got.Addr))
	}
	host, _, _ := strings.Cut(got.Addr, ":")
	r.mu.Lock()
	l := r.loads[host]
	r.mu.Unlock()
	if diff := cmp.Diff(rel.Env(), l.env); diff != "" || l.code != "print()" {
		t.Errorf("loaded %q with %v", l.code, diff)
	}
	if !l.greeted {
		t.Error("the load had to connect first")
	}
	for name, value := range l.env {
		if strings.Contains(name+value, "TOKEN") {
			t.Errorf("the token reaches the function: %s=%s", name, value)
		}
	}
	if limits, _ := r.engine.Limits(got.ID); limits != rel.Limits() {
		t.Errorf("limits %+v, want %+v", limits, rel.Limits())
	}
	if r.Owns(got.ID) {
		t.Error("an instance is still a cell")
	}
	// The next gateway recognizes it; this one forgets it when it is stopped.
	c, err := r.engine.Inspect(t.Context(), got.ID)
	if err != nil {
		t.Fatal(err)
	}
	known := r.Recognize(c)
	want := rel.Container(owner, network).Labels
	for _, label := range []string{orchestrator.LabelFunction, orchestrator.LabelRevision, orchestrator.LabelConfig} {
		if known.Labels[label] != want[label] {
			t.Errorf("%s is %q, want %q", label, known.Labels[label], want[label])
		}
	}
	if err := r.Stop(t.Context(), got.ID, time.Second); err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(r.notes); len(left) != 0 {
		t.Errorf("notes left: %v", left)
	}
	await(t, "the next cell", func() bool { return len(r.cells(t)) == 2 })
}

// TestALoadHasSecretsAndAToken, and nothing that the engine keeps has them.
func TestALoadHasSecretsAndAToken(t *testing.T) {
	key := orchestrator.InstanceKey("k")
	r := newRig(t, func(c *cell.Config) {
		c.Key = key
		c.Secrets = func(function string, names []string) (map[string][]byte, error) {
			return map[string][]byte{names[0]: []byte("v4lue of " + function)}, nil
		}
	})
	rel := release(func(r *orchestrator.Release) { r.Spec.Secrets = []string{"API_KEY"} })
	r.full(t, rel)
	got, err := r.Launch(t.Context(), pool.Order{Release: rel})
	if err != nil || got.Origin != pool.OriginCell {
		t.Fatal(got, err)
	}
	c, err := r.engine.Inspect(t.Context(), got.ID)
	if err != nil {
		t.Fatal(err)
	}
	if want := key.Token(c.Name); got.Token != want || want == "" {
		t.Errorf("calls carry %q, want %q", got.Token, want)
	}
	host, _, _ := strings.Cut(got.Addr, ":")
	r.mu.Lock()
	l := r.loads[host]
	r.mu.Unlock()
	if diff := cmp.Diff(map[string][]byte{"API_KEY": []byte("v4lue of f")}, l.secrets); diff != "" || l.env[orchestrator.EnvInstanceToken] != got.Token {
		t.Errorf("loaded with the token %q; secrets (-want +got):\n%s", l.env[orchestrator.EnvInstanceToken], diff)
	}
	if token, ok := key.Recall(c); !ok || token != got.Token {
		t.Errorf("the next gateway's token: %q, %t", token, ok)
	}
	notes, err := os.ReadFile(filepath.Join(r.notes, got.ID+".json"))
	if shown := fmt.Sprint(c) + string(notes); err != nil || strings.Contains(shown, "v4lue") || strings.Contains(shown, got.Token) {
		t.Errorf("kept: %s, %v", shown, err)
	}
	if err := r.Stop(t.Context(), got.ID, time.Second); err != nil {
		t.Error(err)
	}
}

func TestASecretThatIsGoneIsTheFunctionsError(t *testing.T) {
	r := newRig(t, func(c *cell.Config) {
		c.Secrets = func(string, []string) (map[string][]byte, error) {
			return nil, orchestrator.Errorf(orchestrator.ErrFunction, "secret-unknown", "there is none")
		}
	})
	rel := release(func(r *orchestrator.Release) { r.Spec.Secrets = []string{"API_KEY"} })
	r.full(t, rel)
	before := len(r.cells(t))
	if _, err := r.Launch(t.Context(), pool.Order{Release: rel}); !errors.Is(err, orchestrator.ErrFunction) {
		t.Errorf("got %v", err)
	}
	if after := len(r.cells(t)); after != before {
		t.Errorf("%d of %d cells are left: one was spent on what cannot start", after, before)
	}
}

func TestBadCodeIsTheCallersError(t *testing.T) {
	r := newRig(t)
	r.answer = func(int) int { return http.StatusUnprocessableEntity }
	r.full(t, release())
	_, err := r.Launch(t.Context(), pool.Order{Release: release()})
	var e *orchestrator.Error
	if !errors.As(err, &e) || e.Class != orchestrator.ErrFunction || e.Code != "instance-start-failed" {
		t.Fatalf("got %v", err)
	}
	if diff := cmp.Diff([]string{"Traceback", "SyntaxError: no"}, e.Output); diff != "" {
		t.Error(diff)
	}
	if r.loadCount() != 1 {
		t.Errorf("%d cells were spent on code that cannot be loaded", r.loadCount())
	}
}

func TestFallsBack(t *testing.T) {
	tests := []struct {
		name   string
		answer func(n int) int
		origin string
		loads  int
	}{
		{"to another cell", func(n int) int { return map[bool]int{true: 0, false: 200}[n == 1] }, pool.OriginCell, 2},
		{"to the image when cells die", func(int) int { return 0 }, pool.OriginImage, 2},
		{"to the image when cells are used up", func(int) int { return http.StatusConflict }, pool.OriginImage, 2},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			r := newRig(t)
			r.answer = test.answer
			r.full(t, release())
			got, err := r.Launch(t.Context(), pool.Order{Release: release()})
			if err != nil {
				t.Fatal(err)
			}
			if got.Origin != test.origin || r.loadCount() != test.loads {
				t.Errorf("origin %s after %d loads, want %s after %d", got.Origin, r.loadCount(), test.origin, test.loads)
			}
		})
	}
}

func TestDeathOfTheCellEndsTheLoad(t *testing.T) {
	r := newRig(t)
	block := make(chan struct{})
	r.answer = func(n int) int {
		if n == 1 {
			r.mu.Unlock() // others go on
			<-block
			r.mu.Lock()
		}
		return http.StatusOK
	}
	r.full(t, release())
	before := r.cells(t)
	go func() {
		await(t, "the load", func() bool { return r.loadCount() == 1 })
		r.mu.Lock()
		var addr string
		for a := range r.loads {
			addr = a
		}
		r.mu.Unlock()
		for _, id := range before {
			if c, err := r.engine.Inspect(context.Background(), id); err == nil && c.Addr == addr {
				r.engine.Kill(id)
			}
		}
		close(block)
	}()
	got, err := r.Launch(t.Context(), pool.Order{Release: release()})
	if err != nil || got.Origin != pool.OriginCell {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestImageWhenNobodyWaitsOrTheImageIsToBeProven(t *testing.T) {
	r := newRig(t)
	r.full(t, release())
	for name, order := range map[string]pool.Order{
		"proof":      {Release: release(), Proof: true},
		"background": {Release: release(), Priority: capacity.Background},
	} {
		got, err := r.Launch(t.Context(), order)
		if err != nil || got.Origin != pool.OriginImage {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	if len(r.cells(t)) != 2 {
		t.Error("cells were spent")
	}
}

func TestWake(t *testing.T) {
	r := newRig(t)
	tests := []struct {
		name   string
		change func(*orchestrator.Release)
		how    string
		reason string
	}{
		{"fit", func(*orchestrator.Release) {}, pool.OriginCell, "waiting python"},
		{"packages", func(r *orchestrator.Release) { r.Spec.Build.Packages = []string{"ffmpeg"} }, pool.OriginImage, "system packages"},
		{"template without cells", func(r *orchestrator.Release) { r.Template.Cells = false }, pool.OriginImage, "has no cells"},
		{"old template", func(r *orchestrator.Release) { r.Revision.TemplateDigest = "sha256:old" }, pool.OriginImage, "another version"},
		{"runtime", func(r *orchestrator.Release) { r.Spec.Runtime = "runsc" }, pool.OriginImage, "the runtime runsc"},
		{"small /tmp", func(r *orchestrator.Release) { r.Spec.Resources.Tmp = orchestrator.MiB }, pool.OriginImage, "/tmp has 1MiB"},
		{"large /tmp", func(r *orchestrator.Release) { r.Spec.Resources.Tmp = orchestrator.GiB }, pool.OriginImage, "/tmp"},
		{"no code", func(r *orchestrator.Release) { r.Revision.ID = "r0" }, pool.OriginImage, "not been kept"},
		{"large code", func(rel *orchestrator.Release) {
			rel.Revision.ID = "big"
			r.mu.Lock()
			r.code["big"] = strings.Repeat("x", 33<<20)
			r.mu.Unlock()
		}, pool.OriginImage, "33792 KiB"},
	}
	for _, test := range tests {
		how, reason := r.Wake(release(test.change))
		if how != test.how || !strings.Contains(reason, test.reason) {
			t.Errorf("%s: %s, %q", test.name, how, reason)
		}
		if how == pool.OriginImage {
			r.Serving(release(test.change))
		}
	}
	if n := r.engine.Calls(enginetest.OpRun); n != 0 {
		t.Errorf("%d cells for functions that cannot use them", n)
	}
	off := newRig(t, func(c *cell.Config) { c.Min, c.Max = 0, 0 })
	if how, reason := off.Wake(release()); how != pool.OriginImage || reason != "cells are off" {
		t.Errorf("off: %s, %q", how, reason)
	}
}

func TestWaitingCellThatDiesIsReplaced(t *testing.T) {
	r := newRig(t)
	r.full(t, release())
	dead := r.cells(t)[0]
	r.engine.Kill(dead)
	await(t, "another", func() bool {
		ids := r.cells(t)
		return len(ids) == 2 && ids[0] != dead && ids[1] != dead
	})
	await(t, "the dead one's removal", func() bool { return !r.Owns(dead) })
}

func TestCodeIsPreparedWhenItIsServed(t *testing.T) {
	code := &slowCode{}
	cache, err := cell.NewCache(code, t.TempDir(), 0)
	if err != nil {
		t.Fatal(err)
	}
	r := newRig(t, func(c *cell.Config) { c.Code = cache })
	r.Serving(release(func(r *orchestrator.Release) { r.Revision.CodeDigest = "a:1" }))
	await(t, "the code", func() bool { return code.count() == 1 })
	if _, err := readCode(cache, "a:1"); err != nil || code.count() != 1 {
		t.Errorf("%v, unpacked %d times", err, code.count())
	}
}

func TestCellsGoWithTheLastFunction(t *testing.T) {
	r := newRig(t)
	r.full(t, release())
	r.Removed("f")
	await(t, "their end", func() bool { return len(r.cells(t)) == 0 })
}

func TestEvictGivesItsMemoryBack(t *testing.T) {
	var budget *capacity.Budget
	r := newRig(t, func(c *cell.Config) { budget = c.Capacity })
	r.full(t, release())
	used := budget.Usage().Used
	v, ok := r.Victim()
	if !ok || r.Evict("unknown") != nil {
		t.Fatal("no victim, or an unknown one")
	}
	if r.Evict(v.ID) == nil || r.Evict(v.ID) != nil {
		t.Error("evicted never, or twice")
	}
	await(t, "the memory", func() bool { return budget.Usage().Used == used/2 })
}

func TestCloseEndsWaitingCellsOnly(t *testing.T) {
	r := newRig(t)
	r.full(t, release())
	got, err := r.Launch(t.Context(), pool.Order{Release: release()})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := r.Launcher.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if ids := r.cells(t); len(ids) != 1 || ids[0] != got.ID {
		t.Errorf("left: %v, want the instance only", ids)
	}
	// Notes of what has ended meanwhile go when the next gateway opens.
	r.engine.Kill(got.ID)
	if err := r.engine.Stop(t.Context(), got.ID, 0); err != nil {
		t.Fatal(err)
	}
	next := cell.New(cell.Config{Next: launch.New(launch.Config{Engine: r.engine}), Engine: r.engine, Owner: owner, Notes: r.notes})
	if err := next.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer next.Close()
	if left, _ := os.ReadDir(r.notes); len(left) != 0 {
		t.Errorf("notes left: %v", left)
	}
}
