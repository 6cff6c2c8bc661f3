package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"
)

const (
	// journalEvery is how often new containers are looked for: well within the
	// time one takes until it serves.
	journalEvery = 50 * time.Millisecond
	// maxLog bounds what is read of a container's log; the engine rotates it
	// before that.
	maxLog = 16 << 20
)

// journal reads what functions wrote down themselves: the ids of the calls they
// received. It holds the engine's log files open, so that the words of a
// container outlast it.
type journal struct {
	dir    string // the engine's folders of containers
	owner  string // whose containers
	cancel context.CancelFunc
	done   sync.WaitGroup

	mu        sync.Mutex
	logs      map[string]*os.File // guarded by mu; by container id
	strangers map[string]bool     // guarded by mu; ids of others' containers
}

func openJournal(dir, owner string) *journal {
	ctx, cancel := context.WithCancel(context.Background())
	j := &journal{dir: dir, owner: owner, cancel: cancel, logs: map[string]*os.File{}, strangers: map[string]bool{}}
	j.done.Go(func() {
		tick := time.NewTicker(journalEvery)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				j.look()
			}
		}
	})
	return j
}

// look opens the logs of containers that are new.
func (j *journal) look() {
	folders, err := os.ReadDir(j.dir)
	if err != nil {
		return // the engine has made none yet
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, folder := range folders {
		id := folder.Name()
		if j.logs[id] != nil || j.strangers[id] {
			continue
		}
		// Until the container has started there is no log.
		log, err := os.Open(filepath.Join(j.dir, id, id+"-json.log"))
		if err != nil {
			continue
		}
		if config, err := os.ReadFile(filepath.Join(j.dir, id, "config.v2.json")); err == nil && bytes.Contains(config, []byte(j.owner)) {
			j.logs[id] = log
		} else {
			j.strangers[id] = true
			log.Close()
		}
	}
}

// callMark stands before the id of a call in a function's log.
const callMark = "call="

// received returns how often each call was received.
func (j *journal) received() (map[string]int, error) {
	j.look()
	j.mu.Lock()
	defer j.mu.Unlock()
	counts := map[string]int{}
	var failures []error
	for _, log := range j.logs {
		data, err := io.ReadAll(io.NewSectionReader(log, 0, maxLog))
		failures = append(failures, err)
		for _, part := range bytes.Split(data, []byte(callMark))[1:] {
			id, _, found := bytes.Cut(part, []byte(";"))
			if found {
				counts[string(id)]++
			}
		}
	}
	return counts, errors.Join(failures...)
}

func (j *journal) close() {
	j.cancel()
	j.done.Wait()
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, log := range j.logs {
		log.Close()
	}
}
