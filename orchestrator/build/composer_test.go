package build_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/archive"
	"github.com/kilnfaas/kiln/orchestrator/build"
	"github.com/kilnfaas/kiln/orchestrator/enginetest"
	"github.com/kilnfaas/kiln/orchestrator/storetest"
)

// catalogue is a set of templates in memory.
type catalogue struct {
	list      []orchestrator.Template
	files     map[string]map[string]string // by template and path
	fallbacks map[string]map[string]string // by tag and path
}

func (c catalogue) Templates() []orchestrator.Template { return c.list }

func (c catalogue) Context(name string, w *tar.Writer) error { return writeAll(w, c.files[name]) }

func (c catalogue) WriteFallback(tag string, w *tar.Writer) error {
	return writeAll(w, c.fallbacks[tag])
}

func writeAll(w *tar.Writer, files map[string]string) error {
	for _, name := range slices.Sorted(maps.Keys(files)) {
		err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(files[name]))})
		if err == nil {
			_, err = io.WriteString(w, files[name])
		}
		if err != nil {
			return err
		}
	}
	return nil
}

const (
	upstream = "python:3.13-slim-trixie"
	standIn  = "kiln-base/python:3.13"
	debian   = "debian:trixie-slim"
)

// two templates: one with a Dockerfile, one whose functions bring theirs.
func twoTemplates() catalogue {
	return catalogue{
		list: []orchestrator.Template{
			{Name: "python", CodeDir: orchestrator.DefaultCodeDir, Bases: []orchestrator.Base{{Image: upstream, Arg: "BASE", Fallback: standIn}}},
			{Name: "dockerfile", CodeDir: ".", Handlers: []string{"Dockerfile"}},
		},
		files: map[string]map[string]string{"python": {
			"Dockerfile":      "ARG BASE=" + upstream + "\nFROM ${BASE}\nRUN --mount=type=cache,target=/c true\nCOPY function/ /function/\n",
			"runtime/main.py": "serve()",
		}},
		fallbacks: map[string]map[string]string{standIn: {"Dockerfile": "FROM " + debian + "\nRUN install python3\n"}},
	}
}

// request is what the engine was told to build.
type request struct {
	orchestrator.BuildRequest
	files map[string]string
}

// watched notes the builds of an engine.
type watched struct {
	*enginetest.Fake
	mu       sync.Mutex
	requests []request // guarded by mu
}

func (w *watched) Build(ctx context.Context, r orchestrator.BuildRequest) (orchestrator.Image, error) {
	var copied bytes.Buffer
	r.Context = io.TeeReader(r.Context, &copied)
	image, err := w.Fake.Build(ctx, r)
	noted := request{BuildRequest: r, files: map[string]string{}}
	for in := tar.NewReader(&copied); ; {
		header, nextErr := in.Next()
		if nextErr != nil {
			break
		}
		if header.Typeflag == tar.TypeReg {
			data, _ := io.ReadAll(in)
			noted.files[header.Name] = string(data)
		}
	}
	w.mu.Lock()
	w.requests = append(w.requests, noted)
	w.mu.Unlock()
	return image, err
}

func (w *watched) built() []request {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.requests)
}

// rig is a pipeline's end on fakes.
type rig struct {
	engine  *watched
	store   *storetest.Fake
	config  build.Config
	builder orchestrator.RevisionBuilder
}

func newRig(t *testing.T, change func(*build.Config)) *rig {
	t.Helper()
	engine := &watched{Fake: enginetest.NewFake()}
	t.Cleanup(func() { engine.Close() })
	r := &rig{engine: engine, store: storetest.NewFake()}
	r.config = build.Config{Archives: r.store, Templates: twoTemplates(), Builder: engine, Images: engine, Owner: owner}
	if change != nil {
		change(&r.config)
	}
	r.builder = build.NewComposer(r.config)
	return r
}

// revision stores files as the archive of a new revision.
func (r *rig) revision(t *testing.T, files map[string]string) orchestrator.Revision {
	t.Helper()
	tree := fstest.MapFS{}
	for name, data := range files {
		tree[name] = &fstest.MapFile{Data: []byte(data), Mode: 0o644}
	}
	var packed bytes.Buffer
	if _, err := archive.Pack(t.Context(), &packed, tree, archive.DefaultLimits()); err != nil {
		t.Fatal(err)
	}
	digest, _, err := r.store.PutArchive(t.Context(), &packed)
	if err != nil {
		t.Fatal(err)
	}
	out := revision("f", 1, build.Digest(digest, "sha256:t", orchestrator.Spec{}))
	out.ArchiveDigest = digest
	return out
}

