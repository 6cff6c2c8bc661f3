package docker

import (
	"strings"

	"github.com/docker/docker/api/types/container"
)

// openFiles is how many descriptors a process may have: a connection for each
// call that an instance may be given at a time (concurrency, 10,000 at most) and
// half as many for what handlers open. Some engines allow a thousand million,
// which programs that close whatever might be open go through one by one.
const openFiles = 16_384

// ulimits bound each process: no core dump, which the machine would write, outside
// all limits, and which holds what the function keeps in memory; and descriptors,
// unless files is 0.
//
// There is none for processes: the kernel counts those of a user over all
// containers, so that one function would use up another's; Limits.Pids bounds
// them.
func ulimits(files int64) []*container.Ulimit {
	limits := []*container.Ulimit{{Name: "core", Soft: 0, Hard: 0}}
	if files > 0 {
		limits = append(limits, &container.Ulimit{Name: "nofile", Soft: files, Hard: files})
	}
	return limits
}

// refusedFiles says whether a start failed for the number of open files: where the
// engine's own limit is lower, and it may not raise it. No other of ulimits raises
// anything.
func refusedFiles(err error) bool {
	return err != nil && strings.Contains(strings.ToLower(err.Error()), "rlimit")
}
