package build

import (
	"archive/tar"
	"context"
	"errors"
	"io"
	"maps"
	"strings"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/templates"
)

// Composer is the builder at the end of the pipeline: it finds the base images,
// composes the build context and has the engine build it.
type Composer struct {
	config Config
	bases  baseResolver
}

var _ orchestrator.RevisionBuilder = (*Composer)(nil)

// NewComposer returns the end of a pipeline. Of c, Limit, Timeout and Logger are
// not used.
func NewComposer(c Config) *Composer {
	return &Composer{config: c, bases: baseResolver{
		images: c.Images, builder: c.Builder, templates: c.Templates, owner: c.Owner,
	}}
}

// BuildRevision implements orchestrator.RevisionBuilder.
func (b *Composer) BuildRevision(ctx context.Context, r orchestrator.Revision, t orchestrator.Template, progress func(orchestrator.BuildEvent)) (orchestrator.Image, error) {
	if progress == nil {
		progress = func(orchestrator.BuildEvent) {}
	}
	with, err := b.terms(ctx, progress)
	if err != nil {
		return orchestrator.Image{}, err
	}
	p, err := b.plan(ctx, r, t, with)
	if err != nil {
		return orchestrator.Image{}, err
	}
	code, err := b.config.Archives.Archive(ctx, r.ArchiveDigest)
	if err != nil {
		return orchestrator.Image{}, err
	}
	defer code.Close()

	return b.run(ctx, p, with, code, orchestrator.BuildRequest{
		Tags: []string{r.Image},
		Labels: map[string]string{
			orchestrator.LabelOwner:    b.config.Owner,
			orchestrator.LabelKind:     orchestrator.KindImage,
			orchestrator.LabelFunction: r.Function,
			orchestrator.LabelRevision: r.ID,
			orchestrator.LabelTemplate: t.Name,
			orchestrator.LabelBuild:    r.BuildDigest,
		},
	})
}

// run has the engine build a plan. code is the function's archive, nil for none;
// of the request, tags, labels and target are the caller's.
func (b *Composer) run(ctx context.Context, p plan, with terms, code io.Reader, request orchestrator.BuildRequest) (orchestrator.Image, error) {
	// The context is written while the engine reads it. The writer ends when the
	// reader is closed, and is waited for before the caller closes the archive.
	reader, writer := io.Pipe()
	written := make(chan struct{})
	go func() {
		defer close(written)
		writer.CloseWithError(p.context.write(writer, with.ca, code))
	}()
	defer func() {
		reader.Close()
		<-written
	}()
	request.Context = reader
	request.Dockerfile = p.context.dockerfilePath()
	request.Args = p.args
	request.Network = p.network
	request.Limits = b.config.Step
	request.Output = b.config.Output
	request.Progress = with.progress
	image, err := b.config.Builder.Build(ctx, request)
	return image, sealed(err, p.network)
}

// sealed adds to the error of a build without a network that it had none.
func sealed(err error, network string) error {
	var failed *orchestrator.Error
	if network != networkNone || !errors.As(err, &failed) || failed.Code != "build-failed" || failed.Hint != "" {
		return err
	}
	return failed.WithHint("the steps of this build had no network; build.network: internet in function.yaml gives them one")
}

// terms reads what may change from build to build.
func (b *Composer) terms(ctx context.Context, progress func(orchestrator.BuildEvent)) (with terms, err error) {
	with = terms{dialect: func(dockerfile []byte) []byte { return dockerfile }, progress: progress}
	if with.ca, err = readCA(b.config.ExtraCA); err != nil {
		return with, err
	}
	if b.config.Classic == nil {
		return with, nil
	}
	classic, err := b.config.Classic(ctx)
	if classic {
		with.dialect, with.classic = templates.ForClassic, true
	}
	return with, err
}

// argCaches is the build argument by which BuildKit tells cache mounts of the same
// id apart.
const argCaches = "BUILDKIT_CACHE_MOUNT_NS"

// plan is the context and the arguments of a build.
type plan struct {
	context *buildContext
	args    map[string]string
	network string // of its steps
}

