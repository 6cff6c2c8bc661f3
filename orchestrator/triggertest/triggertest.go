// Package triggertest is the conformance suite of orchestrator.Source, and a
// Source in memory for the tests of what uses one.
//
// A kind of triggers passes the suite by describing its World: how a gateway
// would make the source, the settings of one trigger, and how to cause event n
// outside. The suite runs the source in the real engine of triggers (package
// trigger) over the real queue (package events), whose journal and store are in
// memory and can be made to fail, and which are closed, or cut off as by a crash,
// and opened again:
//
//	func TestConforms(t *testing.T) {
//		triggertest.Run(t, func(t *testing.T) triggertest.World {
//			broker := startBroker(t)
//			return triggertest.World{
//				Source:  func() orchestrator.Source { return nats.New(nats.Config{…}) },
//				Trigger: orchestrator.Trigger{Name: "t", Type: "nats", Settings: orchestrator.Settings{"subject": "x"}},
//				Cause:   func(n int, _ triggertest.Receive) error { return broker.publish("x", strconv.Itoa(n)) },
//				Number:  func(e orchestrator.CloudEvent) (int, error) { return strconv.Atoi(string(e.Data)) },
//			}
//		})
//	}
//
// What depends on time alone runs in bubbles of testing/synctest: RunBubbles.
package triggertest

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kilnfaas/kiln/orchestrator"
)

// Receive hands a request to the hook of the trigger, as the gateway does; the
// error is ErrUnavailable while no gateway runs.
type Receive func(ctx context.Context, request orchestrator.Incoming) (orchestrator.Reply, error)

// World is a kind of triggers and the outside that it watches. The outside goes on
// when the gateway does not.
type World struct {
	// Source returns the source of a gateway that starts.
	Source func() orchestrator.Source
	// Trigger is the one that is tested. Everything that Cause does while it does
	// not run must reach it later (a schedule has catch_up: all, a consumer is
	// durable).
	Trigger orchestrator.Trigger
	// Cause makes event n (1, 2, …) happen and returns once it did; the suite asks
	// for them in order. It may cause others besides, with higher numbers. For a
	// Receiver, it does what senders do: try again until it is taken; the suite
	// calls it in a goroutine of its own then.
	Cause func(n int, receive Receive) error
	// Number tells which event an event is.
	Number func(e orchestrator.CloudEvent) (int, error)
	// Forgotten says whether nothing is left outside of the trigger of an id; nil
	// when its source makes nothing there.
	Forgotten func(id string) bool
	// Patience is how long a step may take; 0 = 20 seconds.
	Patience time.Duration
}

// defaultPatience is for sources that talk to processes on a busy machine.
const defaultPatience = 20 * time.Second

// Run checks a Source against its contract. open returns a world of its own for
// each call; what needs to be cleaned up it registers with t.Cleanup.
func Run(t *testing.T, open func(t *testing.T) World) {
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) { test.run(t, newRig(t, open(t))) })
	}
}

// RunBubbles is Run with each test in a bubble of testing/synctest.
func RunBubbles(t *testing.T, open func(t *testing.T) World) {
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { test.run(t, newRig(t, open(t))) })
		})
	}
}

var tests = []struct {
	name string
	run  func(t *testing.T, r *rig)
}{
	{"SettingsAreStrict", settingsAreStrict},
	{"SampleIsAnEvent", sampleIsAnEvent},
	{"EveryEventIsDelivered", everyEventIsDelivered},
	{"PauseLosesNothing", pauseLosesNothing},
	{"PauseBeforeTheFirstEventLosesNothing", pauseBeforeFirst},
	{"RestartGoesOnWhereItWas", restartGoesOn},
	{"CrashLosesNothing", crashLosesNothing},
	{"PoisonStopsNothing", poisonStopsNothing},
	{"FullQueueLosesNothing", fullQueueLosesNothing},
	{"StoreThatFailsLosesNothing", storeFails},
	{"OtherTriggersStayAlone", otherTriggersStayAlone},
	{"RemovedTriggerIsForgotten", removedIsForgotten},
}
