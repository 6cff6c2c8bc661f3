package enginetest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kilnfaas/kiln/orchestrator"
)

var freezeTests = []suiteTest{
	{"FrozenStandsStill", testFrozen},
	{"Refused", testFreezeRefused},
	{"StopOfFrozen", testStopFrozen},
	{"RemovalOfFrozen", testRemoveFrozen},
	{"Often", testFreezeOften},
}

var eventTests = []suiteTest{
	{"ResyncComesFirst", testResync},
	{"Died", testDied},
	{"OutOfMemory", testOOM},
	{"EndsWithContext", testEventsEnd},
}

var logTests = []suiteTest{
	{"Lines", testLines},
	{"Tail", testTail},
	{"Since", testSince},
	{"Follow", testFollow},
	{"FollowEndsWithContext", testFollowEnds},
	{"LongLine", testLongLine},
	{"Unknown", testLogsUnknown},
}

// wantState waits until Inspect and List say so. An engine may report a state
// that was changed a moment ago as it was before.
func (b *bench) wantState(t *testing.T, id string, want orchestrator.ContainerState) {
	t.Helper()
	b.await(t, "the container is reported as "+string(want)+" with its address", func() bool {
		c, err := b.Engine.Inspect(b.ctx(t), id)
		if err != nil {
			t.Fatalf("Inspect: %v", err)
		}
		list, err := b.Engine.List(b.ctx(t), b.Labels)
		if err != nil || len(list) != 1 {
			t.Fatalf("List: got %+v, %v; want one", list, err)
		}
		return c.State == want && c.Addr != "" && list[0].ID == id && list[0].State == want && list[0].Addr != ""
	})
}

// standsStill is how long the suite waits to see that a frozen container does
// not answer. A running one answers in a millisecond.
const standsStill = 100 * time.Millisecond

func testFrozen(t *testing.T, b *bench) {
	ctx := b.ctx(t)
	c := b.serve(t, b.config())
	for range 2 { // idempotent
		if err := b.Engine.Freeze(ctx, c.ID); err != nil {
			t.Fatalf("Freeze: %v", err)
		}
		b.wantState(t, c.ID, orchestrator.ContainerFrozen)
	}
	short, cancel := context.WithTimeout(ctx, standsStill)
	defer cancel()
	if _, err := get(short, c, "/count"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a frozen container answered: %v", err)
	}
	for range 2 {
		if err := b.Engine.Thaw(ctx, c.ID); err != nil {
			t.Fatalf("Thaw: %v", err)
		}
		b.wantState(t, c.ID, orchestrator.ContainerRunning)
	}
	if _, err := get(ctx, c, "/count"); err != nil {
		t.Errorf("a thawed container does not answer: %v", err)
	}
}

func testFreezeRefused(t *testing.T, b *bench) {
	ctx := b.ctx(t)
	c := b.run(t, b.script("exit 0"))
	b.awaitExit(t, c.ID)
	for name, call := range map[string]func(context.Context, string) error{"Freeze": b.Engine.Freeze, "Thaw": b.Engine.Thaw} {
		if err := call(ctx, c.ID); !errors.Is(err, orchestrator.ErrConflict) {
			t.Errorf("%s of what has exited: got %v, want ErrConflict", name, err)
		}
		if err := call(ctx, b.Prefix+"-absent"); !errors.Is(err, orchestrator.ErrNotFound) {
			t.Errorf("%s of what does not exist: got %v, want ErrNotFound", name, err)
		}
	}
}

func testStopFrozen(t *testing.T, b *bench) {
	died := b.follow(t, b.Labels)
	c := b.serve(t, b.config())
	if err := b.Engine.Freeze(b.ctx(t), c.ID); err != nil {
		t.Fatalf("Freeze: %v", err)
	}
	if err := b.Engine.Stop(b.ctx(t), c.ID, 30*time.Second); err != nil {
		t.Fatalf("Stop: %v", err)
	}
	if e := died.next(t, orchestrator.EventDied); e.ExitCode != 0 {
		t.Errorf("exit code: got %d, want 0: it was to be thawed and asked to end", e.ExitCode)
	}
	b.wantNone(t)
}

func testRemoveFrozen(t *testing.T, b *bench) {
	c := b.serve(t, b.config())
	if err := b.Engine.Freeze(b.ctx(t), c.ID); err != nil {
		t.Fatalf("Freeze: %v", err)
	}
	if err := b.Engine.Stop(b.ctx(t), c.ID, 0); err != nil {
		t.Fatalf("Stop: %v", err)
	}
	b.wantNone(t)
}

func testFreezeOften(t *testing.T, b *bench) {
	ctx := b.ctx(t)
	c := b.serve(t, b.config())
	for i := range 40 {
		if err := b.Engine.Freeze(ctx, c.ID); err != nil {
			t.Fatalf("Freeze %d: %v", i, err)
		}
		if err := b.Engine.Thaw(ctx, c.ID); err != nil {
			t.Fatalf("Thaw %d: %v", i, err)
		}
		if got, err := get(ctx, c, "/count"); err != nil || got != fmt.Sprint(i) {
			t.Fatalf("after thaw %d: got %q, %v", i, got, err)
		}
	}
}