// plan gets the base images and settles context and arguments.
func (b *Composer) plan(ctx context.Context, r orchestrator.Revision, t orchestrator.Template, with terms) (p plan, err error) {
	p.args = maps.Clone(r.Spec.Build.Args)
	if p.args == nil {
		p.args = map[string]string{}
	}
	asks, err := b.asks(ctx, r, t)
	if err != nil {
		return p, err
	}
	p.network = network(r, asks)
	if t.CodeDir == "." {
		err = b.planOwn(ctx, &p, r, t, with)
	} else {
		err = b.planTemplate(ctx, &p, r, t, with)
	}
	if err != nil {
		return p, err
	}
	// Only code that the function brings or names can spoil a cache for others.
	if asks || r.Spec.Build.Test {
		p.context.dockerfile = templates.WithOwnCaches(p.context.dockerfile, b.config.Owner+"-"+r.Function)
	}
	p.context.dockerfile = with.dialect(p.context.dockerfile)
	return p, nil
}

// planTemplate is for a template with a Dockerfile.
func (b *Composer) planTemplate(ctx context.Context, p *plan, r orchestrator.Revision, t orchestrator.Template, with terms) (err error) {
	p.context, err = newContext(func(w *tar.Writer) error { return b.config.Templates.Context(t.Name, w) }, t.Dockerfile(r.Spec.Handler))
	if err != nil {
		return err
	}
	p.context.codeDir = t.CodeDir
	p.args[templates.ArgHandler] = r.Spec.Handler
	p.args[templates.ArgPackages] = strings.Join(r.Spec.Build.Packages, " ")
	p.args[templates.ArgTest] = ""
	p.askForTests(r)
	for _, base := range t.Bases {
		if p.args[base.Arg], err = b.bases.resolve(ctx, base, with); err != nil {
			return err
		}
	}
	return nil
}

// askForTests has the function's own tests run, where its settings want it.
func (p *plan) askForTests(r orchestrator.Revision) {
	if r.Spec.Build.Test {
		p.args[templates.ArgTest] = "1"
	}
}

// planOwn is for a function that brings its Dockerfile. Images that a template
// has a fallback for get it here too, by changing what the builder reads: to
// give the fallback the name of the image it stands in for would lie to
// everybody else on the engine.
func (b *Composer) planOwn(ctx context.Context, p *plan, r orchestrator.Revision, t orchestrator.Template, with terms) error {
	p.askForTests(r) // what the Dockerfile makes of it is its own affair
	name := t.Dockerfile(r.Spec.Handler)
	code, err := b.config.Archives.Archive(ctx, r.ArchiveDigest)
	if err != nil {
		return err
	}
	defer code.Close()
	dockerfile, err := findFile(code, name)
	if err != nil {
		return err
	}
	if dockerfile == nil {
		return orchestrator.Errorf(orchestrator.ErrInvalid, "dockerfile-missing", "the archive has no %s", name).
			WithHint("put it beside the code, or name another one with handler")
	}
	if err := refuse(name, dockerfile); err != nil {
		return err
	}
	p.context = &buildContext{path: name, original: dockerfile, codeDir: t.CodeDir}
	if plain, frontend := withoutSyntax(dockerfile); frontend != "" {
		// The engine would have to pull the frontend, and cannot without a session.
		s := begin(with.progress, "syntax", "[dockerfile] %s", name)
		s.line("the line \"syntax=%s\" is left out: the engine's own frontend reads the file", frontend)
		s.end(nil)
		dockerfile = plain
	}
	refs := references(dockerfile, r.Spec.Build.Args)
	by := map[string]string{}
	for _, ref := range refs {
		if by[ref.image] != "" {
			continue
		}
		if by[ref.image], err = b.bases.resolve(ctx, b.bases.known(ref.image), with); err != nil {
			return err
		}
	}
	p.context.dockerfile = rewrite(dockerfile, refs, by)
	if !with.classic {
		p.args[argCaches] = b.config.Owner + "/" + r.Function
	}
	return nil
}
