// Package audit writes down who changed what: one JSON document a line, in files
// of a bounded size and number. It knows nothing of bodies and tokens, so that it
// cannot give them away.
package audit

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"
)

const (
	// FileName is the newest file; older ones have .1 (newer) to .4 behind it.
	FileName = "audit.log"
	// maxFile and maxFiles bound what is kept: 50 MiB are some 150,000 changes.
	maxFile  = 10 << 20
	maxFiles = 5
	// queue is how many records may wait for the disk before calls do.
	queue = 256
)

// Record is one call of the control API that changed something, or was refused.
type Record struct {
	Time      time.Time     `json:"time"`
	RequestID string        `json:"request_id"`
	TokenID   string        `json:"token_id,omitempty"` // empty = nobody known
	TokenName string        `json:"token_name,omitempty"`
	Peer      string        `json:"peer"`   // address of the connection
	Action    string        `json:"action"` // method and route: "DELETE /v1/functions/{name}"
	Name      string        `json:"name,omitempty"`
	Trigger   string        `json:"trigger,omitempty"` // of the function
	Key       string        `json:"key,omitempty"`     // of an object in the bucket Name
	Status    int           `json:"status"`
	Code      string        `json:"code,omitempty"` // of a refusal or failure
	Duration  time.Duration `json:"duration_ns"`
}

// Log is an audit log in a folder. Open starts it, Close ends it.
type Log struct {
	path    string
	logger  *slog.Logger
	max     int64
	records chan Record
	done    chan struct{}

	mu     sync.RWMutex
	closed bool // guarded by mu; held for reading while a record is sent
}

// Open goes on with the log of a folder, or begins one.
func Open(dir string, logger *slog.Logger) (*Log, error) {
	return open(dir, logger, maxFile)
}

func open(dir string, logger *slog.Logger, limit int64) (*Log, error) {
	l := &Log{path: filepath.Join(dir, FileName), logger: logger, max: limit, records: make(chan Record, queue), done: make(chan struct{})}
	file, size, err := l.begin()
	if err != nil {
		return nil, fmt.Errorf("open the audit log: %w", err)
	}
	go l.run(file, size)
	return l, nil
}

// Write takes a record. It waits only when the disk is far behind.
func (l *Log) Write(r Record) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if !l.closed {
		l.records <- r
	}
}

// Close writes what was taken and ends. It may be called more than once.
func (l *Log) Close() error {
	l.mu.Lock()
	if !l.closed {
		l.closed = true
		close(l.records)
	}
	l.mu.Unlock()
	<-l.done
	return nil
}

// run writes records. What cannot be written is at least in the gateway's log.
func (l *Log) run(file *os.File, size int64) {
	defer close(l.done)
	for r := range l.records {
		line, err := json.Marshal(r)
		if err != nil {
			panic("audit: encode a record: " + err.Error()) // strings and numbers only
		}
		line = append(line, '\n')
		if file == nil {
			file, size, err = l.begin()
		} else if size > 0 && size+int64(len(line)) > l.max {
			err = errors.Join(file.Close(), l.rotate())
			if err == nil {
				file, size, err = l.begin()
			} else {
				file = nil
			}
		}
		if err == nil {
			_, err = file.Write(line)
			size += int64(len(line))
		}
		if err != nil {
			l.logger.Error("an audit record is not in its file", "error", err, "record", string(line))
		}
	}
	if file != nil {
		if err := errors.Join(file.Sync(), file.Close()); err != nil {
			l.logger.Error("the end of the audit log may be lost", "error", err)
		}
	}
}

// begin opens the newest file.
func (l *Log) begin() (*os.File, int64, error) {
	file, err := os.OpenFile(l.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, 0, err
	}
	info, err := file.Stat()
	if err != nil {
		return nil, 0, errors.Join(err, file.Close())
	}
	return file, info.Size(), nil
}

// rotate makes room for a new file; the oldest goes.
func (l *Log) rotate() error {
	for n := maxFiles - 1; n > 0; n-- {
		older := fmt.Sprintf("%s.%d", l.path, n)
		newer := l.path
		if n > 1 {
			newer = fmt.Sprintf("%s.%d", l.path, n-1)
		}
		if err := os.Rename(newer, older); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
