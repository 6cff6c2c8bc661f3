package build

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/templates"
)

// Cells makes the images of cells: a template's runtime without a function. One
// is built for each version of a template, one at a time, when it is first asked
// for; images of other versions are removed then. It is safe for concurrent use.
type Cells struct {
	composer *Composer
	timeout  time.Duration
	logger   *slog.Logger
	turn     chan struct{} // holds a token while nobody builds; whoever waited finds the image there
}

// NewCells returns a maker of cell images. Of c, Archives and Limit are not used.
func NewCells(c Config) *Cells {
	if c.Timeout == 0 {
		c.Timeout = DefaultTimeout
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	turn := make(chan struct{}, 1)
	turn <- struct{}{}
	return &Cells{composer: NewComposer(c), timeout: c.Timeout, logger: c.Logger, turn: turn}
}

// How much of a template's digest and of the owner names a cell image.
const (
	digestLen = 12
	ownerLen  = 8
)

// CellImage returns the reference of a template's cell image, which is built if
// it is not there. Errors are Builder's.
func (c *Cells) CellImage(ctx context.Context, t orchestrator.Template) (string, error) {
	ref := "kiln-cell/" + t.Name + ":" + short(t.Digest) + "-" + c.installation()
	select {
	case <-c.turn:
		defer func() { c.turn <- struct{}{} }()
	case <-ctx.Done():
		return "", ended(ctx)
	}
	_, err := c.composer.config.Images.Image(ctx, ref)
	if err == nil || !errors.Is(err, orchestrator.ErrNotFound) {
		return ref, err
	}
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	start := time.Now()
	if err := c.build(ctx, t, ref); err != nil {
		return "", err
	}
	c.logger.Info("cell image built", "template", t.Name, "image", ref, "duration_ms", time.Since(start).Milliseconds())
	c.removeOthers(ctx, t, ref)
	return ref, nil
}

func (c *Cells) labels(t orchestrator.Template) map[string]string {
	return map[string]string{
		orchestrator.LabelOwner:    c.composer.config.Owner,
		orchestrator.LabelKind:     orchestrator.KindCell,
		orchestrator.LabelTemplate: t.Name,
	}
}

func (c *Cells) build(ctx context.Context, t orchestrator.Template, ref string) error {
	with, err := c.composer.terms(ctx, func(orchestrator.BuildEvent) {})
	if err != nil {
		return err
	}
	p, err := c.composer.plan(ctx, orchestrator.Revision{Spec: orchestrator.Spec{Template: t.Name}}, t, with)
	if err != nil {
		return err
	}
	_, err = c.composer.run(ctx, p, with, nil, orchestrator.BuildRequest{
		Tags: []string{ref}, Target: templates.CellTarget, Labels: c.labels(t),
	})
	return err
}

// removeOthers removes the cell images of other versions. One that is in use
// still goes with the next version.
func (c *Cells) removeOthers(ctx context.Context, t orchestrator.Template, ref string) {
	images, err := c.composer.config.Images.Images(ctx, c.labels(t))
	if err != nil {
		c.logger.Warn("old cell images not looked for", "template", t.Name, "error", err)
		return
	}
	for _, image := range images {
		for _, tag := range image.Tags {
			if tag == ref {
				continue
			}
			if err := c.composer.config.Images.RemoveImage(ctx, tag); err != nil && !errors.Is(err, orchestrator.ErrConflict) {
				c.logger.Warn("old cell image not removed", "image", tag, "error", err)
			}
		}
	}
}

// installation tells the images of installations on one engine apart, so that
// each may remove its own.
func (c *Cells) installation() string {
	owner := c.composer.config.Owner
	return owner[max(0, len(owner)-ownerLen):]
}

// short returns the beginning of a "sha256:…" digest.
func short(digest string) string {
	const prefix = len("sha256:")
	if len(digest) < prefix+digestLen {
		return "unknown"
	}
	return digest[prefix : prefix+digestLen]
}