func (r *rig) template(name string) orchestrator.Template {
	for _, t := range r.config.Templates.Templates() {
		if t.Name == name {
			return t
		}
	}
	panic("no template " + name)
}

func (r *rig) build(t *testing.T, revision orchestrator.Revision, template string) (orchestrator.Image, *recorder, error) {
	t.Helper()
	var got recorder
	image, err := r.builder.BuildRevision(t.Context(), revision, r.template(template), got.add)
	return image, &got, err
}

func TestComposerTemplate(t *testing.T) {
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, []byte("PEM"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := newRig(t, func(c *build.Config) { c.ExtraCA = ca })
	r.engine.AddImage(upstream, enginetest.Idle(), nil)
	rev := r.revision(t, map[string]string{"handler.py": "def handle(r): ...", "pkg/a.py": "a = 1"})
	rev.Spec.Handler = "handler:handle"
	rev.Spec.Build = orchestrator.Build{Packages: []string{"curl", "git"}, Args: map[string]string{"PIP_INDEX_URL": "https://x"}, Test: true}
	image, got, err := r.build(t, rev, "python")
	if err != nil {
		t.Fatal(err)
	}
	wantLabels := map[string]string{
		orchestrator.LabelOwner: owner, orchestrator.LabelKind: orchestrator.KindImage, orchestrator.LabelFunction: "f",
		orchestrator.LabelRevision: rev.ID, orchestrator.LabelTemplate: "python", orchestrator.LabelBuild: rev.BuildDigest,
	}
	if diff := cmp.Diff(wantLabels, image.Labels); diff != "" {
		t.Errorf("labels (-want +got):\n%s", diff)
	}
	sent := r.engine.built()[0]
	if diff := cmp.Diff([]string{rev.Image}, sent.Tags); diff != "" {
		t.Errorf("tags (-want +got):\n%s", diff)
	}
	wantArgs := map[string]string{
		"BASE": upstream, "KILN_HANDLER": "handler:handle", "KILN_PACKAGES": "curl git", "KILN_TEST": "1", "PIP_INDEX_URL": "https://x",
	}
	if diff := cmp.Diff(wantArgs, sent.Args); diff != "" {
		t.Errorf("args (-want +got):\n%s", diff)
	}
	wantFiles := maps.Clone(twoTemplates().files["python"])
	maps.Copy(wantFiles, map[string]string{"function/handler.py": "def handle(r): ...", "function/pkg/a.py": "a = 1", ".kiln/ca.crt": "PEM"})
	if diff := cmp.Diff(wantFiles, sent.files); diff != "" {
		t.Errorf("context (-want +got):\n%s", diff)
	}
	if steps := got.steps(); len(steps) == 0 || steps[0] != "[base] "+upstream+": cached" {
		t.Errorf("steps %q, want the base image first", steps)
	}
}

func TestComposerForTheClassicBuilder(t *testing.T) {
	r := newRig(t, func(c *build.Config) {
		c.Classic = func(context.Context) (bool, error) { return true, nil }
	})
	r.engine.AddImage(upstream, enginetest.Idle(), nil)
	if _, _, err := r.build(t, r.revision(t, map[string]string{"handler.py": ""}), "python"); err != nil {
		t.Fatal(err)
	}
	sent := r.engine.built()[0]
	if strings.Contains(sent.files["Dockerfile"], "--mount") || !strings.Contains(sent.files["Dockerfile"], "COPY function/") {
		t.Errorf("the classic builder got the Dockerfile\n%s", sent.files["Dockerfile"])
	}

	own := r.revision(t, map[string]string{"Dockerfile": "FROM " + upstream + "\nRUN --mount=type=cache,target=/c true\n"})
	if _, _, err := r.build(t, own, "dockerfile"); err != nil {
		t.Fatal(err)
	}
	sent = r.engine.built()[1]
	if sent.Dockerfile != ".kiln/Dockerfile" || strings.Contains(sent.files[sent.Dockerfile], "--mount") {
		t.Errorf("the classic builder got %s:\n%s", sent.Dockerfile, sent.files[sent.Dockerfile])
	}
}

func TestComposerPullsABase(t *testing.T) {
	r := newRig(t, nil)
	r.engine.AddPullable(upstream, enginetest.Idle())
	_, got, err := r.build(t, r.revision(t, map[string]string{"handler.py": ""}), "python")
	if err != nil {
		t.Fatal(err)
	}
	if base := r.engine.built()[0].Args["BASE"]; base != upstream {
		t.Errorf("BASE = %q, want %q", base, upstream)
	}
	if steps := got.steps(); !slices.Contains(steps, "[base] "+upstream+": done") {
		t.Errorf("steps %q, want that of the base image", steps)
	}
}

func TestComposerBuildsTheFallback(t *testing.T) {
	r := newRig(t, nil)
	r.engine.AddImage(debian, enginetest.Idle(), nil)
	_, got, err := r.build(t, r.revision(t, map[string]string{"handler.py": ""}), "python")
	if err != nil {
		t.Fatal(err)
	}
	sent := r.engine.built()
	if len(sent) != 2 {
		t.Fatalf("%d builds, want the fallback's and the function's", len(sent))
	}
	if diff := cmp.Diff([]string{standIn}, sent[0].Tags); diff != "" {
		t.Errorf("tags of the fallback (-want +got):\n%s", diff)
	}
	if kind, by := sent[0].Labels[orchestrator.LabelKind], sent[0].Labels[orchestrator.LabelOwner]; kind != orchestrator.KindBase || by != owner {
		t.Errorf("the fallback's kind is %q and its owner %q", kind, by)
	}
	if _, ok := sent[0].files[".kiln/ca.crt"]; !ok {
		t.Error("the fallback's context has no .kiln/ca.crt")
	}
	if base := sent[1].Args["BASE"]; base != standIn {
		t.Errorf("BASE = %q, want %q", base, standIn)
	}
	if text := strings.Join(got.lines(), "\n"); !strings.Contains(text, standIn+" stands in for "+upstream) {
		t.Errorf("nobody was told of the fallback:\n%s", text)
	}

	if _, _, err := r.build(t, r.revision(t, map[string]string{"handler.py": "2"}), "python"); err != nil {
		t.Fatal(err)
	}
	if n := len(r.engine.built()); n != 3 {
		t.Errorf("%d builds after a second function, want 3: the fallback is there", n)
	}
	if n := r.engine.Calls(enginetest.OpPull); n != 1 {
		t.Errorf("%d pulls, want 1: the failure is remembered", n)
	}
}

// TestComposerRenewsTheFallback: a fallback of another version of the template
// is built again, and used all the same when that fails.
func TestComposerRenewsTheFallback(t *testing.T) {
	r := newRig(t, nil)
	r.engine.AddImage(debian, enginetest.Idle(), nil)
	r.engine.AddImage(standIn, enginetest.Idle(), map[string]string{orchestrator.LabelBuild: "sha256:old"})
	r.engine.Fail(enginetest.OpBuild, orchestrator.Errorf(orchestrator.ErrFunction, "build-failed", "no mirror"))
	_, got, err := r.build(t, r.revision(t, map[string]string{"handler.py": ""}), "python")
	if err != nil {
		t.Fatal(err)
	}
	if text := strings.Join(got.lines(), "\n"); !strings.Contains(text, "could not be renewed") {
		t.Errorf("nobody was told that the fallback is old:\n%s", text)
	}
	if _, _, err := r.build(t, r.revision(t, map[string]string{"handler.py": "2"}), "python"); err != nil {
		t.Fatal(err)
	}
	image, err := r.engine.Image(t.Context(), standIn)
	if err != nil || image.Labels[orchestrator.LabelBuild] == "sha256:old" {
		t.Errorf("the fallback is %v, %v; want it renewed", image.Labels, err)
	}
}

func TestComposerWithoutAnyBase(t *testing.T) {
	r := newRig(t, nil)
	_, _, err := r.build(t, r.revision(t, map[string]string{"handler.py": ""}), "python")
	var failed *orchestrator.Error
	if !errors.As(err, &failed) || failed.Code != "base-missing" || !errors.Is(err, orchestrator.ErrUnavailable) || !strings.Contains(failed.Hint, "deploy/bootstrap") {
		t.Errorf("error %v, want base-missing with a hint at deploy/bootstrap", err)
	}
}

func TestComposerFallbackThatFails(t *testing.T) {
	r := newRig(t, nil)
	r.engine.AddImage(debian, enginetest.Idle(), nil)
	broken := orchestrator.Errorf(orchestrator.ErrFunction, "build-failed", "apt-get failed")
	broken.Output = []string{"E: no mirror"}
	r.engine.Fail(enginetest.OpBuild, broken)
	_, _, err := r.build(t, r.revision(t, map[string]string{"handler.py": ""}), "python")
	var failed *orchestrator.Error
	if !errors.As(err, &failed) || failed.Code != "base-failed" || failed.Class != orchestrator.ErrUnavailable {
		t.Fatalf("error %v, want base-failed of the class %q", err, orchestrator.ErrUnavailable)
	}
	if diff := cmp.Diff([]string{"E: no mirror"}, failed.Output); diff != "" {
		t.Errorf("output (-want +got):\n%s", diff)
	}
}

// TestBasesAreFetchedOnce: functions deployed at the same time wait for one
// fallback, not each for its own.
func TestBasesAreFetchedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		r.engine.AddImage(debian, enginetest.Idle(), nil)
		r.engine.Delay(enginetest.OpPull, 5*time.Second)
		var wg sync.WaitGroup
		for i := range 4 {
			rev := r.revision(t, map[string]string{"handler.py": string(rune('a' + i))})
			wg.Go(func() {
				if _, _, err := r.build(t, rev, "python"); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if pulls, builds := r.engine.Calls(enginetest.OpPull), len(r.engine.built()); pulls != 1 || builds != 5 {
			t.Errorf("%d pulls and %d builds, want 1 and 5", pulls, builds)
		}
	})
}

// TestSilentRegistry: a pull that says nothing gives way to the fallback, and
// the registry is asked again only later.
func TestSilentRegistry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		r.engine.AddImage(debian, enginetest.Idle(), nil)
		r.engine.Delay(enginetest.OpPull, time.Hour)
		began := time.Now()
		deploy := func(code string) time.Duration {
			before := time.Now()
			if _, _, err := r.build(t, r.revision(t, map[string]string{"handler.py": code}), "python"); err != nil {
				t.Fatal(err)
			}
			return time.Since(before)
		}
		if took := deploy("1"); took < 10*time.Second || took > time.Minute {
			t.Errorf("the first deploy took %v", took)
		}
		if took := deploy("2"); took != 0 {
			t.Errorf("the second deploy took %v, want no waiting", took)
		}
		time.Sleep(10 * time.Minute)
		r.engine.Delay(enginetest.OpPull, 0)
		r.engine.AddPullable(upstream, enginetest.Idle())
		deploy("3")
		sent := r.engine.built()
		if base := sent[len(sent)-1].Args["BASE"]; base != upstream {
			t.Errorf("%v later BASE = %q, want %q", time.Since(began), base, upstream)
		}
	})
}

