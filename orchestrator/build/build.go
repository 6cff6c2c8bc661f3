// Package build makes the image of a revision out of its archive and its
// template.
//
// It is a pipeline of values that all have the one method of
// orchestrator.RevisionBuilder: Composer at the end does the work (base images,
// build context, build), and the others each add one thing around the next:
// Disk, Timeout, Limit, Cache, Dedupe, Record. New puts them together.
package build

import (
	"archive/tar"
	"context"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/templates"
)

// Defaults of Config.
const (
	// DefaultLimit is how many builds run at once: what they do at the same time
	// adds up.
	DefaultLimit = 2
	// DefaultTimeout is long enough for a base image and a large dependency tree
	// on two cores, and short enough that a build that hangs is noticed.
	DefaultTimeout = 15 * time.Minute
	// DefaultOutput is more than people read. BuildKit cuts the output of a step
	// at 1 or 2 MiB by itself.
	DefaultOutput = 16 * orchestrator.MiB
)

// Archives is what the pipeline needs of the store: orchestrator.Store.Archive.
type Archives interface {
	Archive(ctx context.Context, digest string) (io.ReadCloser, error)
}

// Templates is what the pipeline needs of the catalogue of templates.
type Templates interface {
	// Templates returns all templates; their Bases say which images have a
	// fallback.
	Templates() []orchestrator.Template
	// Context writes the template's part of a build context.
	Context(template string, w *tar.Writer) error
	// WriteFallback writes the build context of a fallback base image.
	WriteFallback(tag string, w *tar.Writer) error
}

var _ Templates = (*templates.Catalogue)(nil)

// Config says what a pipeline works with.
type Config struct {
	Archives  Archives
	Templates Templates
	Builder   orchestrator.Builder
	Images    orchestrator.Images
	// Owner is the id of the installation: the label of every image made, and
	// what an image must carry to be used again.
	Owner string
	// Limit is how many builds run at once; 0 = DefaultLimit.
	Limit int
	// Timeout bounds one build, base images included, waiting not; 0 =
	// DefaultTimeout.
	Timeout time.Duration
	// ExtraCA is a PEM file of authorities that build steps trust besides their
	// own; empty = none. It is read for each build.
	ExtraCA string
	// Step bounds each step; see orchestrator.BuildRequest.Limits. 0 is no limit.
	Step orchestrator.Limits
	// Output is how much the steps of one build may print; 0 = DefaultOutput.
	Output orchestrator.Bytes
	// Disk watches the engine's disk during builds.
	Disk DiskWatch
	// Classic says whether Builder is the engine's classic builder, which does
	// not know RUN --mount; nil = it is BuildKit.
	Classic func(context.Context) (bool, error)
	// Logger is told of builds that succeeded; nil = slog.Default(). Failures are
	// returned.
	Logger *slog.Logger
}

// New returns the whole pipeline: builds of the same input share one, an image
// that exists is used again, a few run at once and each only so long.
func New(c Config) orchestrator.RevisionBuilder {
	if c.Limit == 0 {
		c.Limit = DefaultLimit
	}
	if c.Timeout == 0 {
		c.Timeout = DefaultTimeout
	}
	if c.Output == 0 {
		c.Output = DefaultOutput
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	var b orchestrator.RevisionBuilder = NewComposer(c)
	b = Disk(b, c.Disk, c.Logger)
	b = Timeout(b, c.Timeout)
	b = Record(b, logRecorder{c.Logger})
	b = Limit(b, c.Limit)
	b = Cache(b, c.Images, c.Owner)
	return Dedupe(b, c.Images)
}

// builderFunc makes a RevisionBuilder of a function.
type builderFunc func(context.Context, orchestrator.Revision, orchestrator.Template, func(orchestrator.BuildEvent)) (orchestrator.Image, error)

// BuildRevision calls f with a progress that is never nil.
func (f builderFunc) BuildRevision(ctx context.Context, r orchestrator.Revision, t orchestrator.Template, progress func(orchestrator.BuildEvent)) (orchestrator.Image, error) {
	if progress == nil {
		progress = func(orchestrator.BuildEvent) {}
	}
	return f(ctx, r, t, progress)
}

// ended is the error of a call whose context is over.
func ended(ctx context.Context) error {
	return orchestrator.Errorf(orchestrator.ErrDeadline, "build-cancelled", "the build was given up: %w", context.Cause(ctx))
}

// maxCA bounds the file of extra authorities: the bundle of a whole
// distribution has 230 KiB.
const maxCA = 4 << 20

// readCA returns the extra authorities, empty when there are none.
func readCA(path string) ([]byte, error) {
	if path == "" {
		return nil, nil
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, caError(path, err)
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxCA+1))
	if err != nil {
		return nil, caError(path, err)
	}
	if len(data) > maxCA {
		return nil, orchestrator.Errorf(orchestrator.ErrUnavailable, "extra-ca-unreadable", "the extra CA file %s is over %d MiB", path, maxCA>>20)
	}
	return data, nil
}

func caError(path string, err error) error {
	return orchestrator.Errorf(orchestrator.ErrUnavailable, "extra-ca-unreadable", "read the extra CA file %s: %w", path, err).
		WithHint("correct extra_ca_file in the gateway's configuration")
}
