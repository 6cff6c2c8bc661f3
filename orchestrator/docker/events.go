package docker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"time"

	"github.com/docker/docker/api/types/events"

	"github.com/kilnfaas/kiln/orchestrator"
)

// Backoff between attempts to follow the engine's events. An engine restarts in
// a few seconds; a busy loop against its socket helps nobody.
const (
	eventsRetryMin = 50 * time.Millisecond
	eventsRetryMax = 5 * time.Second
)

// Events calls f for the deaths and out-of-memory kills of containers that
// carry all of labels, until ctx ends, and returns its error.
func (c *Client) Events(ctx context.Context, labels map[string]string, f func(orchestrator.Event)) error {
	retry := eventsRetryMin
	for {
		connected := c.followEvents(ctx, labels, f)
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("follow events: %w", err)
		}
		if connected {
			retry = eventsRetryMin
		}
		// Full jitter, so that several gateways do not come back at once.
		if err := pause(ctx, retry/2+rand.N(retry/2)); err != nil {
			return fmt.Errorf("follow events: %w", err)
		}
		retry = min(2*retry, eventsRetryMax)
	}
}

// followEvents passes events on until the connection ends, and says whether
// there was one.
func (c *Client) followEvents(ctx context.Context, labels map[string]string, f func(orchestrator.Event)) (connected bool) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// The engine answers before it has subscribed. Asking for what happened since
	// now closes that gap.
	since, err := c.engineTime(ctx)
	if err != nil {
		return false
	}
	filter := labelFilter(labels)
	filter.Add("type", string(events.ContainerEventType))
	filter.Add("event", string(events.ActionDie))
	filter.Add("event", string(events.ActionOOM))
	messages, errs := c.api.Events(ctx, events.ListOptions{Since: since, Filters: filter})
	select {
	case <-errs:
		return false
	default: // the client returns from Events once it has an answer
	}
	f(orchestrator.Event{Kind: orchestrator.EventResync, Time: time.Now()})
	for {
		select {
		case m := <-messages:
			if event, ok := containerEvent(m); ok && ctx.Err() == nil {
				f(event)
			}
		case <-errs:
			return true
		}
	}
}

// engineTime is now by the engine's clock, in the form its events are asked by.
func (c *Client) engineTime(ctx context.Context) (string, error) {
	callCtx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	info, err := c.api.Info(callCtx)
	if err != nil {
		return "", err
	}
	now, err := time.Parse(time.RFC3339Nano, info.SystemTime)
	if err != nil {
		return "", errors.Join(errProgress, err)
	}
	return fmt.Sprintf("%d.%09d", now.Unix(), now.Nanosecond()), nil
}

var engineAttributes = []string{"exitCode", "execDuration", "image", "name"}

func containerEvent(m events.Message) (orchestrator.Event, bool) {
	event := orchestrator.Event{ID: m.Actor.ID, Labels: maps.Clone(m.Actor.Attributes), Time: time.Unix(0, m.TimeNano)}
	// The engine mixes its own attributes with the labels.
	maps.DeleteFunc(event.Labels, func(name, _ string) bool { return slices.Contains(engineAttributes, name) })
	switch m.Action {
	case events.ActionDie:
		event.Kind = orchestrator.EventDied
		// The engine always has a code here; should it not, 0 says nothing wrong.
		event.ExitCode, _ = strconv.Atoi(m.Actor.Attributes["exitCode"])
	case events.ActionOOM:
		event.Kind = orchestrator.EventOOM
	default:
		return event, false
	}
	return event, true
}