func TestOwnDockerfile(t *testing.T) {
	r := newRig(t, nil)
	r.engine.AddImage(debian, enginetest.Idle(), nil)
	r.engine.AddPullable("golang:1", enginetest.Idle())
	dockerfile := "FROM golang:1 AS build\nRUN true\nFROM " + debian + "\nCOPY --from=build /x /x\n"
	rev := r.revision(t, map[string]string{"Dockerfile": dockerfile, "main.go": "package main"})
	rev.Spec.Build.Args, rev.Spec.Build.Test = map[string]string{"A": "1"}, true
	_, got, err := r.build(t, rev, "dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	sent := r.engine.built()[0]
	if diff := cmp.Diff(map[string]string{"Dockerfile": dockerfile, "main.go": "package main", ".kiln/ca.crt": ""}, sent.files); diff != "" {
		t.Errorf("context (-want +got):\n%s", diff)
	}
	if sent.Dockerfile != "Dockerfile" {
		t.Errorf("Dockerfile %q, want the function's own", sent.Dockerfile)
	}
	if diff := cmp.Diff(map[string]string{"A": "1", "KILN_TEST": "1", "BUILDKIT_CACHE_MOUNT_NS": owner + "/f"}, sent.Args); diff != "" {
		t.Errorf("args (-want +got):\n%s", diff)
	}
	steps := got.steps()
	if !slices.Contains(steps, "[base] golang:1: done") || !slices.Contains(steps, "[base] "+debian+": cached") {
		t.Errorf("steps %q, want those of both images", steps)
	}
}

// TestOwnDockerfileGetsFallbacks: the builder reads a changed file, the function
// keeps its own, and the upstream name is given to nothing else.
func TestOwnDockerfileGetsFallbacks(t *testing.T) {
	r := newRig(t, nil)
	r.engine.AddImage(debian, enginetest.Idle(), nil)
	dockerfile := "# syntax=docker/dockerfile:1\nFROM docker.io/library/" + upstream + "\nCOPY . /app\n"
	_, _, err := r.build(t, r.revision(t, map[string]string{"sub/Dockerfile.prod": dockerfile}), "dockerfile")
	var failed *orchestrator.Error
	if !errors.As(err, &failed) || failed.Code != "dockerfile-missing" {
		t.Fatalf("without a Dockerfile: error %v, want dockerfile-missing", err)
	}

	rev := r.revision(t, map[string]string{"sub/Dockerfile.prod": dockerfile})
	rev.Spec.Handler = "./sub/Dockerfile.prod"
	_, got, err := r.build(t, rev, "dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	sent := r.engine.built()[1]
	if diff := cmp.Diff("#\nFROM "+standIn+"\nCOPY . /app\n", sent.files[sent.Dockerfile]); diff != "" {
		t.Errorf("%s (-want +got):\n%s", sent.Dockerfile, diff)
	}
	if sent.files["sub/Dockerfile.prod"] != dockerfile {
		t.Error("the function's own file was changed")
	}
	if _, err := r.engine.Image(t.Context(), upstream); !errors.Is(err, orchestrator.ErrNotFound) {
		t.Errorf("the image %s exists now (%v)", upstream, err)
	}
	text := strings.Join(got.lines(), "\n")
	for _, want := range []string{"syntax=docker/dockerfile:1", "stands in for docker.io/library/" + upstream} {
		if !strings.Contains(text, want) {
			t.Errorf("nobody was told %q:\n%s", want, text)
		}
	}
}

func TestOwnDockerfileOfAMissingImage(t *testing.T) {
	r := newRig(t, nil)
	rev := r.revision(t, map[string]string{"Dockerfile": "FROM debain:trixie\n"})
	_, _, err := r.build(t, rev, "dockerfile")
	var failed *orchestrator.Error
	if !errors.As(err, &failed) || failed.Code != "base-missing" || failed.Class != orchestrator.ErrFunction || !strings.Contains(failed.Detail, "debain:trixie") {
		t.Errorf("error %v, want base-missing of the class %q that names the image", err, orchestrator.ErrFunction)
	}
}

func TestComposerFailures(t *testing.T) {
	code := map[string]string{"handler.py": ""}
	for _, test := range []struct {
		name  string
		spoil func(*testing.T, *rig, *orchestrator.Revision)
		want  error
	}{
		{"archive is gone", func(t *testing.T, r *rig, rev *orchestrator.Revision) {
			rev.ArchiveDigest = "sha256:gone"
		}, orchestrator.ErrNotFound},
		{"archive is no archive", func(t *testing.T, r *rig, rev *orchestrator.Revision) {
			var err error
			if rev.ArchiveDigest, _, err = r.store.PutArchive(t.Context(), strings.NewReader(strings.Repeat("no tar ", 1000))); err != nil {
				t.Fatal(err)
			}
		}, orchestrator.ErrUnavailable},
		{"engine is away", func(_ *testing.T, r *rig, _ *orchestrator.Revision) { r.engine.Down() }, orchestrator.ErrUnavailable},
		{"step fails", func(_ *testing.T, r *rig, _ *orchestrator.Revision) {
			r.engine.Fail(enginetest.OpBuild, orchestrator.Errorf(orchestrator.ErrFunction, "build-failed", "exit code: 1"))
		}, orchestrator.ErrFunction},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := newRig(t, nil)
			r.engine.AddImage(upstream, enginetest.Idle(), nil)
			rev := r.revision(t, code)
			test.spoil(t, r, &rev)
			if _, _, err := r.build(t, rev, "python"); !errors.Is(err, test.want) {
				t.Errorf("error %v, want the class %q", err, test.want)
			}
		})
	}
	t.Run("extra CA is gone", func(t *testing.T) {
		r := newRig(t, func(c *build.Config) { c.ExtraCA = filepath.Join(t.TempDir(), "absent") })
		if _, _, err := r.build(t, r.revision(t, code), "python"); !errors.Is(err, orchestrator.ErrUnavailable) || !strings.Contains(err.Error(), "absent") {
			t.Errorf("error %v, want one of the class %q that names the file", err, orchestrator.ErrUnavailable)
		}
	})
}

