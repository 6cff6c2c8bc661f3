package triggertest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/kilnfaas/kiln/orchestrator"
)

// FakeType is the type of triggers of a Fake.
const FakeType = "fake"

// Outside is an outside world in memory: a log that outlives the sources which
// watch it.
type Outside struct {
	mu      sync.Mutex
	log     []int         // guarded by mu: numbers of events
	changed chan struct{} // guarded by mu: closed and replaced when log grows
	fail    error         // guarded by mu: what Run returns instead of reading on
	made    map[string]int
}

// NewOutside returns a world in which nothing happened yet.
func NewOutside() *Outside { return &Outside{changed: make(chan struct{}), made: map[string]int{}} }

// Cause makes event n happen.
func (o *Outside) Cause(n int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.log = append(o.log, n)
	o.change()
}

// Fail makes sources that read fail; nil ends that.
func (o *Outside) Fail(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.fail = err
	o.change()
}

// Made returns what sources have made here for the trigger of an id: 1 until it
// was forgotten.
func (o *Outside) Made(id string) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.made[id]
}

func (o *Outside) change() { // mu is held
	close(o.changed)
	o.changed = make(chan struct{})
}

// after returns the events behind a place in the log, and what closes when there
// are more.
func (o *Outside) after(place int) ([]int, <-chan struct{}, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.fail != nil {
		return nil, nil, o.fail
	}
	return o.log[min(place, len(o.log)):], o.changed, nil
}

// Fake is a Source that reads an Outside: the smallest one that does everything
// right. Its setting `from: start` begins with what happened before.
type Fake struct{ Outside *Outside }

var _ orchestrator.Forgetter = Fake{}

// Check implements orchestrator.Source.
func (Fake) Check(trigger orchestrator.Trigger) error {
	r := trigger.Settings.Reader()
	r.Choice("from", "now", "start")
	return r.Err()
}

// Sample implements orchestrator.Source.
func (Fake) Sample(orchestrator.Trigger) orchestrator.CloudEvent {
	return orchestrator.CloudEvent{Type: "dev.kiln.fake.happened", ContentType: "text/plain", Data: []byte("0")}
}

// Run implements orchestrator.Source.
func (s Fake) Run(ctx context.Context, trigger orchestrator.Trigger, feed orchestrator.Feed) error {
	s.Outside.mu.Lock()
	place := len(s.Outside.log)
	s.Outside.made[feed.ID()] = 1
	s.Outside.mu.Unlock()
	switch position := feed.Position(); {
	case position != nil:
		place = int(binary.BigEndian.Uint64(position))
	case trigger.Settings["from"] == "start":
		place = 0
	}
	if feed.Position() == nil {
		// "From now on" is a place, too: what happens while the trigger is paused
		// before its first event is not before it.
		if err := feed.Deliver(ctx, position(place)); err != nil {
			return err
		}
	}
	feed.Ready()
	for {
		events, changed, err := s.Outside.after(place)
		if err != nil {
			return err
		}
		feed.Report(orchestrator.Progress{Pending: int64(len(events))})
		if len(events) == 0 {
			select {
			case <-changed:
			case <-ctx.Done():
				return nil
			}
			continue
		}
		event := orchestrator.CloudEvent{
			ID: strconv.Itoa(place), Type: "dev.kiln.fake.happened", Time: time.Now(),
			ContentType: "text/plain", Data: fmt.Appendf(nil, "%d", events[0]),
		}
		err = feed.Deliver(ctx, position(place+1), event)
		if errors.Is(err, orchestrator.ErrTooLarge) || errors.Is(err, orchestrator.ErrInvalid) {
			feed.Drop(event, err)
			err = nil
		}
		if err != nil {
			return err
		}
		place++
	}
}

func position(place int) []byte { return binary.BigEndian.AppendUint64(nil, uint64(place)) }

// Forget implements orchestrator.Forgetter.
func (s Fake) Forget(_ context.Context, _ orchestrator.Trigger, id string, _ []byte) error {
	s.Outside.mu.Lock()
	defer s.Outside.mu.Unlock()
	delete(s.Outside.made, id)
	return nil
}

// FakeWorld is the World of a Fake.
func FakeWorld() World {
	outside := NewOutside()
	return World{
		Source:  func() orchestrator.Source { return Fake{outside} },
		Trigger: orchestrator.Trigger{Name: "t", Type: FakeType},
		Cause:   func(n int, _ Receive) error { outside.Cause(n); return nil },
		Number: func(e orchestrator.CloudEvent) (int, error) {
			return strconv.Atoi(string(e.Data))
		},
		Forgotten: func(id string) bool { return outside.Made(id) == 0 },
	}
}
