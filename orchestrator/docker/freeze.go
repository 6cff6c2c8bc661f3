package docker

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/kilnfaas/kiln/orchestrator"
)

// The engine (20.10 and its successors) notes that a container is paused, or no
// longer, when it has done so, and once more when containerd's event of it
// arrives. On a busy machine these events come late: 6 of 1374 freezes and thaws
// in a row met a note of the ones before, which set itself right within 100 ms.
// Until then the engine refuses to thaw what is frozen, or to freeze what runs.
// So a refusal that contradicts what this client did is not believed at once.
const (
	// staleNote is for how long; later somebody else must have frozen or thawed.
	// It is also for how long freezing is tried: on cgroup v1 runc gives up now
	// and then ("unable to freeze") when a process is being started.
	staleNote = 2 * time.Second
	// staleRetry is the time between tries.
	staleRetry = 10 * time.Millisecond
)

// frozenSet holds the containers that this client has paused and neither
// unpaused nor stopped.
type frozenSet struct {
	mu  sync.Mutex
	ids map[string]struct{} // guarded by mu
}

func (f *frozenSet) add(id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ids == nil {
		f.ids = map[string]struct{}{}
	}
	f.ids[id] = struct{}{}
}

func (f *frozenSet) remove(id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.ids, id)
}

// has also says no for a container that an earlier gateway has paused.
func (f *frozenSet) has(id string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, ok := f.ids[id]
	return ok
}

// Freeze pauses a container through the engine.
func (c *Client) Freeze(ctx context.Context, id string) error {
	known := c.frozen.has(id)
	err := c.change(ctx, "freeze "+short(id), id, c.api.ContainerPause, orchestrator.ContainerFrozen, known)
	if err == nil {
		c.frozen.add(id)
	}
	return err
}

// Thaw undoes Freeze.
func (c *Client) Thaw(ctx context.Context, id string) error {
	known := !c.frozen.has(id)
	err := c.change(ctx, "thaw "+short(id), id, c.api.ContainerUnpause, orchestrator.ContainerRunning, known)
	if err == nil {
		c.frozen.remove(id)
	}
	return err
}

// change asks the engine for a state until the container has it or the refusal
// is final. known is whether this client takes the container to be in the state
// already, so that the engine's word for it is enough.
func (c *Client) change(ctx context.Context, what, id string, call func(context.Context, string) error, want orchestrator.ContainerState, known bool) error {
	callCtx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	for began := time.Now(); ; {
		refusal := translate(ctx, what, call(callCtx, id))
		if refusal == nil {
			return nil
		}
		late := time.Since(began) > staleNote
		if done, err := c.settled(callCtx, id, want, known || late, refusal); done || late {
			return err
		}
		if err := pause(callCtx, staleRetry); err != nil {
			return translate(ctx, what, err)
		}
	}
}

// settled says whether a refusal to change a container's state is final, and
// what comes of it. believe is whether the engine's note of the state, where
// it is the wanted one, shall be believed.
func (c *Client) settled(ctx context.Context, id string, want orchestrator.ContainerState, believe bool, refusal error) (done bool, err error) {
	if errors.Is(refusal, orchestrator.ErrNotFound) || ctx.Err() != nil {
		return true, refusal
	}
	now, err := c.Inspect(ctx, id)
	switch {
	case err != nil:
		return true, refusal
	case now.State == orchestrator.ContainerExited:
		// Engines report some of these refusals as internal errors.
		return true, orchestrator.Errorf(orchestrator.ErrConflict, "container-exited", "the container has ended: %w", refusal)
	case believe && now.State == want:
		return true, nil
	}
	return false, refusal
}

// pause waits, or returns the context's error.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
