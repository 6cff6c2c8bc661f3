package gateway_test

import (
	"context"
	"errors"
	"iter"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kilnfaas/kiln/gateway/api"
	"github.com/kilnfaas/kiln/orchestrator"
)

func logLines() []orchestrator.FunctionLog {
	return []orchestrator.FunctionLog{
		{Instance: "0123456789abcdef", Revision: "r1-abc123", LogLine: orchestrator.LogLine{Time: fakeTime, Text: "hello"}},
		{Instance: "short", Revision: "r1-abc123", LogLine: orchestrator.LogLine{Time: fakeTime.Add(time.Millisecond), Stderr: true, Text: "oops ü"}},
	}
}

func TestLogs(t *testing.T) {
	f := newFixture(t, "a")
	f.functions.lines = logLines()
	want := "2026-01-02T03:04:05Z 0123456789ab hello\n2026-01-02T03:04:05.001Z short oops ü\n"
	if got := f.call(t, "GET", "/v1/functions/a/logs", ""); got.status != 200 || got.body != want {
		t.Errorf("text = %d %q, want %q", got.status, got.body, want)
	}
	want = `{"time":"2026-01-02T03:04:05Z","instance":"0123456789abcdef","revision":"r1-abc123","stream":"stdout","text":"hello"}` + "\n" +
		`{"time":"2026-01-02T03:04:05.001Z","instance":"short","revision":"r1-abc123","stream":"stderr","text":"oops ü"}` + "\n"
	if got := f.call(t, "GET", "/v1/functions/a/logs", "", "Accept", api.MediaNDJSON); got.status != 200 || got.body != want {
		t.Errorf("NDJSON = %d %q, want %q", got.status, got.body, want)
	}
	if got := f.call(t, "GET", "/v1/functions/zzz/logs", ""); got.status != 404 {
		t.Errorf("unknown function: %d, want 404", got.status)
	}
}

func TestLogParameters(t *testing.T) {
	f := newFixture(t, "a")
	var got orchestrator.LogOptions
	f.functions.logs = func(_ context.Context, options orchestrator.LogOptions) iter.Seq2[orchestrator.FunctionLog, error] {
		got = options
		return func(func(orchestrator.FunctionLog, error) bool) {}
	}
	tests := map[string]orchestrator.LogOptions{
		"":                                   {Tail: 100},
		"?tail=0":                            {Tail: 0},
		"?tail=all&follow=1":                 {Tail: -1, Follow: true},
		"?follow=false&tail=7":               {Tail: 7},
		"?since=2026-01-02T03:04:05Z":        {Tail: 100, Since: fakeTime},
		"?since=2026-01-02T04:04:05%2B01:00": {Tail: 100, Since: fakeTime},
	}
	for query, want := range tests {
		if answer := f.call(t, "GET", "/v1/functions/a/logs"+query, ""); answer.status != 200 {
			t.Errorf("%s: %d %s", query, answer.status, answer.body)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", query, diff)
		}
	}
	if f.call(t, "GET", "/v1/functions/a/logs?since=10m", ""); time.Since(got.Since).Round(time.Minute) != 10*time.Minute {
		t.Errorf("since=10m is %v", got.Since)
	}
	for _, query := range []string{"?tail=-1", "?tail=x", "?follow=perhaps", "?since=yesterday", "?since=-5m", "?lines=3", "?tail=1&tail=2"} {
		if answer := f.call(t, "GET", "/v1/functions/a/logs"+query, ""); answer.status != 400 || answer.problem(t).Code != "parameter-invalid" {
			t.Errorf("%s: %d %s, want 400", query, answer.status, answer.body)
		}
	}
}

// TestLogsOfARemovedFunction: following ends with a line that says so, and in text
// with a stream that is whole.
func TestLogsOfARemovedFunction(t *testing.T) {
	f := newFixture(t, "a")
	f.functions.lines = logLines()
	f.functions.fail(orchestrator.Errorf(orchestrator.ErrNotFound, orchestrator.CodeRemoved, "function a was removed"))
	client := serve(t, f)
	var last error
	for _, err := range client.Logs(t.Context(), "a", api.LogOptions{Follow: true}) {
		last = err
	}
	var problem *api.Error
	if !errors.As(last, &problem) || problem.Code != api.CodeFunctionRemoved || problem.Detail != "function a was removed" {
		t.Errorf("NDJSON ended with %v", last)
	}
	response, err := client.HTTP.Get(client.BaseURL + "/v1/functions/a/logs?follow=true")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := readAll(response); err != nil {
		t.Errorf("text ended with %v", err)
	}
}

// TestLogsThatBreak: an error before the first line is an answer, a later one
// the last line of NDJSON.
func TestLogsThatBreak(t *testing.T) {
	f := newFixture(t, "a")
	f.functions.fail(orchestrator.Errorf(orchestrator.ErrUnavailable, "engine-unreachable", "no engine"))
	if got := f.call(t, "GET", "/v1/functions/a/logs", "", "Accept", api.MediaNDJSON); got.status != 503 {
		t.Errorf("before the first line: %d, want 503", got.status)
	}
	f.functions.lines = logLines()
	got := f.call(t, "GET", "/v1/functions/a/logs", "", "Accept", api.MediaNDJSON)
	client := serve(t, f)
	var last error
	var lines int
	for _, err := range client.Logs(context.Background(), "a", api.LogOptions{Tail: 5}) {
		if err != nil {
			last = err
			break
		}
		lines++
	}
	var problem *api.Error
	if got.status != 200 || lines != 2 || !errors.As(last, &problem) || problem.Code != "engine-unreachable" || !errors.Is(last, orchestrator.ErrUnavailable) {
		t.Errorf("after %d lines of %q: %v, want two and the problem", lines, got.body, last)
	}
	if response, err := client.HTTP.Get(client.BaseURL + "/v1/functions/a/logs"); err == nil {
		_, err := readAll(response)
		if err == nil {
			t.Error("text that broke looks whole")
		}
	}
}
