package jetstream

import (
	"golang.org/x/sys/unix"

	"github.com/kilnfaas/kiln/orchestrator"
)

// diskReserve is what the embedded server's disk must have free beyond a
// write. The server answers nothing at all when a write of its own fails, and
// takes no more writes of that stream until it is started again, which the mender
// sees to; so a full disk should be noticed before. The rest is for its indexes
// and for compacting.
const diskReserve = 64 << 20

// room says whether the disk has space for size bytes more: ErrExhausted when
// not. The disk of an external server is that server's care.
func (s *Server) room(size int) error { return s.roomBeyond(size, diskReserve) }

// roomBeyond is room with another reserve, in bytes.
func (s *Server) roomBeyond(size int, reserve int64) error {
	if s.dir == "" {
		return nil
	}
	var stat unix.Statfs_t
	if err := unix.Statfs(s.dir, &stat); err != nil {
		return orchestrator.Errorf(orchestrator.ErrUnavailable, "store-unavailable", "ask for the free space of %s: %w", s.dir, err)
	}
	free := int64(stat.Bavail) * stat.Bsize
	if free < int64(size)+reserve {
		return orchestrator.Errorf(orchestrator.ErrExhausted, "store-full",
			"the disk of the data folder has %d MiB free, %d MiB are kept in reserve", free>>20, reserve>>20).
			WithHint("make room on the disk that holds %s", s.dir)
	}
	return nil
}
