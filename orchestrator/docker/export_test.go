package docker

import (
	"io"
	"time"

	"github.com/docker/docker/client"

	"github.com/kilnfaas/kiln/orchestrator"
)

// ReadProgress decodes a builder's stream without an engine, for fuzzing.
func ReadProgress(r io.Reader, progress func(orchestrator.BuildEvent)) (image, failure string, err error) {
	b := newBuild(BuilderBuildKit, orchestrator.BuildRequest{Progress: progress})
	err = readMessages(r, b.message)
	if b.failure != "" {
		_ = buildError(b.failure, b.log)
	}
	return b.image, b.failure, err
}

// ReadTrace decodes one message of BuildKit's trace.
func ReadTrace(data []byte, progress func(orchestrator.BuildEvent)) error {
	p := buildkitProgress{log: newBuildLog("fuzz", progress)}
	return p.trace(data)
}

// SetPullStall shortens how long a pull may make no progress.
func (c *Client) SetPullStall(d time.Duration) { c.pullStall = d }

// SetOpenFiles changes how many descriptors containers are given.
func (c *Client) SetOpenFiles(files int64) { c.openFiles.Store(files) }

// OpenFiles returns it.
func (c *Client) OpenFiles() int64 { return c.openFiles.Load() }

// API is the Docker client, for assertions on what the contract does not show.
func (c *Client) API() *client.Client { return c.api }
