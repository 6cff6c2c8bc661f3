package metrics

import (
	"runtime"
	"sync"
	"sync/atomic"
)

// maxShards bounds the memory of a function's counters; contention is low long
// before there are as many shards as processors.
const maxShards = 8

// shards gives out shard numbers so that goroutines on one processor tend to get
// the same and goroutines on different ones different numbers. A sync.Pool keeps
// what it is given on the processor that gave it; that is its only use here.
type shards struct {
	count  int
	next   atomic.Uint32
	tokens sync.Pool
}

func newShards() *shards {
	s := &shards{count: min(runtime.GOMAXPROCS(0), maxShards)}
	numbers := make([]int, s.count)
	for i := range numbers {
		numbers[i] = i
	}
	s.tokens.New = func() any { return &numbers[int(s.next.Add(1))%s.count] }
	return s
}

// pick returns a shard number.
func (s *shards) pick() int {
	token := s.tokens.Get().(*int)
	n := *token
	s.tokens.Put(token)
	return n
}
