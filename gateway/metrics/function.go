package metrics

import (
	"sync/atomic"
	"time"
)

// commonCodes are the statuses with a counter of their own in each shard; others
// share counters in one place, which is slower under contention only.
var commonCodes = [...]int{200, 201, 202, 204, 206, 301, 302, 304, 400, 401, 403, 404, 408, 409, 413, 422, 429, 499, 500, 502, 503, 504}

// Statuses that are counted; what is outside counts as 0.
const (
	minCode = 100
	maxCode = 599
)

// slotOfCode is the index in commonCodes plus one, by status.
var slotOfCode = func() (slots [maxCode + 1]uint8) {
	for i, code := range commonCodes {
		slots[code] = uint8(i + 1)
	}
	return slots
}()

// counters is one shard of a function.
type counters struct {
	codes    [len(commonCodes)]atomic.Uint64
	queue    histogram
	function histogram
	_        [cacheLine]byte // the next shard is another processor's
}

// cacheLine is the size of a line, twice: processors fetch pairs.
const cacheLine = 128

// rareCodes counts the statuses outside commonCodes.
type rareCodes [maxCode + 1]atomic.Uint64

// origins of an instance that was started.
var origins = [...]string{"image", "cell", "adopted", "other"}

// Function counts the invocations of one function. The data plane gets it once
// for a route and calls Observe for each invocation.
type Function struct {
	shards *shards
	shard  []counters
	rare   atomic.Pointer[rareCodes]
	// Starts are rare and slow: one place will do.
	start  histogram
	origin [len(origins)]atomic.Uint64
}

func newFunction(s *shards) *Function {
	return &Function{shards: s, shard: make([]counters, s.count)}
}

// Observe counts an invocation that was answered with an HTTP status. Queue is
// the time it waited for a slot, start the part of it in which an instance was
// started for it, and function the time at the instance until the answer ended;
// start and function are 0 when there was none, and then not part of their
// histograms. It allocates nothing but for a function's first rare status.
func (f *Function) Observe(code int, queue, start, function time.Duration) {
	shard := &f.shard[f.shards.pick()]
	if code < minCode || code > maxCode {
		code = 0
	}
	if slot := slotOfCode[code]; slot != 0 {
		shard.codes[slot-1].Add(1)
	} else {
		f.rareCode(code).Add(1)
	}
	shard.queue.observe(queue)
	if function > 0 {
		shard.function.observe(function)
	}
	if start > 0 {
		f.start.observe(start)
	}
}

func (f *Function) rareCode(code int) *atomic.Uint64 {
	rare := f.rare.Load()
	if rare == nil {
		f.rare.CompareAndSwap(nil, new(rareCodes))
		rare = f.rare.Load()
	}
	return &rare[code]
}

// ColdStart counts an instance that was started. Origin is where it came from:
// "image", "cell" or "adopted".
func (f *Function) ColdStart(origin string) {
	for i, known := range origins {
		if known == origin || i == len(origins)-1 {
			f.origin[i].Add(1)
			return
		}
	}
}

// snapshot is a function's counters at an instant, over all shards.
type snapshot struct {
	codes                  map[int]uint64
	queue, start, function totals
	origins                [len(origins)]uint64
}

func (f *Function) snapshot() snapshot {
	s := snapshot{codes: map[int]uint64{}}
	for i := range f.shard {
		shard := &f.shard[i]
		for slot := range shard.codes {
			if n := shard.codes[slot].Load(); n > 0 {
				s.codes[commonCodes[slot]] += n
			}
		}
		s.queue.add(&shard.queue)
		s.function.add(&shard.function)
	}
	if rare := f.rare.Load(); rare != nil {
		for code := range rare {
			if n := rare[code].Load(); n > 0 {
				s.codes[code] += n
			}
		}
	}
	s.start.add(&f.start)
	for i := range f.origin {
		s.origins[i] = f.origin[i].Load()
	}
	return s
}
