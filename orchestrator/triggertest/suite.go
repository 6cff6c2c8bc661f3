package triggertest

import (
	"errors"
	"maps"
	"testing"

	"github.com/kilnfaas/kiln/orchestrator"
)

// settingsAreStrict: a slip in function.yaml is refused at deploy, at its place.
func settingsAreStrict(t *testing.T, r *rig) {
	if err := r.first.Check(r.world.Trigger); err != nil {
		t.Errorf("Check of the world's trigger: %v", err)
	}
	wrong := r.world.Trigger
	wrong.Settings = maps.Clone(wrong.Settings)
	if wrong.Settings == nil {
		wrong.Settings = orchestrator.Settings{}
	}
	wrong.Settings["nonsense"] = true
	err := r.first.Check(wrong)
	place, ok := errors.AsType[*orchestrator.SettingError](err)
	if !ok || place.Setting != "nonsense" || !errors.Is(err, orchestrator.ErrInvalid) || place.Cause.Hint == "" {
		t.Errorf("Check with an unknown setting = %v, want a SettingError of it, of the class invalid, with what to do", err)
	}
}

func sampleIsAnEvent(t *testing.T, r *rig) {
	event := r.first.Sample(r.world.Trigger)
	event.ID = "1"
	if event.Source == "" {
		event.Source = "/x"
	}
	if err := event.Validate(); err != nil {
		t.Errorf("Sample: %v", err)
	}
}

func everyEventIsDelivered(t *testing.T, r *rig) {
	r.start()
	for n := 1; n <= 5; n++ {
		r.cause(n)
		r.came(n)
	}
	r.cause(6, 7, 8, 9, 10)
	r.came(10)
	r.once(10)
	r.until("the status tells of all events, and of no error", func() bool {
		s := r.status()
		return s.Delivered >= 10 && !s.Failing && s.Errors == 0 && s.LastEventID != "" && !s.LastEventAt.IsZero()
	})
}

// pauseLosesNothing: what happens during a pause is delivered after it, and
// nothing during it.
func pauseLosesNothing(t *testing.T, r *rig) {
	r.start()
	r.cause(1)
	r.came(1)
	s, err := r.engine.Pause(t.Context(), functionName, r.world.Trigger.Name)
	if err != nil || s.Phase == orchestrator.TriggerRunning || s.Paused.IsZero() {
		t.Fatalf("Pause = %+v, %v", s, err)
	}
	before := r.status().Delivered
	r.cause(2, 3)
	if now := r.status().Delivered; now != before {
		t.Errorf("%d events were delivered during the pause", now-before)
	}
	// A pause outlasts the gateway.
	r.end()
	r.begin()
	r.until("it is paused again", func() bool { return r.status().Phase == orchestrator.TriggerPaused })
	r.cause(4)
	if now := r.status().Delivered; now != 0 {
		t.Errorf("%d events were delivered during the pause, after a restart", now)
	}
	if _, err := r.engine.Resume(t.Context(), functionName, r.world.Trigger.Name); err != nil {
		t.Fatal(err)
	}
	r.came(4)
	r.once(4)
}

// pauseBeforeFirst: "from now on" is a position, too.
func pauseBeforeFirst(t *testing.T, r *rig) {
	r.start()
	if _, err := r.engine.Pause(t.Context(), functionName, r.world.Trigger.Name); err != nil {
		t.Fatal(err)
	}
	r.cause(1)
	if _, err := r.engine.Resume(t.Context(), functionName, r.world.Trigger.Name); err != nil {
		t.Fatal(err)
	}
	r.came(1)
}

func restartGoesOn(t *testing.T, r *rig) {
	r.start()
	r.cause(1, 2)
	r.came(2)
	id := r.status().Address
	r.end()
	r.cause(3, 4)
	r.start()
	r.cause(5)
	r.came(5)
	r.once(5)
	if again := r.status().Address; again != id {
		t.Errorf("the address is %q after a restart, and was %q", again, id)
	}
}

// crashLosesNothing: the position that is stored is some time old. What was
// delivered since is delivered again and folded.
func crashLosesNothing(t *testing.T, r *rig) {
	r.start()
	r.cause(1)
	r.came(1)
	r.quiet()
	for n := 2; n <= 6; n++ {
		r.cause(n)
	}
	r.came(3)
	r.crash()
	r.cause(7)
	r.start()
	r.cause(8)
	r.came(8)
	// What ran when the gateway died is made again by the queue; what had ended
	// before must not be.
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.got[1] > 1 {
		t.Errorf("event 1 was called %d times, want one: its id has to be the same whenever it is read", r.got[1])
	}
}