// eventStream is a running Events.
type eventStream struct {
	events chan orchestrator.Event
	ended  chan error
	cancel context.CancelFunc
}

// follow starts Events, returns once it is connected, and ends it with the test.
func (b *bench) follow(t *testing.T, labels map[string]string) *eventStream {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	s := &eventStream{events: make(chan orchestrator.Event, 100), ended: make(chan error, 1), cancel: cancel}
	go func() { s.ended <- b.Engine.Events(ctx, labels, func(e orchestrator.Event) { s.events <- e }) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-s.ended:
			if !errors.Is(err, context.Canceled) {
				t.Errorf("Events: got %v, want context.Canceled", err)
			}
		case <-time.After(patience):
			t.Error("Events does not end with its context")
		}
		s.ended <- context.Canceled
	})
	if e := s.any(t); e.Kind != orchestrator.EventResync {
		t.Fatalf("first event: got %+v, want a resync", e)
	}
	return s
}

// any returns the next event.
func (s *eventStream) any(t *testing.T) orchestrator.Event {
	t.Helper()
	select {
	case e := <-s.events:
		return e
	case err := <-s.ended:
		s.ended <- err
		t.Fatalf("Events ended: %v", err)
	case <-time.After(patience):
		t.Fatalf("no event in %s", patience)
	}
	return orchestrator.Event{}
}

// next returns the next event of a kind.
func (s *eventStream) next(t *testing.T, kind orchestrator.EventKind) orchestrator.Event {
	t.Helper()
	for {
		if e := s.any(t); e.Kind == kind {
			return e
		}
	}
}

func testResync(t *testing.T, b *bench) {
	b.follow(t, b.Labels) // fails unless it comes first
}

func testDied(t *testing.T, b *bench) {
	other := b.config()
	other.Labels["dev.kiln.test.watched"] = "no"
	other.Command = []string{"script", "exit 1"}
	watched := b.script("exit 9")
	watched.Labels["dev.kiln.test.watched"] = "yes"
	want := maps.Clone(b.Labels)
	want["dev.kiln.test.watched"] = "yes"

	stream := b.follow(t, want)
	b.awaitExit(t, b.run(t, other).ID)
	c := b.run(t, watched)
	e := stream.any(t)
	if e.Kind != orchestrator.EventDied || e.ID != c.ID || e.ExitCode != 9 || e.Time.IsZero() {
		t.Errorf("got %+v, want the death of %s with code 9 and nothing before", e, c.ID)
	}
	if !hasAll(e.Labels, want) {
		t.Errorf("labels: got %v, want at least %v", e.Labels, want)
	}
	if c.Labels == nil || e.Labels["exitCode"] != "" {
		t.Errorf("labels: got %v, want labels only", e.Labels)
	}
}

func testOOM(t *testing.T, b *bench) {
	stream := b.follow(t, b.Labels)
	c := b.serve(t, b.config())
	if _, err := get(b.ctx(t), c, fmt.Sprintf("/allocate?bytes=%d", 256*orchestrator.MiB)); err == nil {
		t.Error("256 MiB could be allocated in a container of 64 MiB")
	}
	stream.next(t, orchestrator.EventOOM)
	if e := stream.next(t, orchestrator.EventDied); e.ExitCode != exitKilled {
		t.Errorf("exit code: got %d, want %d", e.ExitCode, exitKilled)
	}
	if got := b.awaitExit(t, c.ID); !got.OOMKilled {
		t.Errorf("Inspect: got %+v, want OOMKilled", got)
	}
}

func testEventsEnd(t *testing.T, b *bench) {
	stream := b.follow(t, b.Labels)
	stream.cancel() // the cleanup of follow sees it end
}

// readLogs collects lines, without their times.
func (b *bench) readLogs(t *testing.T, id string, options orchestrator.LogOptions) []orchestrator.LogLine {
	t.Helper()
	var lines []orchestrator.LogLine
	last := map[bool]time.Time{} // by stream: engines read the two independently
	for line, err := range b.Engine.Logs(b.ctx(t), id, options) {
		if err != nil {
			t.Fatalf("Logs: %v", err)
		}
		if line.Time.Before(last[line.Stderr]) {
			t.Errorf("line %q is older than the one before", line.Text)
		}
		if time.Since(line.Time).Abs() > time.Hour {
			t.Errorf("line %q has the time %s", line.Text, line.Time)
		}
		last[line.Stderr], line.Time = line.Time, time.Time{}
		lines = append(lines, line)
	}
	return lines
}

