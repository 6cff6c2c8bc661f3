package route

import (
	"sync"

	"github.com/kilnfaas/kiln/orchestrator/pool"
)

// activeSet is the pools that need ticks. Its lock is a leaf: nothing is called
// with it held.
type activeSet struct {
	mu    sync.Mutex
	pools map[*pool.Pool]struct{}
}

func (s *activeSet) set(p *pool.Pool, active bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !active {
		delete(s.pools, p)
		return
	}
	if s.pools == nil {
		s.pools = map[*pool.Pool]struct{}{}
	}
	s.pools[p] = struct{}{}
}

// snapshot appends the active pools to buffer.
func (s *activeSet) snapshot(buffer []*pool.Pool) []*pool.Pool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for p := range s.pools {
		buffer = append(buffer, p)
	}
	return buffer
}
