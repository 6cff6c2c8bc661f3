package orchestrator_test

import (
	"context"
	"errors"
	"iter"
	"strconv"
	"strings"
	"sync/atomic"
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

// flood is an engine whose containers have written more than fits in memory.
type flood struct {
	orchestrator.Engine
	lines   int
	written atomic.Int64 // lines made
}

func (f *flood) Logs(_ context.Context, _ string, o orchestrator.LogOptions) iter.Seq2[orchestrator.LogLine, error] {
	return func(yield func(orchestrator.LogLine, error) bool) {
		n := f.lines
		if o.Tail >= 0 {
			n = min(n, o.Tail)
		}
		for i := range n {
			f.written.Add(1)
			if !yield(orchestrator.LogLine{Time: time.Unix(int64(i), 0), Text: strconv.Itoa(i)}, nil) {
				return
			}
		}
	}
}

// TestLogsAreNotHeld: however much there is, no more than a line of each instance
// is read ahead of what the consumer took.
func TestLogsAreNotHeld(t *testing.T) {
	b := open(t, newStore(t))
	b.mustDeploy(t, spec("hello"), "sha256:a")
	b.Fleet = crowd{b.fleet, []orchestrator.InstanceStatus{{ID: "a"}, {ID: "b"}, {ID: "c"}}}
	f := &flood{lines: 10_000}
	b.Engine = f
	taken := int64(0)
	for _, err := range b.Logs(t.Context(), "hello", orchestrator.LogOptions{Tail: -1}) {
		if err != nil {
			t.Fatal(err)
		}
		if taken++; f.written.Load()-taken > 3 {
			t.Fatalf("%d lines are held after %d", f.written.Load()-taken, taken)
		}
	}
	if taken != 30_000 {
		t.Errorf("%d lines, want 30000", taken)
	}
	var last []string
	for line := range b.Logs(t.Context(), "hello", orchestrator.LogOptions{Tail: 5000}) {
		last = append(last, line.Text)
	}
	if len(last) != 5000 || last[len(last)-1] != "4999" {
		t.Errorf("%d lines, want 5000", len(last))
	}
	for range b.Logs(t.Context(), "hello", orchestrator.LogOptions{Tail: -1}) {
		break // ends the readers
	}
}

// TestFollowingARemovedFunction: what its instances still write comes, and then
// the end that says why.
func TestFollowingARemovedFunction(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := withLogs(t)
		time.AfterFunc(500*time.Millisecond, func() {
			if err := b.Remove(t.Context(), "hello"); err != nil {
				t.Error(err)
			}
		})
		var texts []string
		var last error
		for line, err := range b.Logs(t.Context(), "hello", orchestrator.LogOptions{Tail: 1, Follow: true}) {
			if last = err; err == nil {
				texts = append(texts, line.Text)
			}
		}
		if got := strings.Join(texts, " "); got != "a2 a3 b3" {
			t.Errorf("lines %q", got)
		}
		var removed *orchestrator.Error
		if !errors.As(last, &removed) || removed.Code != orchestrator.CodeRemoved {
			t.Errorf("it ended with %v", last)
		}
	})
}
