package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/kilnfaas/kiln/gateway/api"
	"github.com/kilnfaas/kiln/orchestrator"
)

// outputLines is how many of a build's or an instance's last lines are shown.
const outputLines = 50

// showError tells what went wrong and what to do next.
func (t *tool) showError(err error) {
	problem := problemOf(err)
	if t.format == formatJSON {
		encoder := json.NewEncoder(t.err)
		encoder.SetEscapeHTML(false)
		_ = encoder.Encode(problem) // nowhere is left to report to
		return
	}
	style := styleOf(t.err)
	lines := problem.Output
	if skipped := len(lines) - outputLines; skipped > 0 {
		fmt.Fprintf(t.err, "%s\n", style.dim(fmt.Sprintf("  | … %d lines before", skipped)))
		lines = lines[skipped:]
	}
	for _, line := range lines {
		fmt.Fprintf(t.err, "%s %s\n", style.dim("  |"), clean(line))
	}
	fmt.Fprintf(t.err, "%s %s\n", style.red("error:"), problem.Detail)
	if problem.Hint != "" {
		fmt.Fprintf(t.err, "  next: %s\n", problem.Hint)
	}
	if problem.RequestID != "" {
		fmt.Fprintf(t.err, "%s\n", style.dim("  request: "+problem.RequestID))
	}
}

// problemOf returns an error in the form in which it is shown.
func problemOf(err error) *api.Error {
	if problem := (*api.Error)(nil); errors.As(err, &problem) {
		shown := *problem
		shown.Detail = problem.Error()
		return &shown
	}
	if refusal := (*orchestrator.Error)(nil); errors.As(err, &refusal) {
		return &api.Error{Code: refusal.Code, Detail: err.Error(), Hint: refusal.Hint, Output: refusal.Output}
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return &api.Error{Code: "gateway-slow", Detail: "the gateway did not answer in time", Hint: "kiln doctor tells what is wrong"}
	case errors.Is(err, context.Canceled):
		return &api.Error{Code: "interrupted", Detail: "interrupted"}
	}
	return &api.Error{Code: "failed", Detail: err.Error()}
}
