package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/kilnfaas/kiln/orchestrator"
)

// cgroupMemory reads a container's anonymous memory: "rss" of cgroup v1, "anon"
// of v2.
func cgroupMemory(c orchestrator.Container) (orchestrator.Bytes, error) {
	groups, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", c.PID))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(groups)) {
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(fields) != 3 {
			continue
		}
		folder, key := "", ""
		switch {
		case fields[1] == "memory":
			folder, key = "/sys/fs/cgroup/memory", "rss"
		case fields[0] == "0" && fields[1] == "":
			folder, key = "/sys/fs/cgroup", "anon"
		default:
			continue
		}
		stat, err := os.ReadFile(filepath.Join(folder, fields[2], "memory.stat"))
		if err != nil {
			continue // a hybrid machine lists both hierarchies
		}
		for line := range strings.Lines(string(stat)) {
			if value, ok := strings.CutPrefix(strings.TrimSpace(line), key+" "); ok {
				n, err := strconv.ParseInt(value, 10, 64)
				return orchestrator.Bytes(n), err
			}
		}
	}
	return 0, errors.New("no memory.stat for the container")
}