// poisonStopsNothing: an event that the function cannot stand is a dead letter,
// and the source goes on.
func poisonStopsNothing(t *testing.T, r *rig) {
	r.attempts = 2
	r.answer = func(n int) int {
		if n == 2 {
			return 500
		}
		return 200
	}
	r.start()
	r.cause(1, 2, 3)
	r.came(3)
	r.until("event 2 is a dead letter", func() bool {
		dead := 0
		for s := range r.queue.Stats {
			dead += s.Dead
		}
		return dead == 1
	})
	if s := r.status(); s.Failing {
		t.Errorf("a function that fails is told as an error of the trigger: %q", s.LastError)
	}
}

// fullQueueLosesNothing: the source waits until there is room.
func fullQueueLosesNothing(t *testing.T, r *rig) {
	r.depth = 2
	r.holdCalls()
	r.start()
	r.cause(1, 2, 3, 4, 5, 6, 7, 8)
	r.until("the trigger tells that the queue is full", func() bool { return r.status().Errors > 0 })
	r.release()
	r.came(8)
	r.once(8)
	r.until("all is well again", func() bool { return !r.status().Failing })
}

// storeFails: what cannot be stored waits.
func storeFails(t *testing.T, r *rig) {
	r.start()
	r.cause(1)
	r.came(1)
	r.quiet()
	r.mortal.breakDown(orchestrator.Errorf(orchestrator.ErrUnavailable, "store-unavailable", "the disk is away"))
	r.cause(2, 3)
	r.until("the trigger tells that the store is away", func() bool { return r.status().Errors > 0 })
	r.mortal.breakDown(nil)
	r.came(3)
	r.once(3)
}

// otherTriggersStayAlone: two triggers with the same settings, one of which is
// paused, and then changed.
func otherTriggersStayAlone(t *testing.T, r *rig) {
	if _, receiver := r.first.(orchestrator.Receiver); receiver {
		t.Skip("each trigger of a Receiver has an address of its own")
	}
	twin := r.world.Trigger
	twin.Name = "twin"
	r.triggers = append(r.triggers, twin)
	r.start()
	r.until("the twin watches", func() bool {
		s, err := r.engine.Trigger(functionName, twin.Name)
		return err == nil && s.Phase == orchestrator.TriggerRunning
	})
	if _, err := r.engine.Pause(t.Context(), functionName, r.world.Trigger.Name); err != nil {
		t.Fatal(err)
	}
	r.cause(1, 2)
	r.came(2)
	r.engine.Serve(functionName, []orchestrator.Trigger{twin})
	r.cause(3)
	r.came(3)
	r.once(3)
}

// removedIsForgotten: nothing is left of a trigger that was removed, and one of
// the same name is a new one.
func removedIsForgotten(t *testing.T, r *rig) {
	r.start()
	r.cause(1)
	r.came(1)
	state, err := r.states.TriggerState(t.Context(), functionName, r.world.Trigger.Name)
	if err != nil {
		t.Fatal(err)
	}
	r.engine.Remove(functionName)
	r.until("the state is gone", func() bool {
		_, err := r.states.TriggerState(t.Context(), functionName, r.world.Trigger.Name)
		return errors.Is(err, orchestrator.ErrNotFound)
	})
	if r.world.Forgotten != nil && !r.world.Forgotten(state.ID) {
		t.Error("something is left outside")
	}
	if all := r.engine.List(""); len(all) != 0 {
		t.Errorf("List = %+v, want nothing", all)
	}
	r.engine.Serve(functionName, r.triggers)
	r.until("the trigger watches", func() bool { return r.status().Phase == orchestrator.TriggerRunning })
	again, err := r.states.TriggerState(t.Context(), functionName, r.world.Trigger.Name)
	if err != nil || again.ID == state.ID {
		t.Errorf("the new trigger has the id of the old one, or none: %v", err)
	}
	calls := r.calls()
	r.cause(2)
	r.until("the new trigger delivers", func() bool { return r.calls() > calls })
}
