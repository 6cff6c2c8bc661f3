package enginetest

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"net"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/enginetest/probe"
)

// keptLines of a failed step go into its error.
const keptLines = 50

// Build carries out a Dockerfile as far as Fake's comment says.
func (f *Fake) Build(ctx context.Context, request orchestrator.BuildRequest) (orchestrator.Image, error) {
	if err := f.begin(ctx, OpBuild); err != nil {
		return orchestrator.Image{}, err
	}
	files, err := readContext(request.Context)
	if err != nil {
		return orchestrator.Image{}, err
	}
	name := request.Dockerfile
	if name == "" {
		name = "Dockerfile"
	}
	dockerfile, ok := files[path.Clean(name)]
	if !ok {
		return orchestrator.Image{}, orchestrator.Errorf(orchestrator.ErrFunction, "dockerfile-invalid", "there is no %s in the context", name)
	}
	f.mu.Lock()
	b := &fakeBuild{fake: f, request: request, id: f.id()[:8]}
	f.mu.Unlock()
	b.digest(fmt.Sprint(request.Args))
	for path, content := range sortedFiles(files) {
		b.digest(path, string(content))
	}
	lines := instructions(string(dockerfile))
	for i, line := range lines {
		if err := b.step(ctx, fmt.Sprintf("[%d/%d] %s", i+1, len(lines), line), line); err != nil {
			return orchestrator.Image{}, err
		}
	}
	if b.base == nil {
		return orchestrator.Image{}, orchestrator.Errorf(orchestrator.ErrFunction, "dockerfile-invalid", "the Dockerfile has no FROM")
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	labels := maps.Clone(b.base.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	maps.Copy(labels, request.Labels)
	built := f.addImage(orchestrator.Image{Labels: labels, Size: b.base.Size, User: b.base.User, Ports: b.base.Ports}, b.base.program, request.Tags...)
	return built.report(), nil
}

// fakeBuild is one build in progress.
type fakeBuild struct {
	fake    *Fake
	request orchestrator.BuildRequest
	id      string
	base    *fakeImage
	steps   int
	printed orchestrator.Bytes
	key     [sha256.Size]byte // of everything up to here
}

func (b *fakeBuild) digest(parts ...string) {
	b.key = sha256.Sum256(fmt.Appendf(nil, "%x %q", b.key, parts))
}

func (b *fakeBuild) emit(e orchestrator.BuildEvent) {
	if b.request.Progress != nil {
		e.Time = time.Now()
		e.Step = fmt.Sprintf("%s-%d", b.id, b.steps)
		b.request.Progress(e)
	}
}

// step carries out one instruction, or finds that it was done before.
func (b *fakeBuild) step(ctx context.Context, name, instruction string) error {
	b.steps++
	b.digest(instruction)
	key := hex.EncodeToString(b.key[:])
	b.emit(orchestrator.BuildEvent{Kind: orchestrator.BuildStep, Name: name, State: orchestrator.StepStarted})
	b.fake.mu.Lock()
	cached := b.fake.built[key]
	b.fake.mu.Unlock()
	started := time.Now()
	end := func(state orchestrator.StepState) {
		b.emit(orchestrator.BuildEvent{Kind: orchestrator.BuildStep, Name: name, State: state, Duration: orchestrator.Duration(time.Since(started))})
	}
	word, rest, _ := strings.Cut(instruction, " ")
	var err error
	switch word = strings.ToUpper(word); {
	case word == "FROM":
		err = b.from(rest)
	case word == "RUN" && !cached:
		err = b.runStep(ctx, name, rest)
	}
	switch {
	case err != nil:
		end(orchestrator.StepFailed)
		return err
	case cached:
		end(orchestrator.StepCached)
		return nil
	}
	end(orchestrator.StepDone)
	b.fake.mu.Lock()
	b.fake.built[key] = true
	b.fake.mu.Unlock()
	return nil
}

func (b *fakeBuild) from(rest string) error {
	ref, _, _ := strings.Cut(rest, " ")
	for name, value := range b.request.Args {
		ref = strings.ReplaceAll(strings.ReplaceAll(ref, "${"+name+"}", value), "$"+name, value)
	}
	b.fake.mu.Lock()
	defer b.fake.mu.Unlock()
	if ref == "scratch" {
		b.base = &fakeImage{program: Idle()}
		return nil
	}
	base, err := b.fake.find(ref)
	if err != nil {
		return orchestrator.Errorf(orchestrator.ErrFunction, "base-missing", "a base image does not exist: %w", err)
	}
	b.base = base
	return nil
}

// runStep carries out RUN ["/probe", "script", …].
func (b *fakeBuild) runStep(ctx context.Context, name, command string) error {
	var args []string
	if err := json.Unmarshal([]byte(command), &args); err != nil || len(args) == 0 || path.Base(args[0]) != "probe" {
		return nil
	}
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	out := &buildOutput{build: b, stop: stop}
	code := probe.Main(ctx, probe.Machine{
		Env:    func(string) string { return "" },
		Stdout: out,
		Stderr: out,
		Listen: func() (net.Listener, error) { return nil, errors.New("a build does not listen") },
	}, args[1:])
	if context.Cause(ctx) == errFlood {
		err := orchestrator.Errorf(orchestrator.ErrFunction, "build-output-limit", "the build printed more than %s", b.request.Output)
		err.Output = out.last
		return err
	}
	if err := ctxError(ctx, OpBuild); err != nil {
		return err
	}
	if code != 0 {
		err := orchestrator.Errorf(orchestrator.ErrFunction, "build-failed", "the build failed at %s: exit code: %d", name, code)
		err.Output = out.last
		return err
	}
	return nil
}

// buildOutput makes log events of a step's lines.
type buildOutput struct {
	build *fakeBuild
	stop  context.CancelCauseFunc
	last  []string
}

var errFlood = errors.New("the build prints more than it may")

// Write takes whole lines, as the probe writes them.
func (o *buildOutput) Write(p []byte) (int, error) {
	o.build.printed += orchestrator.Bytes(len(p))
	if allowed := o.build.request.Output; allowed > 0 && o.build.printed > allowed {
		o.stop(errFlood)
		return len(p), nil
	}
	for line := range strings.SplitSeq(strings.TrimSuffix(string(p), "\n"), "\n") {
		o.last = append(o.last, line)
		o.last = o.last[max(0, len(o.last)-keptLines):]
		o.build.emit(orchestrator.BuildEvent{Kind: orchestrator.BuildLog, Line: line})
	}
	return len(p), nil
}

// maxContext bounds what a fake build reads.
const maxContext = 64 << 20

func readContext(r io.Reader) (map[string][]byte, error) {
	files := map[string][]byte{}
	for archive := tar.NewReader(io.LimitReader(r, maxContext)); ; {
		header, err := archive.Next()
		if err == io.EOF {
			return files, nil
		}
		if err != nil {
			return nil, contextError(err)
		}
		if header.Typeflag != tar.TypeReg {
			continue
		}
		content, err := io.ReadAll(archive)
		if err != nil {
			return nil, contextError(err)
		}
		files[path.Clean(header.Name)] = content
	}
}

// contextError passes the caller's own errors on; what is no tar is invalid.
func contextError(err error) error {
	if errors.Is(err, tar.ErrHeader) || errors.Is(err, io.ErrUnexpectedEOF) {
		return orchestrator.Errorf(orchestrator.ErrInvalid, "build-context-invalid", "the build context is no tar: %w", err)
	}
	return err
}

// instructions are the lines of a Dockerfile without comments, continuations
// joined.
func instructions(dockerfile string) []string {
	var list []string
	var open strings.Builder
	for line := range bytes.Lines([]byte(dockerfile)) {
		text := strings.TrimSpace(string(line))
		if text == "" || text[0] == '#' {
			continue
		}
		before, continues := strings.CutSuffix(text, "\\")
		open.WriteString(before)
		if !continues {
			list = append(list, open.String())
			open.Reset()
		}
	}
	return list
}

// sortedFiles yields files by path.
func sortedFiles(files map[string][]byte) iter.Seq2[string, []byte] {
	return func(yield func(string, []byte) bool) {
		for _, name := range slices.Sorted(maps.Keys(files)) {
			if !yield(name, files[name]) {
				return
			}
		}
	}
}
