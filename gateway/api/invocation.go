package api

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/kilnfaas/kiln/orchestrator"
)

// Headers of asynchronous calls.
const (
	HeaderCallback       = "Kiln-Callback-Url"    // gets the result
	HeaderOrderingKey    = "Kiln-Ordering-Key"    // calls of one key run one after another
	HeaderDelay          = "Kiln-Delay"           // a duration: "30s"
	HeaderNotBefore      = "Kiln-Not-Before"      // a time: RFC 3339 or Unix milliseconds
	HeaderIdempotencyKey = "Idempotency-Key"      // of calls with one key one is made
	HeaderReplayed       = "Idempotency-Replayed" // "true" on the answer to a call that was there already
)

// HeaderStage tells of the answer to a sequence which function it is of: "2/3 b".
const HeaderStage = "Kiln-Stage"

// AsyncInvocation is an asynchronous call and what became of it. The header that it
// was called with is not shown: it may hold secrets.
type AsyncInvocation struct {
	orchestrator.Invocation
	// Body is the kept body of the result if it is text, BodyBase64 if it is not.
	Body       string `json:"body,omitempty"`
	BodyBase64 []byte `json:"body_base64,omitempty"`
}

// InvocationList is the answer of GET /v1/invocations, newest first, without
// results' bodies.
type InvocationList struct {
	Invocations []AsyncInvocation `json:"invocations"`
}

// DeadLetters is the body of POST …/dead-letters/replay; it may be left out.
type DeadLetters struct {
	// IDs are those of the invocations; empty = all of the function.
	IDs []string `json:"ids,omitempty"`
}

// DeadLettersDone is the answer to a replay or a drop.
type DeadLettersDone struct {
	Count int `json:"count"`
}

// InvocationFilter selects invocations.
type InvocationFilter struct {
	Function string
	Status   orchestrator.InvocationStatus
	Before   string // id
	Limit    int    // 0 = the gateway's default
}

func (f InvocationFilter) query() string {
	values := url.Values{}
	for key, value := range map[string]string{"function": f.Function, "status": string(f.Status), "before": f.Before} {
		if value != "" {
			values.Set(key, value)
		}
	}
	if f.Limit > 0 {
		values.Set("limit", strconv.Itoa(f.Limit))
	}
	if len(values) == 0 {
		return ""
	}
	return "?" + values.Encode()
}

// InvokeAsync queues a call and returns its invocation once it is on disk. The
// method of the call is always POST.
func (c *Client) InvokeAsync(ctx context.Context, call Invocation) (i AsyncInvocation, err error) {
	path := "/async/" + url.PathEscape(call.Function)
	if call.Path != "" && !strings.HasPrefix(call.Path, "/") && !strings.HasPrefix(call.Path, "?") {
		path += "/"
	}
	response, err := c.do(ctx, http.MethodPost, path+call.Path, call.Body, call.Header)
	if err != nil {
		return i, err
	}
	defer response.Body.Close()
	if err := json.NewDecoder(response.Body).Decode(&i); err != nil {
		return i, unreadable(request(response), err)
	}
	return i, nil
}

// Invocations returns invocations, newest first.
func (c *Client) Invocations(ctx context.Context, filter InvocationFilter) ([]AsyncInvocation, error) {
	var list InvocationList
	err := c.call(ctx, http.MethodGet, "/v1/invocations"+filter.query(), nil, "", &list)
	return list.Invocations, err
}

func invocationPath(id string, rest ...string) string {
	return "/v1/invocations/" + url.PathEscape(id) + strings.Join(rest, "")
}

// Invocation returns one invocation; with wait above 0 it waits that long for
// its end.
func (c *Client) Invocation(ctx context.Context, id string, wait time.Duration) (i AsyncInvocation, err error) {
	path := invocationPath(id)
	if wait > 0 {
		path += "?wait=" + wait.String()
	}
	err = c.call(ctx, http.MethodGet, path, nil, "", &i)
	return i, err
}

// RetryInvocation has an invocation tried again.
func (c *Client) RetryInvocation(ctx context.Context, id string) (i AsyncInvocation, err error) {
	err = c.call(ctx, http.MethodPost, invocationPath(id, "/retry"), nil, "", &i)
	return i, err
}

// CancelInvocation ends an invocation that has not ended.
func (c *Client) CancelInvocation(ctx context.Context, id string) (i AsyncInvocation, err error) {
	err = c.call(ctx, http.MethodPost, invocationPath(id, "/cancel"), nil, "", &i)
	return i, err
}

// DeadLetters returns the dead letters of a function, newest first.
func (c *Client) DeadLetters(ctx context.Context, function string, filter InvocationFilter) ([]AsyncInvocation, error) {
	var list InvocationList
	err := c.call(ctx, http.MethodGet, functionPath(function, "/dead-letters", filter.query()), nil, "", &list)
	return list.Invocations, err
}

// ReplayDeadLetters has dead letters of a function tried again; none named = all.
func (c *Client) ReplayDeadLetters(ctx context.Context, function string, ids []string) (d DeadLettersDone, err error) {
	body, err := json.Marshal(DeadLetters{IDs: ids})
	if err != nil {
		return d, fmt.Errorf("encode the ids: %w", err)
	}
	err = c.call(ctx, http.MethodPost, functionPath(function, "/dead-letters/replay"), bytes.NewReader(body), "application/json", &d)
	return d, err
}

// DropDeadLetters forgets dead letters of a function; none named = all.
func (c *Client) DropDeadLetters(ctx context.Context, function string, ids []string) (d DeadLettersDone, err error) {
	path := functionPath(function, "/dead-letters")
	if len(ids) > 0 {
		path += "?" + url.Values{"id": ids}.Encode()
	}
	err = c.call(ctx, http.MethodDelete, path, nil, "", &d)
	return d, err
}
