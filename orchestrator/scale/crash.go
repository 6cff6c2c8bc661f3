package scale

import "time"

const (
	// crashBase is the pause after the second failure in a row; the first is
	// tried again at once, as it may have been an accident.
	crashBase = time.Second
	// MaxBackoff bounds the pause between starts of what keeps failing.
	MaxBackoff = 60 * time.Second
	// StableAfter is how long an instance must live to count as started: what
	// ends sooner is a failed start.
	StableAfter = 10 * time.Second
)

// Backoff returns how long to wait before the next start after so many failures
// in a row: 0, then 1 s, doubled with each, up to 60 s.
func Backoff(failures int) time.Duration {
	if failures <= 1 {
		return 0
	}
	pause := crashBase
	for range failures - 2 {
		if pause *= 2; pause >= MaxBackoff {
			return MaxBackoff
		}
	}
	return pause
}
