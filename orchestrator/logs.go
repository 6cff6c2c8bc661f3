package orchestrator

import (
	"context"
	"errors"
	"iter"
	"slices"
	"sync"
	"time"
)

// FunctionLog is a line that an instance of a function wrote.
type FunctionLog struct {
	Instance string // container id
	Revision string
	LogLine
}

// logPoll is how often a follower looks for new instances: a person reads along.
const logPoll = time.Second

// Logs yields the lines of all instances of a function. Without Follow they are
// in the order of their times, and Tail counts over all; with it, lines come as
// they are written, instances started later included, until ctx ends.
func (s *Service) Logs(ctx context.Context, name string, options LogOptions) iter.Seq2[FunctionLog, error] {
	return func(yield func(FunctionLog, error) bool) {
		if _, err := s.Function(ctx, name); err != nil {
			yield(FunctionLog{}, err)
			return
		}
		past := options
		past.Follow = false
		lines, last, err := s.pastLogs(ctx, name, past)
		if err != nil {
			yield(FunctionLog{}, err)
			return
		}
		for _, line := range lines {
			if !yield(line, nil) {
				return
			}
		}
		if options.Follow {
			s.followLogs(ctx, name, last, yield)
		}
	}
}

// pastLogs returns the lines there are, and up to when each instance was read.
func (s *Service) pastLogs(ctx context.Context, name string, options LogOptions) ([]FunctionLog, map[string]time.Time, error) {
	var lines []FunctionLog
	last := map[string]time.Time{}
	for _, instance := range s.Status(name).Instances {
		if instance.ID == "" { // its container is being made
			continue
		}
		last[instance.ID] = time.Now()
		for line, err := range s.Engine.Logs(ctx, instance.ID, options) {
			if errors.Is(err, ErrNotFound) { // it went this moment
				break
			}
			if err != nil {
				return nil, nil, err
			}
			last[instance.ID] = line.Time
			lines = append(lines, FunctionLog{Instance: instance.ID, Revision: instance.Revision, LogLine: line})
		}
	}
	slices.SortStableFunc(lines, func(a, b FunctionLog) int { return a.Time.Compare(b.Time) })
	if options.Tail >= 0 && len(lines) > options.Tail {
		lines = lines[len(lines)-options.Tail:]
	}
	return lines, last, nil
}

// followLogs merges the streams of all instances, those in last from then on,
// each read by a goroutine that ends with ctx, with its container, or when the
// consumer stops.
func (s *Service) followLogs(ctx context.Context, name string, last map[string]time.Time, yield func(FunctionLog, error) bool) {
	ctx, cancel := context.WithCancel(ctx)
	var readers sync.WaitGroup
	defer readers.Wait()
	defer cancel()
	lines := make(chan FunctionLog)
	read := func(instance InstanceStatus, since time.Time) {
		defer readers.Done()
		for line, err := range s.Engine.Logs(ctx, instance.ID, LogOptions{Follow: true, Tail: -1, Since: since}) {
			if err != nil {
				return // the container ended or was removed; the next look finds its successor
			}
			if !line.Time.After(last[instance.ID]) {
				continue
			}
			select {
			case lines <- FunctionLog{Instance: instance.ID, Revision: instance.Revision, LogLine: line}:
			case <-ctx.Done():
				return
			}
		}
	}
	seen := map[string]bool{}
	tick := time.NewTicker(logPoll)
	defer tick.Stop()
	for {
		for _, instance := range s.Status(name).Instances {
			if instance.ID == "" || seen[instance.ID] {
				continue
			}
			seen[instance.ID] = true
			readers.Add(1)
			go read(instance, last[instance.ID])
		}
		select {
		case line := <-lines:
			if !yield(line, nil) {
				return
			}
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}
