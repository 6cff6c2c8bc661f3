package capacity_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kilnfaas/kiln/orchestrator/capacity"
)

func TestCPUSaturation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// Share of the CPU in use in each second, and what is to be said after it.
		seconds := []struct {
			share uint64
			want  bool
		}{{50, false}, {94, false}, {97, true}, {90, true}, {86, true}, {80, false}, {90, false}, {100, true}}
		var second int
		var busy, total uint64
		cpu := &capacity.CPU{Read: func() (uint64, uint64, error) {
			if total > 0 {
				second++
			}
			if second > 0 && second <= len(seconds) {
				busy += seconds[second-1].share
			}
			total += 100
			return busy, total, nil
		}}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- cpu.Run(ctx) }()
		time.Sleep(500 * time.Millisecond)
		for i, s := range seconds {
			time.Sleep(time.Second)
			if got := cpu.Saturated(); got != s.want {
				t.Errorf("after second %d at %d %%: %v", i+1, s.share, got)
			}
		}
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) || cpu.Saturated() {
			t.Errorf("ended with %v, saturated %v", err, cpu.Saturated())
		}
	})
}

func TestCPUOfThisMachine(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := (&capacity.CPU{}).Run(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("reading /proc/stat: %v", err)
	}
}

func TestCPUThatCannotBeRead(t *testing.T) {
	broken := errors.New("no such file")
	cpu := &capacity.CPU{Read: func() (uint64, uint64, error) { return 0, 0, broken }}
	if err := cpu.Run(t.Context()); !errors.Is(err, broken) || cpu.Saturated() {
		t.Errorf("got %v", err)
	}
}