// TestPipeline runs all of it: what is equal is built once, at the same time
// and later.
func TestPipeline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		r.engine.AddImage(upstream, enginetest.Idle(), nil)
		r.engine.Delay(enginetest.OpBuild, time.Minute)
		builder := build.New(r.config)
		var wg sync.WaitGroup
		ids := make([]string, 4)
		for i := range ids {
			rev := r.revision(t, map[string]string{"handler.py": "the same"})
			rev.Function, rev.Image = "f"+string(rune('a'+i)), "kiln/f"+string(rune('a'+i))+":r1"
			wg.Go(func() {
				image, err := builder.BuildRevision(t.Context(), rev, r.template("python"), nil)
				if err != nil {
					t.Error(err)
				}
				ids[i] = image.ID
			})
		}
		wg.Wait()
		if got := slices.Compact(ids); len(got) != 1 || len(r.engine.built()) != 1 {
			t.Errorf("images %q of %d builds, want one", got, len(r.engine.built()))
		}
		before := time.Now()
		rev := r.revision(t, map[string]string{"handler.py": "the same"})
		if _, err := builder.BuildRevision(t.Context(), rev, r.template("python"), nil); err != nil {
			t.Error(err)
		}
		if took := time.Since(before); took != 0 {
			t.Errorf("a build of what exists took %v", took)
		}
	})
}

