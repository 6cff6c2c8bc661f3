package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// clockTick is the unit of the times in /proc/PID/stat (USER_HZ), which is the
// same on every architecture that Go runs on.
const clockTick = 10 * time.Millisecond

// Fields of /proc/PID/stat behind the command's name, see proc_pid_stat(5).
const (
	statUser   = 11
	statSystem = 12
)

// cpuTime returns the processor time that processes have used, user and system
// together. One that has gone counts as none.
func cpuTime(pids []int) (total time.Duration) {
	for _, pid := range pids {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			continue
		}
		fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:])) // the name may have blanks
		if len(fields) <= statSystem {
			continue
		}
		for _, field := range []string{fields[statUser], fields[statSystem]} {
			if ticks, err := strconv.ParseInt(field, 10, 64); err == nil {
				total += time.Duration(ticks) * clockTick
			}
		}
	}
	return total
}

// family returns a process, its children, theirs and so on. The kernel lists
// children by the thread that made them.
func family(pid int) []int {
	pids := []int{pid}
	lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		return pids
	}
	for _, list := range lists {
		children, err := os.ReadFile(list)
		if err != nil {
			continue // the thread has ended
		}
		for field := range strings.FieldsSeq(string(children)) {
			if child, err := strconv.Atoi(field); err == nil {
				pids = append(pids, family(child)...)
			}
		}
	}
	return pids
}
