package main

import (
	"context"
	"net/http"
	"time"
)

// fault is one way in which a machine breaks.
type fault struct {
	name string
	// full and short are how often it is injected in the two forms; 0 leaves it
	// out.
	full, short int
	own         bool // it needs an engine of the suite's own
	// prepare does what takes time and is no part of it; may be nil.
	prepare func(ctx context.Context, w *world) error
	// inject breaks something, mends it if it does not mend itself, and returns
	// when all is as it was but for what Kiln has to do. What calls may suffer is
	// said with world.excuse.
	inject func(ctx context.Context, w *world) error
}

// faults are all there are, in the order in which they are injected.
func faults() []fault {
	return []fault{
		killInstance, killCell, removeContainer, cutNetwork, deleteImage, exhaustDescriptors,
		fillDisk, killGateway, tearWrite, restartEngine, jumpClock,
	}
}

func names() []string {
	var names []string
	for _, f := range faults() {
		names = append(names, f.name)
	}
	return names
}

// excuse is a time in which calls may fail.
type excuse struct {
	from, until time.Time // until is zero while it lasts
	covers      func(failure) bool
}

// excuse lets calls fail that are under way from now until the returned function
// is called, if they are of the kind that covers.
func (w *world) excuse(covers func(failure) bool) (end func()) {
	e := &excuse{from: time.Now(), covers: covers}
	w.excuses = append(w.excuses, e)
	return func() { e.until = time.Now() }
}

// excused says whether a failure is allowed.
func (w *world) excused(f failure) bool {
	for _, e := range w.excuses {
		if e.covers(f) && f.until.After(e.from) && (e.until.IsZero() || f.from.Before(e.until)) {
			return true
		}
	}
	return false
}

// noGateway: the connection is refused or cut, or the gateway says that it ends.
func noGateway(f failure) bool { return f.status == 0 || f.code == "shutting-down" }

// diedWith: a call that may not be sent again was at the instance that died.
func diedWith(f failure) bool {
	return f.method == http.MethodPost && f.status == http.StatusBadGateway && f.code == "function-died"
}

func anything(failure) bool { return true }
