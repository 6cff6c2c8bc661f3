package schedule_test

import (
	"context"
	"fmt"
	"runtime"
	"runtime/debug"
	"syscall"
	"testing"
	"time"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/events"
	"github.com/kilnfaas/kiln/orchestrator/storetest"
	"github.com/kilnfaas/kiln/orchestrator/trigger"
	"github.com/kilnfaas/kiln/orchestrator/trigger/schedule"
)

// noQueue takes every call and remembers how late it came.
type noQueue struct{ late chan time.Duration }

func (q noQueue) EnqueueAll(_ context.Context, requests []events.Request) ([]events.Queued, error) {
	for _, r := range requests {
		at, err := time.Parse(time.RFC3339Nano, r.Header.Get("Ce-Time"))
		if err != nil {
			return nil, err
		}
		q.late <- time.Since(at)
	}
	return make([]events.Queued, len(requests)), nil
}

// Bounds of what 1,000 schedules may cost that have nothing to do, and how late
// one of them may be; measured are 15 MB, 0.25 % of a core and 1 ms. The bound of
// the processor's time is for the race detector on a busy machine, and still far
// below what looking at each of them every second would take.
const (
	maxMemory = 30 << 20
	maxCPU    = 0.05
	maxLate   = 50 * time.Millisecond
)

// TestThousandSchedules measures what they cost while they wait, and when one
// that fires every second does so.
func TestThousandSchedules(t *testing.T) {
	const count, window = 1000, 3 * time.Second
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	e := trigger.New(trigger.Config{Sources: map[string]orchestrator.Source{schedule.Type: schedule.Source{}}, Store: storetest.NewFakeTriggers()})
	for i := range count {
		e.Serve(fmt.Sprintf("f%d", i), []orchestrator.Trigger{of(orchestrator.Settings{"cron": fmt.Sprintf("%d %d * * *", i%60, i%24), "time_zone": "Europe/Berlin"})})
	}
	e.Serve("often", []orchestrator.Trigger{of(orchestrator.Settings{"cron": "* * * * * *"})})
	queue := noQueue{make(chan time.Duration, 100)}
	if err := e.Open(t.Context(), queue); err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	for _, s := range e.List("") {
		for end := time.Now().Add(20 * time.Second); s.Next.IsZero() && time.Now().Before(end); runtime.Gosched() {
			s, _ = e.Trigger(s.Function, s.Trigger.Name)
		}
	}
	debug.FreeOSMemory() // what the start has left must not be cleaned up while we measure
	runtime.ReadMemStats(&after)
	memory := int64(after.HeapAlloc+after.StackInuse) - int64(before.HeapAlloc+before.StackInuse)
	begun, used, least := time.Now(), cpuTime(t), time.Hour // the least: a machine that is busy with other tests makes others late
	for end := time.After(window); ; {
		select {
		case late := <-queue.late:
			least = min(least, late)
			t.Logf("fired %s after its second", late)
			continue
		case <-end:
		}
		break
	}
	share := float64(cpuTime(t)-used) / float64(time.Since(begun))
	t.Logf("%d schedules: %d KiB, %.3f %% of a core", count, memory>>10, 100*share)
	if least > maxLate {
		t.Errorf("each firing was %s late or more, at most %s are right", least, maxLate)
	}
	if memory > maxMemory {
		t.Errorf("%d schedules take %d MiB, at most %d are right", count, memory>>20, maxMemory>>20)
	}
	if share > maxCPU {
		t.Errorf("%d schedules take %.2f %% of a core, at most %.0f are right", count, 100*share, 100*maxCPU)
	}
}

// cpuTime is what the process has used by now.
func cpuTime(t *testing.T) time.Duration {
	t.Helper()
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		t.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