// talkingRegistry is slow and says so.
type talkingRegistry struct{ *watched }

func (r talkingRegistry) Pull(ctx context.Context, ref string, progress func(orchestrator.BuildEvent)) error {
	for range 20 {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(10 * time.Second):
			progress(line("another layer"))
		}
	}
	return r.watched.Pull(ctx, ref, progress)
}

// TestSlowRegistry: a pull that makes progress is not given up, however long it
// takes.
func TestSlowRegistry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		r.engine.AddPullable(upstream, enginetest.Idle())
		r.config.Images = talkingRegistry{r.engine}
		r.builder = build.NewComposer(r.config)
		if _, _, err := r.build(t, r.revision(t, map[string]string{"handler.py": ""}), "python"); err != nil {
			t.Fatal(err)
		}
		if base := r.engine.built()[0].Args["BASE"]; base != upstream {
			t.Errorf("BASE = %q, want %q", base, upstream)
		}
	})
}

// slowArchives yields archives slowly, and notes one closed during a read.
type slowArchives struct {
	build.Archives
	t *testing.T
}

func (a slowArchives) Archive(ctx context.Context, digest string) (io.ReadCloser, error) {
	r, err := a.Archives.Archive(ctx, digest)
	return &slowReader{ReadCloser: r, t: a.t}, err
}

