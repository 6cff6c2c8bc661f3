package api

import (
	"context"
	"net/http"
	"net/url"

	"github.com/kilnfaas/kiln/orchestrator"
)

// TriggerList is the answer of GET /v1/triggers and GET …/triggers, by function
// and name.
type TriggerList struct {
	Triggers []orchestrator.TriggerStatus `json:"triggers"`
}

// Triggers returns the triggers of a function, or of all ("").
func (c *Client) Triggers(ctx context.Context, function string) ([]orchestrator.TriggerStatus, error) {
	path := "/v1/triggers"
	if function != "" {
		path = functionPath(function, "/triggers")
	}
	var list TriggerList
	err := c.call(ctx, http.MethodGet, path, nil, "", &list)
	return list.Triggers, err
}

func triggerPath(function, trigger, act string) string {
	return functionPath(function, "/triggers/", url.PathEscape(trigger), act)
}

// Trigger returns one trigger.
func (c *Client) Trigger(ctx context.Context, function, trigger string) (s orchestrator.TriggerStatus, err error) {
	err = c.call(ctx, http.MethodGet, triggerPath(function, trigger, ""), nil, "", &s)
	return s, err
}

// PauseTrigger stops a trigger until ResumeTrigger; nothing is lost.
func (c *Client) PauseTrigger(ctx context.Context, function, trigger string) (s orchestrator.TriggerStatus, err error) {
	err = c.call(ctx, http.MethodPost, triggerPath(function, trigger, "/pause"), nil, "", &s)
	return s, err
}

// ResumeTrigger lets a trigger go on where it was.
func (c *Client) ResumeTrigger(ctx context.Context, function, trigger string) (s orchestrator.TriggerStatus, err error) {
	err = c.call(ctx, http.MethodPost, triggerPath(function, trigger, "/resume"), nil, "", &s)
	return s, err
}

// TestTrigger queues an event as a trigger would deliver it.
func (c *Client) TestTrigger(ctx context.Context, function, trigger string) (i AsyncInvocation, err error) {
	err = c.call(ctx, http.MethodPost, triggerPath(function, trigger, "/test"), nil, "", &i)
	return i, err
}