func testLines(t *testing.T, b *bench) {
	c := b.run(t, b.script("echo one", "sleep 50ms", "err two", "sleep 50ms", "echo ", "sleep 50ms", "echo three é"))
	b.awaitExit(t, c.ID)
	want := map[bool][]orchestrator.LogLine{
		false: {{Text: "one"}, {Text: ""}, {Text: "three é"}},
		true:  {{Text: "two", Stderr: true}},
	}
	got := map[bool][]orchestrator.LogLine{}
	for _, line := range b.readLogs(t, c.ID, orchestrator.LogOptions{Tail: -1}) {
		got[line.Stderr] = append(got[line.Stderr], line)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("lines (-want +got):\n%s", diff)
	}
	for range b.Engine.Logs(b.ctx(t), c.ID, orchestrator.LogOptions{Tail: -1, Follow: true}) {
		break // leaving early must be possible
	}
}

func testTail(t *testing.T, b *bench) {
	c := b.run(t, b.script("echo 1", "echo 2", "echo 3"))
	b.awaitExit(t, c.ID)
	for tail, want := range map[int][]orchestrator.LogLine{
		0: nil,
		2: {{Text: "2"}, {Text: "3"}},
		9: {{Text: "1"}, {Text: "2"}, {Text: "3"}},
	} {
		if diff := cmp.Diff(want, b.readLogs(t, c.ID, orchestrator.LogOptions{Tail: tail})); diff != "" {
			t.Errorf("tail %d (-want +got):\n%s", tail, diff)
		}
	}
}

func testSince(t *testing.T, b *bench) {
	c := b.run(t, b.script("echo early", "sleep 100ms", "echo late"))
	b.awaitExit(t, c.ID)
	var times []time.Time
	for line, err := range b.Engine.Logs(b.ctx(t), c.ID, orchestrator.LogOptions{Tail: -1}) {
		if err != nil {
			t.Fatalf("Logs: %v", err)
		}
		times = append(times, line.Time)
	}
	if len(times) != 2 {
		t.Fatalf("got %d lines, want 2", len(times))
	}
	middle := times[0].Add(times[1].Sub(times[0]) / 2)
	want := []orchestrator.LogLine{{Text: "late"}}
	if diff := cmp.Diff(want, b.readLogs(t, c.ID, orchestrator.LogOptions{Tail: -1, Since: middle})); diff != "" {
		t.Errorf("since (-want +got):\n%s", diff)
	}
}

func testFollow(t *testing.T, b *bench) {
	c := b.serve(t, b.config())
	said := 0
	var got []string
	for line, err := range b.Engine.Logs(b.ctx(t), c.ID, orchestrator.LogOptions{Tail: -1, Follow: true}) {
		if err != nil {
			t.Fatalf("Logs: %v", err)
		}
		got = append(got, line.Text)
		said++
		if said == 1 {
			if _, err := get(b.ctx(t), c, "/log?err=second"); err != nil {
				t.Fatal(err)
			}
		} else if _, err := get(b.ctx(t), c, "/exit?code=0"); err != nil && !strings.Contains(err.Error(), "EOF") {
			t.Fatal(err)
		}
		if said == 1 {
			continue
		}
	}
	if diff := cmp.Diff([]string{"serving", "second"}, got); diff != "" {
		t.Errorf("followed lines (-want +got):\n%s", diff)
	}
}

func testFollowEnds(t *testing.T, b *bench) {
	c := b.serve(t, b.config())
	ctx, cancel := context.WithCancel(b.ctx(t))
	defer cancel()
	for line, err := range b.Engine.Logs(ctx, c.ID, orchestrator.LogOptions{Tail: -1, Follow: true}) {
		if err != nil {
			t.Errorf("after %q: %v; a follow ends with its context", line.Text, err)
		}
		cancel()
	}
}

func testLongLine(t *testing.T, b *bench) {
	const limit = 64 << 10
	c := b.run(t, b.script("wide 40000", "wide 100000", "echo end"))
	b.awaitExit(t, c.ID)
	var widths []int
	for _, line := range b.readLogs(t, c.ID, orchestrator.LogOptions{Tail: -1}) {
		widths = append(widths, len(line.Text))
		if strings.Trim(line.Text, "x") != "" && line.Text != "end" {
			t.Errorf("a line has something else in it: %.200q", line.Text)
		}
	}
	if diff := cmp.Diff([]int{40000, limit, len("end")}, widths); diff != "" {
		t.Errorf("widths (-want +got):\n%s", diff)
	}
}

func testLogsUnknown(t *testing.T, b *bench) {
	n := 0
	for _, err := range b.Engine.Logs(b.ctx(t), b.Prefix+"-absent", orchestrator.LogOptions{Tail: -1}) {
		n++
		if !errors.Is(err, orchestrator.ErrNotFound) {
			t.Errorf("got %v, want ErrNotFound", err)
		}
	}
	if n != 1 {
		t.Errorf("got %d results, want one error", n)
	}
}
