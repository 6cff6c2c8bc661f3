package orchestrator

import (
	"cmp"
	"context"
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
		began := time.Now()
		lines, err := s.pastLogs(ctx, name, past)
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
			s.followLogs(ctx, name, began, lastTimes(lines), yield)
		}
	}
}

func (s *Service) pastLogs(ctx context.Context, name string, options LogOptions) ([]FunctionLog, error) {
	var lines []FunctionLog
	for _, instance := range s.Status(name).Instances {
		for line, err := range s.Engine.Logs(ctx, instance.ID, options) {
			if err != nil {
				return nil, err
			}
			lines = append(lines, FunctionLog{Instance: instance.ID, Revision: instance.Revision, LogLine: line})
		}
	}
	slices.SortStableFunc(lines, func(a, b FunctionLog) int { return a.Time.Compare(b.Time) })
	if options.Tail >= 0 && len(lines) > options.Tail {
		lines = lines[len(lines)-options.Tail:]
	}
	return lines, nil
}

func lastTimes(lines []FunctionLog) map[string]time.Time {
	last := map[string]time.Time{}
	for _, l := range lines {
		last[l.Instance] = l.Time
	}
	return last
}

// followLogs merges the streams of all instances, each read by a goroutine that
// ends with ctx, with its container, or when the consumer stops.
func (s *Service) followLogs(ctx context.Context, name string, began time.Time, last map[string]time.Time, yield func(FunctionLog, error) bool) {
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
			go read(instance, cmp.Or(last[instance.ID], earlier(began, instance.StartedAt)))
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

func earlier(a, b time.Time) time.Time {
	if b.IsZero() || a.Before(b) {
		return a
	}
	return b
}
