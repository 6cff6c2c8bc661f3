package docker

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/mount"
	"github.com/docker/docker/api/types/volume"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/entry"
)

// A container with secrets begins with a program of ours, which takes them from
// its standard input and becomes the image's command. It comes on a volume, which
// is filled once: neither the engine's file system nor the image has to have it.
const (
	entryDir     = "/.kiln"
	entryProgram = "entry"
	entryPrefix  = "kiln-entry-"
	// entryDigest is how much of the program's digest names its volume.
	entryDigest = 12
	// fillTimeout bounds copying some 50 MiB to the engine.
	fillTimeout = 2 * time.Minute
)

// entryVolume is the volume with the program.
type entryVolume struct {
	turn chan struct{} // holds one token while nobody fills it; guards name
	name string        // "" until it was filled
}

func newEntryVolume() entryVolume {
	v := entryVolume{turn: make(chan struct{}, 1)}
	v.turn <- struct{}{}
	return v
}

// entry returns the name of the volume, and fills it when it is not. image is
// one that exists: a container of it, never started, reaches the volume.
func (c *Client) entry(ctx context.Context, image string) (string, error) {
	if c.options.Program == "" {
		return "", invalid("secrets-unsupported", "this engine's client was given no program to hand secrets over with")
	}
	select {
	case <-c.entries.turn:
	case <-ctx.Done():
		return "", ctx.Err()
	}
	defer func() { c.entries.turn <- struct{}{} }()
	ctx, cancel := context.WithTimeout(ctx, fillTimeout)
	defer cancel()
	if name := c.entries.name; name != "" {
		// A container would start without it all the same, and end at once.
		if found, err := c.api.VolumeInspect(ctx, name); err == nil && found.Labels[orchestrator.LabelKind] != "" {
			return name, nil
		}
	}
	digest, size, err := digestOf(c.options.Program)
	if err != nil {
		return "", fmt.Errorf("read the program that hands secrets over: %w", err)
	}
	name := entryPrefix + c.options.Labels[orchestrator.LabelOwner] + "-" + digest
	if err := c.fill(ctx, name, image, size); err != nil {
		return "", translate(ctx, "fill the volume "+name, err)
	}
	c.entries.name = name
	c.dropOldEntries(ctx, name)
	return name, nil
}

// entryLabels are those of the volume, and of containers that only files are
// copied into or out of: else they had those of their image.
func (c *Client) entryLabels() map[string]string {
	labels := map[string]string{orchestrator.LabelKind: orchestrator.KindEntry}
	maps.Copy(labels, c.options.Labels)
	return labels
}

// fill makes the volume and puts the program into it, unless it is there whole.
func (c *Client) fill(ctx context.Context, name, image string, size int64) (err error) {
	labels := c.entryLabels()
	made, err := c.api.VolumeCreate(ctx, volume.CreateOptions{Name: name, Labels: labels})
	if err == nil && made.Labels[orchestrator.LabelKind] == "" {
		// A start made it anew when it had been removed, and nobody would clean it up.
		if err = c.api.VolumeRemove(ctx, name, false); err == nil {
			_, err = c.api.VolumeCreate(ctx, volume.CreateOptions{Name: name, Labels: labels})
		}
	}
	if err != nil {
		return err
	}
	created, err := c.api.ContainerCreate(ctx, &container.Config{
		Image: image, Labels: labels, Cmd: []string{"never-started"},
	}, &container.HostConfig{NetworkMode: "none", Mounts: []mount.Mount{entryMount(name, false)}}, nil, nil, "")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.remove(context.WithoutCancel(ctx), created.ID)) }()
	found, err := c.api.ContainerStatPath(ctx, created.ID, path.Join(entryDir, entryProgram))
	if err == nil && found.Size == size {
		return nil
	}
	file, err := os.Open(c.options.Program)
	if err != nil {
		return err
	}
	defer file.Close()
	reader, writer := io.Pipe()
	go func() { writer.CloseWithError(packProgram(writer, file, size)) }()
	defer reader.Close() // ends the goroutine
	return c.api.CopyToContainer(ctx, created.ID, entryDir, reader, container.CopyToContainerOptions{})
}

func packProgram(w io.Writer, file io.Reader, size int64) error {
	archive := tar.NewWriter(w)
	if err := archive.WriteHeader(&tar.Header{Name: entryProgram, Mode: 0o755, Size: size}); err != nil {
		return err
	}
	if _, err := io.Copy(archive, file); err != nil {
		return err
	}
	return archive.Close()
}

func digestOf(file string) (digest string, size int64, err error) {
	f, err := os.Open(file)
	if err != nil {
		return "", 0, err
	}
	defer f.Close()
	hash := sha256.New()
	size, err = io.Copy(hash, f)
	return hex.EncodeToString(hash.Sum(nil))[:entryDigest], size, err
}

// dropOldEntries removes the volumes of earlier versions. Those that a container
// still uses stay until the next gateway.
func (c *Client) dropOldEntries(ctx context.Context, keep string) {
	owner := c.options.Labels[orchestrator.LabelOwner]
	found, err := c.api.VolumeList(ctx, volume.ListOptions{Filters: labelFilter(map[string]string{
		orchestrator.LabelOwner: owner, orchestrator.LabelKind: orchestrator.KindEntry,
	})})
	if err != nil || owner == "" {
		return // they only take room
	}
	for _, v := range found.Volumes {
		if v != nil && v.Name != keep {
			_ = c.api.VolumeRemove(ctx, v.Name, false)
		}
	}
}

func entryMount(name string, readOnly bool) mount.Mount {
	return mount.Mount{
		Type: mount.TypeVolume, Source: name, Target: entryDir, ReadOnly: readOnly,
		VolumeOptions: &mount.VolumeOptions{NoCopy: true},
	}
}

// withEntry makes a container begin with the program.
func withEntry(settings *container.Config, host *container.HostConfig, image imageDefaults, volume string) {
	command := settings.Cmd
	if command == nil {
		command = image.command
	}
	settings.Cmd = append(append([]string{entry.Verb}, image.entrypoint...), command...)
	settings.Entrypoint = []string{path.Join(entryDir, entryProgram)}
	// The input stays open after us: that the secrets are whole, they tell
	// themselves, and the engine keeps nothing open for the container's life.
	settings.OpenStdin, settings.AttachStdin = true, true
	host.Mounts = append(host.Mounts, entryMount(volume, true))
	host.Tmpfs[orchestrator.SecretsPath] = tmpfsOptions(orchestrator.Tmpfs{Size: orchestrator.SecretsRoom})
}

// input is the standard input of a container that is to be started.
type input struct {
	conn    io.Closer
	deliver func(secrets map[string][]byte) error
}

// attach opens the input of a created container.
func (c *Client) attach(ctx context.Context, id string) (*input, error) {
	stream, err := c.api.ContainerAttach(ctx, id, container.AttachOptions{Stream: true, Stdin: true})
	if err != nil {
		return nil, err
	}
	return &input{conn: stream.Conn, deliver: func(secrets map[string][]byte) error {
		if deadline, ok := ctx.Deadline(); ok {
			if err := stream.Conn.SetDeadline(deadline); err != nil {
				return err
			}
		}
		if err := entry.Write(stream.Conn, secrets); err != nil {
			return err
		}
		if err := stream.CloseWrite(); err != nil {
			return err
		}
		// The engine closes its side when it has passed everything on.
		_, err := io.Copy(io.Discard, io.LimitReader(stream.Reader, http.DefaultMaxHeaderBytes))
		return err
	}}, nil
}