type slowReader struct {
	io.ReadCloser
	t       *testing.T
	mu      sync.Mutex
	reading bool // guarded by mu
}

func (r *slowReader) set(reading bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.reading = reading
}

func (r *slowReader) Read(p []byte) (int, error) {
	r.set(true)
	defer r.set(false)
	time.Sleep(time.Minute)
	return r.ReadCloser.Read(p)
}

func (r *slowReader) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.reading {
		r.t.Error("the archive was closed while it was read")
	}
	return r.ReadCloser.Close()
}

// refusing is an engine that refuses a build after a look at its context.
type refusing struct{}

func (refusing) Build(_ context.Context, r orchestrator.BuildRequest) (orchestrator.Image, error) {
	if _, err := io.CopyN(io.Discard, r.Context, 512); err != nil { // the folder of the code
		return orchestrator.Image{}, err
	}
	time.Sleep(time.Second) // the archive is being read
	return orchestrator.Image{}, orchestrator.Errorf(orchestrator.ErrInvalid, "engine-refused", "no")
}

func TestComposerEndsItsWriter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		r.engine.AddImage(upstream, enginetest.Idle(), nil)
		rev := r.revision(t, map[string]string{"handler.py": ""})
		config := r.config
		config.Archives, config.Builder = slowArchives{r.store, t}, refusing{}
		// No file of the template: the writer gets to the archive at once.
		config.Templates = catalogue{list: r.config.Templates.Templates(), files: map[string]map[string]string{}}
		if _, err := build.NewComposer(config).BuildRevision(t.Context(), rev, r.template("python"), nil); !errors.Is(err, orchestrator.ErrInvalid) {
			t.Errorf("error %v, want the engine's", err)
		}
	})
}
