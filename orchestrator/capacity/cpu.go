package capacity

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strconv"
	"sync/atomic"
	"time"
)

const (
	// sampleInterval is how often the CPU is looked at: as often as pools decide.
	sampleInterval = time.Second
	// saturatedShare is the share of CPU time in use from which on there is
	// nothing left for further instances.
	saturatedShare = 0.95
	// relievedShare is the share below which there is again; the gap keeps the
	// signal from flapping.
	relievedShare = 0.85
)

// CPU tells whether the machine's processors are used up. Its owner runs Run.
type CPU struct {
	// Read returns the CPU time in use and in total since boot, in any unit; nil
	// = /proc/stat.
	Read func() (busy, total uint64, err error)

	saturated atomic.Bool
}

// Saturated says whether the processors were used up in the last second.
func (c *CPU) Saturated() bool { return c.saturated.Load() }

// Run samples once a second until ctx ends. The error is ctx's, or the first of
// Read, before which nothing was ever saturated.
func (c *CPU) Run(ctx context.Context) error {
	read := c.Read
	if read == nil {
		read = procStat
	}
	busy, total, err := read()
	if err != nil {
		return err
	}
	ticker := time.NewTicker(sampleInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			c.saturated.Store(false)
			return ctx.Err()
		case <-ticker.C:
		}
		nowBusy, nowTotal, err := read()
		if err != nil {
			c.saturated.Store(false)
			return err
		}
		if nowTotal > total && nowBusy >= busy {
			c.observe(float64(nowBusy-busy) / float64(nowTotal-total))
		}
		busy, total = nowBusy, nowTotal
	}
}

func (c *CPU) observe(share float64) {
	switch {
	case share >= saturatedShare:
		c.saturated.Store(true)
	case share < relievedShare:
		c.saturated.Store(false)
	}
}

// procStat reads the first line of /proc/stat.
func procStat() (busy, total uint64, err error) {
	data, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, 0, err
	}
	return parseStat(data)
}

// parseStat reads "cpu user nice system idle iowait irq softirq steal guest
// guest_nice": guests are in user already, idle and iowait are not in use.
func parseStat(data []byte) (busy, total uint64, err error) {
	line, _, _ := bytes.Cut(data, []byte("\n"))
	fields := bytes.Fields(line)
	const idle, iowait, steal = 4, 5, 8
	if len(fields) <= idle || string(fields[0]) != "cpu" {
		return 0, 0, fmt.Errorf("read /proc/stat: unexpected first line %q", line)
	}
	for i := 1; i < len(fields) && i <= steal; i++ {
		n, err := strconv.ParseUint(string(fields[i]), 10, 64)
		if err != nil {
			return 0, 0, fmt.Errorf("read /proc/stat: %w", err)
		}
		total += n
		if i != idle && i != iowait {
			busy += n
		}
	}
	return busy, total, nil
}
