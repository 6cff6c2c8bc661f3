package docker

import (
	"context"
	"errors"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/image"

	"github.com/kilnfaas/kiln/orchestrator"
)

// Image returns one image by reference or id.
func (c *Client) Image(ctx context.Context, ref string) (orchestrator.Image, error) {
	callCtx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	details, err := c.api.ImageInspect(callCtx, ref)
	if err != nil {
		return orchestrator.Image{}, imageError(translate(ctx, "find the image "+ref, err), ref)
	}
	out := orchestrator.Image{ID: details.ID, Tags: tags(details.RepoTags), Size: orchestrator.Bytes(details.Size)}
	if created, err := time.Parse(time.RFC3339Nano, details.Created); err == nil {
		out.CreatedAt = created
	}
	if details.Config != nil {
		out.Labels = details.Config.Labels
		out.User = details.Config.User
		for port := range details.Config.ExposedPorts {
			number, protocol, _ := strings.Cut(port, "/")
			if n, err := strconv.Atoi(number); err == nil && (protocol == "" || protocol == "tcp") {
				out.Ports = append(out.Ports, n)
			}
		}
	}
	return out, nil
}

// Images returns those that carry all of labels. User and Ports are not in the
// engine's list and stay empty.
func (c *Client) Images(ctx context.Context, labels map[string]string) ([]orchestrator.Image, error) {
	callCtx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	summaries, err := c.api.ImageList(callCtx, image.ListOptions{Filters: labelFilter(labels)})
	if err != nil {
		return nil, translate(ctx, "list images", err)
	}
	list := make([]orchestrator.Image, 0, len(summaries))
	for _, s := range summaries {
		list = append(list, orchestrator.Image{
			ID: s.ID, Tags: tags(s.RepoTags), Labels: s.Labels,
			Size: orchestrator.Bytes(s.Size), CreatedAt: time.Unix(s.Created, 0),
		})
	}
	return list, nil
}

// tags leaves out the placeholder that older engines report for no tag.
func tags(reported []string) []string {
	var out []string
	for _, tag := range reported {
		if tag != "<none>:<none>" {
			out = append(out, tag)
		}
	}
	return out
}

// Tag gives an image another reference.
func (c *Client) Tag(ctx context.Context, ref, as string) error {
	callCtx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return imageError(translate(ctx, "tag "+ref+" as "+as, c.api.ImageTag(callCtx, ref, as)), ref)
}

// RemoveImage removes a reference, and the image with its last one.
func (c *Client) RemoveImage(ctx context.Context, ref string) error {
	callCtx, cancel := context.WithTimeout(ctx, removeImageTimeout)
	defer cancel()
	_, err := c.api.ImageRemove(callCtx, ref, image.RemoveOptions{PruneChildren: true})
	err = translate(ctx, "remove the image "+ref, err)
	if errors.Is(err, orchestrator.ErrNotFound) {
		return nil
	}
	return err
}

// removeImageTimeout bounds the deletion of layers, which is disk work.
const removeImageTimeout = 60 * time.Second

// imageError names the image in an error of class ErrNotFound.
func imageError(err error, ref string) error {
	if !errors.Is(err, orchestrator.ErrNotFound) {
		return err
	}
	return orchestrator.Errorf(orchestrator.ErrNotFound, "image-not-found", "there is no image %s: %w", ref, err)
}

// CopyFrom returns a file or folder of an image as a tar. It goes through a
// container that is created, never started, and removed by Close, which the
// caller must call.
func (c *Client) CopyFrom(ctx context.Context, ref, path string) (io.ReadCloser, error) {
	if err := ctx.Err(); err != nil {
		return nil, translate(ctx, "read "+path+" of "+ref, err)
	}
	// Not cancelled, for the same reason as in Run.
	createCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), startTimeout)
	defer cancel()
	created, err := c.api.ContainerCreate(createCtx, &container.Config{
		Image: ref, Labels: c.entryLabels(), Cmd: []string{"never-started"},
	}, &container.HostConfig{NetworkMode: "none"}, nil, nil, "")
	if err != nil {
		return nil, imageError(translate(ctx, "read "+path+" of "+ref, err), ref)
	}
	content, _, err := c.api.CopyFromContainer(ctx, created.ID, path)
	if err != nil {
		err = translate(ctx, "read "+path+" of "+ref, err)
		return nil, errors.Join(err, c.remove(context.WithoutCancel(ctx), created.ID))
	}
	return &copied{ReadCloser: content, remove: func() error { return c.remove(context.WithoutCancel(ctx), created.ID) }}, nil
}

// copied is content of a container that lives as long as the content is read.
type copied struct {
	io.ReadCloser
	remove func() error
}

// Close removes the container; a second time it does nothing but ask again.
func (c *copied) Close() error {
	return errors.Join(c.ReadCloser.Close(), c.remove())
}
