package docker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/docker/docker/api/types/image"
	"github.com/google/uuid"

	"github.com/kilnfaas/kiln/orchestrator"
)

const (
	// pullStall ends a pull that makes no progress: whoever pulls has a fallback
	// for machines without a registry, and should get to it.
	pullStall = 30 * time.Second
	// pullTimeout bounds a whole pull: 1 GB at 1 MB/s.
	pullTimeout = 20 * time.Minute
	// pullReport is how often the size fetched so far is reported.
	pullReport = time.Second
)

// errPullStalled is why a pull was given up.
var errPullStalled = errors.New("no progress")

// Pull fetches an image. ErrNotFound means that its registry does not have it,
// ErrUnavailable that the registry does not answer.
func (c *Client) Pull(ctx context.Context, ref string, progress func(orchestrator.BuildEvent)) error {
	pullCtx, give := context.WithCancelCause(ctx)
	defer give(nil)
	stall := time.AfterFunc(c.pullStall, func() { give(errPullStalled) })
	defer stall.Stop()
	pullCtx, cancel := context.WithTimeout(pullCtx, pullTimeout)
	defer cancel()
	fail := func(err error) error {
		if cause := context.Cause(pullCtx); ctx.Err() == nil && errors.Is(cause, errPullStalled) {
			err = cause
		}
		return pullError(ctx, ref, err)
	}
	response, err := c.api.ImagePull(pullCtx, ref, image.PullOptions{})
	if err != nil {
		return fail(err)
	}
	defer response.Close()
	p := newPulling(ref, progress)
	err = readMessages(response, func(m message) {
		stall.Reset(c.pullStall)
		p.message(m)
	})
	if err == nil && p.failure != "" {
		err = errors.New(p.failure)
	}
	if err != nil {
		p.log.finish(orchestrator.StepFailed)
		return fail(err)
	}
	p.log.finish(orchestrator.StepDone)
	return nil
}

func pullError(ctx context.Context, ref string, err error) error {
	text := err.Error()
	translated := translate(ctx, "pull "+ref, err)
	var known *orchestrator.Error
	switch {
	case !errors.As(translated, &known) || errors.Is(known, orchestrator.ErrDeadline):
		return translated
	case containsAny(text, networkWords) || errors.Is(err, errPullStalled):
		return orchestrator.Errorf(orchestrator.ErrUnavailable, "image-pull-failed", "the registry of %s does not answer: %w", ref, err).
			WithHint("check the engine's network, or load the image with docker load")
	case containsAny(text, absentWords):
		return orchestrator.Errorf(orchestrator.ErrNotFound, "image-pull-failed", "there is no image %s in its registry: %w", ref, err).
			WithHint("check the name, and that the engine may read it: docker pull %s", ref)
	case known.Code == "engine-failed":
		return orchestrator.Errorf(orchestrator.ErrUnavailable, "image-pull-failed", "the image %s cannot be pulled: %w", ref, err)
	}
	return translated
}

// pulling makes build events of a pull: a step for the image, one for each
// layer, and now and then a line with the size fetched so far.
type pulling struct {
	log      *buildLog
	ref      string
	image    *buildStep
	layers   map[string]*layer
	reported time.Time
	failure  string
}

type layer struct {
	step           *buildStep
	current, total int64
}

func newPulling(ref string, progress func(orchestrator.BuildEvent)) *pulling {
	log := newBuildLog("pull-"+uuid.NewString()[:buildIDLength], progress)
	p := &pulling{log: log, ref: ref, image: log.step("[pull] " + ref), layers: map[string]*layer{}}
	p.log.start(p.image, time.Now())
	return p
}

func (p *pulling) message(m message) {
	now := time.Now()
	switch m.Status {
	case "":
		if m.Error != "" {
			p.failure = m.Error
		}
	case "Pulling fs layer":
		p.layer(m.ID, now)
	case "Already exists":
		p.log.end(p.layer(m.ID, now).step, orchestrator.StepCached, now)
	case "Pull complete":
		p.log.end(p.layer(m.ID, now).step, orchestrator.StepDone, now)
	case "Downloading":
		l := p.layer(m.ID, now)
		l.current, l.total = m.ProgressDetail.Current, m.ProgressDetail.Total
		p.report(now)
	case "Download complete":
		l := p.layer(m.ID, now)
		l.current = l.total
	default:
		if m.ID == "" {
			p.log.write(p.image, false, []byte(m.Status+"\n"), now)
		}
	}
}

func (p *pulling) layer(id string, now time.Time) *layer {
	l := p.layers[id]
	if l == nil {
		l = &layer{step: p.log.step("[pull] " + p.ref + " layer " + id)}
		p.layers[id] = l
		p.log.start(l.step, now)
	}
	return l
}

func (p *pulling) report(now time.Time) {
	if now.Sub(p.reported) < pullReport {
		return
	}
	p.reported = now
	var current, total int64
	for _, l := range p.layers {
		current += l.current
		total += l.total
	}
	const mib = float64(orchestrator.MiB)
	line := fmt.Sprintf("%.1f of %.1f MiB\n", float64(current)/mib, float64(total)/mib)
	p.log.write(p.image, false, []byte(line), now)
}
