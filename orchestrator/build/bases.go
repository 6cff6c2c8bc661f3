package build

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/templates"
)

const (
	// pullPatience is how long a pull may say nothing before the fallback is
	// built: a registry that answers does so within seconds.
	pullPatience = 15 * time.Second
	// pullMemory is how long a registry that does not answer is not asked again
	// when there is a fallback: a machine without one does not wait at each
	// deploy, and one that gets its network back soon notices.
	pullMemory = 10 * time.Minute
)

// baseResolver finds the images that Dockerfiles build on: present, else
// pulled, else the fallback that a template has for it, built when needed.
type baseResolver struct {
	images    orchestrator.Images
	builder   orchestrator.Builder
	templates Templates
	owner     string
	fetches   flights[string]

	mu     sync.Mutex
	missed map[string]time.Time // guarded by mu: registry or image -> until when it is not asked again
}

// terms are what the builds of one deploy have in common.
type terms struct {
	ca       []byte              // extra authorities
	dialect  func([]byte) []byte // makes a Dockerfile one that the builder understands
	classic  bool                // the builder is the classic one
	progress func(orchestrator.BuildEvent)
}

// resolve returns a reference of the image that base stands for.
func (b *baseResolver) resolve(ctx context.Context, base orchestrator.Base, with terms) (string, error) {
	_, err := b.images.Image(ctx, base.Image)
	if err == nil {
		passed(with.progress, "base-"+base.Image, "[base] %s", base.Image)
		return base.Image, nil
	}
	if !errors.Is(err, orchestrator.ErrNotFound) {
		return "", err
	}
	ref, _, err := b.fetches.do(ctx, base.Image+" "+base.Fallback, with.progress, func(ctx context.Context, progress func(orchestrator.BuildEvent)) (string, error) {
		with.progress = progress
		s := begin(progress, "base-"+base.Image, "[base] %s", base.Image)
		ref, err := b.fetch(ctx, base, with, s)
		s.end(err)
		return ref, err
	})
	return ref, err
}

// fetch gets an image that is not there.
func (b *baseResolver) fetch(ctx context.Context, base orchestrator.Base, with terms, s *step) (string, error) {
	if base.Fallback != "" && b.recentlyMissed(base.Image) {
		s.line("its registry did not answer a moment ago; %s stands in", base.Fallback)
		return base.Fallback, b.fallback(ctx, base.Fallback, with, s)
	}
	err := b.pull(ctx, base.Image, with.progress)
	switch {
	case err == nil:
		return base.Image, nil
	case ctx.Err() != nil:
		return "", ended(ctx)
	case base.Fallback == "":
		return "", missing(base.Image, err)
	}
	b.miss(base.Image, err)
	s.line("%v", err)
	s.line("%s stands in for %s: Debian's own packages, which may be of another version", base.Fallback, base.Image)
	return base.Fallback, b.fallback(ctx, base.Fallback, with, s)
}

// debianBase is what every fallback is made of.
const debianBase = "debian:trixie-slim"

// missing is the error of an image that is not there and cannot be pulled.
func missing(image string, err error) error {
	if image == debianBase {
		return orchestrator.Errorf(orchestrator.ErrUnavailable, "base-missing", "the image %s is not there and cannot be pulled: %w", image, err).
			WithHint("run deploy/bootstrap (or make up) on the engine's machine: it makes the image from Debian's packages")
	}
	if errors.Is(err, orchestrator.ErrNotFound) {
		return orchestrator.Errorf(orchestrator.ErrFunction, "base-missing", "the Dockerfile needs the image %s, which does not exist: %w", image, err).
			WithHint("check its name; an image of a private registry has to be pulled on the engine's machine first")
	}
	return orchestrator.Errorf(orchestrator.ErrUnavailable, "base-missing", "the image %s is not there and cannot be pulled: %w", image, err).
		WithHint("pull it on the engine's machine, or bring it there with docker save and docker load")
}

// errSilent ends a pull that says nothing.
var errSilent = errors.New("no word from the registry in " + pullPatience.String())

