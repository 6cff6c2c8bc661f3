package orchestrator_test

import (
	"context"
	"iter"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kilnfaas/kiln/orchestrator"
)

// crowd is a fleet with instances.
type crowd struct {
	*fleet
	instances []orchestrator.InstanceStatus
}

func (c crowd) Status(string) (orchestrator.FunctionStatus, bool) {
	return orchestrator.FunctionStatus{Instances: c.instances}, true
}

// journal is an engine that has logs only: lines by container, which come at
// their times.
type journal struct {
	orchestrator.Engine
	lines map[string][]orchestrator.LogLine
}

func (j journal) Logs(ctx context.Context, id string, o orchestrator.LogOptions) iter.Seq2[orchestrator.LogLine, error] {
	return func(yield func(orchestrator.LogLine, error) bool) {
		lines, ok := j.lines[id]
		if !ok {
			yield(orchestrator.LogLine{}, orchestrator.Errorf(orchestrator.ErrNotFound, "container-not-found", "no container %q", id))
			return
		}
		var past, later []orchestrator.LogLine
		for _, line := range lines {
			switch {
			case line.Time.Before(o.Since):
			case line.Time.After(time.Now()):
				later = append(later, line)
			default:
				past = append(past, line)
			}
		}
		if o.Tail >= 0 && len(past) > o.Tail {
			past = past[len(past)-o.Tail:]
		}
		for _, line := range past {
			if !yield(line, nil) {
				return
			}
		}
		for _, line := range later {
			if !o.Follow {
				return
			}
			select {
			case <-time.After(time.Until(line.Time)):
			case <-ctx.Done():
				return
			}
			if !yield(line, nil) {
				return
			}
		}
	}
}

// withLogs is a function with two instances that write, one that starts, and one
// that has just been removed.
func withLogs(t *testing.T) *bench {
	t.Helper()
	b := open(t, newStore(t))
	b.mustDeploy(t, spec("hello"), "sha256:a")
	at := func(seconds int, text string) orchestrator.LogLine {
		return orchestrator.LogLine{Time: time.Now().Add(time.Duration(seconds) * time.Second), Text: text}
	}
	b.Fleet = crowd{b.fleet, []orchestrator.InstanceStatus{
		{ID: "a", StartedAt: time.Now().Add(-time.Minute)}, {ID: "b", StartedAt: time.Now().Add(-time.Minute)},
		{ID: ""}, {ID: "gone"},
	}}
	b.Engine = journal{lines: map[string][]orchestrator.LogLine{
		"a": {at(-30, "a1"), at(-2, "a2"), at(1, "a3")},
		"b": {at(-20, "b1"), at(-10, "b2"), at(2, "b3")},
	}}
	return b
}

func (b *bench) logs(t *testing.T, o orchestrator.LogOptions) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var texts []string
	for line, err := range b.Logs(ctx, "hello", o) {
		if err != nil {
			t.Errorf("after %v: %v", texts, err)
			break
		}
		texts = append(texts, line.Text)
	}
	return strings.Join(texts, " ")
}

func TestLogsOfAllInstances(t *testing.T) {
	for _, test := range []struct {
		name    string
		options orchestrator.LogOptions
		want    string
	}{
		{"all", orchestrator.LogOptions{Tail: -1}, "a1 b1 b2 a2"},
		{"the last over all", orchestrator.LogOptions{Tail: 2}, "b2 a2"},
		{"following", orchestrator.LogOptions{Tail: -1, Follow: true}, "a1 b1 b2 a2 a3 b3"},
		{"following after the last, which is one instance's", orchestrator.LogOptions{Tail: 1, Follow: true}, "a2 a3 b3"},
		{"following only", orchestrator.LogOptions{Follow: true}, "a3 b3"},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				if got := withLogs(t).logs(t, test.options); got != test.want {
					t.Errorf("got %q, want %q", got, test.want)
				}
			})
		})
	}
}
