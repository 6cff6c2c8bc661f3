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

// CodeRemoved is the code of the error, of class ErrNotFound, with which the
// logs of a function end that was removed while they were followed.
const CodeRemoved = "function-removed"

// Logs yields the lines of all instances of a function. Without Follow they are
// in the order of their times, and Tail counts over all; with it, lines come as
// they are written, instances started later included, until ctx ends or the
// function is removed. What is past is merged as it is read: no more than a line
// of each instance is held.
func (s *Service) Logs(ctx context.Context, name string, options LogOptions) iter.Seq2[FunctionLog, error] {
	return func(yield func(FunctionLog, error) bool) {
		if _, err := s.Function(ctx, name); err != nil {
			yield(FunctionLog{}, err)
			return
		}
		past := options
		past.Follow = false
		last := map[string]time.Time{}
		more, err := s.pastLogs(ctx, name, past, last, yield)
		switch {
		case err != nil:
			yield(FunctionLog{}, err)
		case more && options.Follow:
			s.followLogs(ctx, name, last, yield)
		}
	}
}

// pastLogs yields the lines there are, and notes in last up to when each instance
// was read. It reports false when the consumer wants no more.
func (s *Service) pastLogs(ctx context.Context, name string, options LogOptions, last map[string]time.Time, yield func(FunctionLog, error) bool) (more bool, err error) {
	instances := slices.DeleteFunc(s.Status(name).Instances, func(i InstanceStatus) bool { return i.ID == "" }) // its container is being made
	skip := 0
	if options.Tail >= 0 && len(instances) > 1 {
		// The last of each are more than the last of all: count, then leave out.
		for _, err := range s.mergeLogs(ctx, instances, options) {
			if err != nil {
				return false, err
			}
			skip++
		}
		skip = max(0, skip-options.Tail)
	}
	for _, instance := range instances {
		last[instance.ID] = time.Now()
	}
	for line, err := range s.mergeLogs(ctx, instances, options) {
		if err != nil {
			return false, err
		}
		last[line.Instance] = line.Time
		if skip > 0 {
			skip--
			continue
		}
		if !yield(line, nil) {
			return false, nil
		}
	}
	return true, nil
}

// mergeLogs yields the lines of instances in the order of their times.
func (s *Service) mergeLogs(ctx context.Context, instances []InstanceStatus, options LogOptions) iter.Seq2[FunctionLog, error] {
	return func(yield func(FunctionLog, error) bool) {
		type source struct {
			next func() (LogLine, error, bool)
			line FunctionLog
		}
		var sources []*source
		for _, instance := range instances {
			next, stop := iter.Pull2(s.Engine.Logs(ctx, instance.ID, options))
			defer stop()
			sources = append(sources, &source{next, FunctionLog{Instance: instance.ID, Revision: instance.Revision}})
		}
		// advance reads a source's next line; false when it has none.
		advance := func(from *source) (bool, error) {
			line, err, ok := from.next()
			from.line.LogLine = line
			if errors.Is(err, ErrNotFound) { // it went this moment
				return false, nil
			}
			return ok, err
		}
		var failed error
		drop := func(from *source) bool {
			more, err := advance(from)
			failed = errors.Join(failed, err)
			return !more
		}
		sources = slices.DeleteFunc(sources, drop)
		for len(sources) > 0 && failed == nil {
			first := slices.MinFunc(sources, func(a, b *source) int { return a.line.Time.Compare(b.line.Time) })
			if !yield(first.line, nil) {
				return
			}
			if drop(first) {
				sources = slices.DeleteFunc(sources, func(other *source) bool { return other == first })
			}
		}
		if failed != nil {
			yield(FunctionLog{}, failed)
		}
	}
}

// followLogs merges the streams of all instances, those in last from then on,
// each read by a goroutine that ends with ctx, with its container, or when the
// consumer stops. It ends with an error of CodeRemoved once the function is gone
// and its instances have written their last.
func (s *Service) followLogs(ctx context.Context, name string, last map[string]time.Time, yield func(FunctionLog, error) bool) {
	ctx, cancel := context.WithCancel(ctx)
	var readers sync.WaitGroup
	defer readers.Wait()
	defer cancel()
	lines := make(chan FunctionLog)
	reading := 0
	ended := make(chan struct{})
	read := func(instance InstanceStatus, since time.Time) {
		defer readers.Done()
		s.followInstance(ctx, instance, since, lines)
		select {
		case ended <- struct{}{}:
		case <-ctx.Done():
		}
	}
	seen := map[string]bool{}
	tick := time.NewTicker(logPoll)
	defer tick.Stop()
	for {
		_, err := s.Function(ctx, name)
		removed := errors.Is(err, ErrNotFound)
		for _, instance := range s.Status(name).Instances {
			if instance.ID == "" || seen[instance.ID] || removed {
				continue
			}
			seen[instance.ID] = true
			readers.Add(1)
			reading++
			go read(instance, last[instance.ID])
		}
		if removed && reading == 0 {
			yield(FunctionLog{}, Errorf(ErrNotFound, CodeRemoved, "function %s was removed", name))
			return
		}
		select {
		case line := <-lines:
			if !yield(line, nil) {
				return
			}
		case <-ended:
			reading--
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// followInstance sends the lines of one instance after since, until its container
// has ended or was removed, or ctx ends.
func (s *Service) followInstance(ctx context.Context, instance InstanceStatus, since time.Time, lines chan<- FunctionLog) {
	for line, err := range s.Engine.Logs(ctx, instance.ID, LogOptions{Follow: true, Tail: -1, Since: since}) {
		if err != nil {
			return // the next look finds its successor
		}
		if !line.Time.After(since) {
			continue
		}
		select {
		case lines <- FunctionLog{Instance: instance.ID, Revision: instance.Revision, LogLine: line}:
		case <-ctx.Done():
			return
		}
	}
}