// pull fetches an image from its registry.
func (b *baseResolver) pull(ctx context.Context, image string, progress func(orchestrator.BuildEvent)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silence := time.AfterFunc(pullPatience, func() { cancel(errSilent) })
	defer silence.Stop()
	err := b.images.Pull(ctx, image, func(e orchestrator.BuildEvent) {
		silence.Reset(pullPatience)
		progress(e)
	})
	if err != nil && context.Cause(ctx) == errSilent {
		return orchestrator.Errorf(orchestrator.ErrUnavailable, "image-pull-failed", "pull %s: %w", image, errSilent)
	}
	return err
}

// miss remembers that an image could not be pulled: of a registry that does not
// answer nothing can be.
func (b *baseResolver) miss(image string, err error) {
	key := image
	if errors.Is(err, orchestrator.ErrUnavailable) {
		key = registry(image)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.missed == nil {
		b.missed = map[string]time.Time{}
	}
	b.missed[key] = time.Now().Add(pullMemory)
}

func (b *baseResolver) recentlyMissed(image string) bool {
	now := time.Now()
	b.mu.Lock()
	defer b.mu.Unlock()
	return now.Before(b.missed[image]) || now.Before(b.missed[registry(image)])
}

// registry returns the host that an image comes from; Docker Hub's when the
// reference begins with none. It ends with a slash, as no image does.
func registry(image string) string {
	host, _, ok := strings.Cut(image, "/")
	if !ok || !strings.ContainsAny(host, ".:") && host != "localhost" {
		host = "docker.io"
	}
	return host + "/"
}

// fallback makes sure that a fallback image is there, and is what this version
// of its template makes.
func (b *baseResolver) fallback(ctx context.Context, tag string, with terms, s *step) error {
	files, err := newContext(func(w *tar.Writer) error { return b.templates.WriteFallback(tag, w) }, templates.ContextDockerfile)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(files.files)
	digest := "sha256:" + hex.EncodeToString(sum[:])
	present, err := b.images.Image(ctx, tag)
	there := err == nil
	switch {
	case there && present.Labels[orchestrator.LabelBuild] == digest:
		return nil
	case err != nil && !errors.Is(err, orchestrator.ErrNotFound):
		return err
	}
	err = b.buildFallback(ctx, tag, files, digest, with, s)
	if err != nil && there && ctx.Err() == nil {
		s.line("%s could not be renewed, the one that is there is used: %v", tag, err)
		return nil
	}
	return err
}

func (b *baseResolver) buildFallback(ctx context.Context, tag string, c *buildContext, digest string, with terms, s *step) error {
	for _, ref := range references(c.dockerfile, nil) {
		if _, err := b.resolve(ctx, orchestrator.Base{Image: ref.image}, with); err != nil {
			return err
		}
	}
	c.dockerfile = with.dialect(c.dockerfile)
	s.line("building %s, once", tag)
	var out bytes.Buffer
	if err := c.write(&out, with.ca, nil); err != nil {
		return err
	}
	_, err := b.builder.Build(ctx, orchestrator.BuildRequest{
		Tags:       []string{tag},
		Context:    &out,
		Dockerfile: templates.ContextDockerfile,
		Labels: map[string]string{
			orchestrator.LabelOwner: b.owner,
			orchestrator.LabelKind:  orchestrator.KindBase,
			orchestrator.LabelBuild: digest,
		},
		Progress: with.progress,
	})
	if failed := (*orchestrator.Error)(nil); errors.As(err, &failed) && errors.Is(err, orchestrator.ErrFunction) {
		// Not the function's fault: the machine has neither registry nor mirror.
		unavailable := orchestrator.Errorf(orchestrator.ErrUnavailable, "base-failed", "the base image %s could not be built", tag).
			WithHint("it takes packages from a Debian mirror: check the engine's network, and extra_ca_file where TLS is re-signed")
		unavailable.Output, unavailable.Cause = failed.Output, err
		return unavailable
	}
	if err != nil {
		return fmt.Errorf("build the base image %s: %w", tag, err)
	}
	return nil
}

// known returns the base of a template that an image is, so that a Dockerfile
// of a user gets the same fallback.
func (b *baseResolver) known(image string) orchestrator.Base {
	name := strings.TrimPrefix(strings.TrimPrefix(image, "docker.io/"), "library/")
	for _, t := range b.templates.Templates() {
		for _, base := range t.Bases {
			if base.Image == name {
				return orchestrator.Base{Image: image, Fallback: base.Fallback}
			}
		}
	}
	return orchestrator.Base{Image: image}
}
