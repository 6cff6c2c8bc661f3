package schedule_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/trigger/schedule"
	"github.com/kilnfaas/kiln/orchestrator/triggertest"
)

func of(settings orchestrator.Settings) orchestrator.Trigger {
	return orchestrator.Trigger{Name: "t", Type: schedule.Type, Settings: settings}
}

// TestConforms in bubbles, where an event is caused by letting time pass.
func TestConforms(t *testing.T) {
	const period = 10 * time.Second
	for name, expression := range map[string]string{"cron": "*/10 * * * * *", "every": "@every 10s"} {
		t.Run(name, func(t *testing.T) {
			triggertest.RunBubbles(t, func(*testing.T) triggertest.World {
				start := time.Now().Truncate(period) // midnight: a bubble's clock begins on 2000-01-01
				return triggertest.World{
					Source:  func() orchestrator.Source { return schedule.Source{} },
					Trigger: of(orchestrator.Settings{"cron": expression, "catch_up": "all"}),
					Cause: func(n int, _ triggertest.Receive) error {
						time.Sleep(time.Until(start.Add(time.Duration(n)*period + time.Millisecond)))
						return nil
					},
					Number: func(e orchestrator.CloudEvent) (int, error) {
						if got := e.Time.Sub(start) % period; got != 0 {
							return 0, fmt.Errorf("it is for %s", e.Time)
						}
						return int(e.Time.Sub(start) / period), nil
					},
					Patience: 5 * time.Minute,
				}
			})
		})
	}
}

func TestCheck(t *testing.T) {
	for setting, settings := range map[string]orchestrator.Settings{
		"cron: none":        {},
		"cron: words":       {"cron": "every day"},
		"cron: minute":      {"cron": "60 * * * *"},
		"cron: in a list":   {"cron": "1,99 * * * *"},
		"cron: range":       {"cron": "* 9-5 * * *"},
		"cron: three parts": {"cron": "1-5-7 * * * *"},
		"cron: step":        {"cron": "*/0 * * * *"},
		"cron: year":        {"cron": "0 0 0 1 1 * 2030"},
		"cron: a date":      {"cron": "0 0 31 2 *"},
		"cron: name":        {"cron": "0 JAN * * *"},
		"cron: tag":         {"cron": "@5minutes"},
		"cron: interval":    {"cron": "@every 0s"},
		"cron: fraction":    {"cron": "@every 1500ms"},
		"cron: unit":        {"cron": "@every 5"},
		"time_zone":         {"cron": "@daily", "time_zone": "Mars/Olympus"},
		"time_zone: local":  {"cron": "@daily", "time_zone": "Local"},
		"catch_up":          {"cron": "@daily", "catch_up": "some"},
		"body":              {"cron": "@daily", "body": 5.0},
		"timezone":          {"cron": "@daily", "timezone": "UTC"},
	} {
		err := schedule.Source{}.Check(of(settings))
		got, ok := errors.AsType[*orchestrator.SettingError](err)
		if !ok || got.Setting != setting[:min(len(got.Setting), len(setting))] || got.Cause.Hint == "" {
			t.Errorf("%s: %v, want an error of that setting with a hint", setting, err)
		}
	}
	for _, expression := range []string{"0 3 * * *", "*/5 9-17 * * MON-FRI", "0 0 L * *", "0 0 15W * *", "0 0 * * 5L", "0 0 * * 1#2", "@hourly", "@every 1h30m", "0 0 29 2 *", "30 */2 1,15 jan-mar ?"} {
		if err := (schedule.Source{}).Check(of(orchestrator.Settings{"cron": expression})); err != nil {
			t.Errorf("%q: %v", expression, err)
		}
	}
}

// feed is an orchestrator.Feed that remembers.
type feed struct {
	position []byte

	mu      sync.Mutex
	fired   []string // event ids
	late    []time.Duration
	missed  []int
	dropped int
	next    time.Time
}

func (f *feed) Function() string                    { return "f" }
func (f *feed) ID() string                          { return "id" }
func (f *feed) Position() []byte                    { return f.position }
func (f *feed) Ready()                              {}
func (f *feed) Fail(error)                          {}
func (f *feed) Drop(orchestrator.CloudEvent, error) { f.dropped++ }
func (f *feed) Missed(int, error)                   {}

func (f *feed) Report(p orchestrator.Progress) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.next = p.Next
}

func (f *feed) Offer(context.Context, ...orchestrator.CloudEvent) ([]bool, error) {
	panic("not for schedules")
}

func (f *feed) Deliver(_ context.Context, position []byte, all ...orchestrator.CloudEvent) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.position = position
	for _, e := range all {
		f.fired = append(f.fired, e.ID)
		f.late = append(f.late, time.Since(e.Time))
		var data struct{ Missed int }
		if err := json.Unmarshal(e.Data, &data); err == nil {
			f.missed = append(f.missed, data.Missed)
		}
	}
	return nil
}

// runFor runs a trigger for a while, beginning at the feed's position.
func runFor(t *testing.T, f *feed, source schedule.Source, d time.Duration, settings orchestrator.Settings) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	if err := source.Run(ctx, of(settings), f); err != nil {
		t.Fatal(err)
	}
}

// TestCatchUp stops for three hours of an hourly schedule.
func TestCatchUp(t *testing.T) {
	for _, test := range []struct {
		catchUp string
		stop    time.Duration
		want    []string
		missed  []int
	}{
		{"last", 3 * time.Hour, []string{"2000-01-01T01:00:00Z", "2000-01-01T04:00:00Z", "2000-01-01T05:00:00Z"}, []int{0, 2, 0}},
		{"none", 3 * time.Hour, []string{"2000-01-01T01:00:00Z", "2000-01-01T05:00:00Z"}, []int{0, 0}},
		{"none", 30*time.Minute + time.Second, []string{"2000-01-01T01:00:00Z", "2000-01-01T02:00:00Z"}, []int{0, 0}}, // a second late
		{"all", 3 * time.Hour, []string{"2000-01-01T01:00:00Z", "2000-01-01T02:00:00Z", "2000-01-01T03:00:00Z", "2000-01-01T04:00:00Z", "2000-01-01T05:00:00Z"}, []int{0, 0, 0, 0, 0}},
	} {
		t.Run(test.catchUp+" "+test.stop.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := &feed{}
				settings := orchestrator.Settings{"cron": "@hourly", "catch_up": test.catchUp}
				runFor(t, f, schedule.Source{}, 90*time.Minute, settings)
				time.Sleep(test.stop)
				runFor(t, f, schedule.Source{}, 40*time.Minute, settings)
				if diff := cmp.Diff(test.want, f.fired); diff != "" {
					t.Errorf("fired (-want +got):\n%s", diff)
				}
				if diff := cmp.Diff(test.missed, f.missed); diff != "" {
					t.Errorf("missed (-want +got):\n%s", diff)
				}
			})
		})
	}
}

// TestCatchUpIsBounded: ten years of seconds are neither made up for nor counted.
func TestCatchUpIsBounded(t *testing.T) {
	for _, expression := range []string{"* * * * * *", "@every 1s"} {
		synctest.Test(t, func(t *testing.T) {
			f := &feed{}
			settings := orchestrator.Settings{"cron": expression, "catch_up": "all"}
			runFor(t, f, schedule.Source{}, 0, settings)
			time.Sleep(10 * 365 * 24 * time.Hour)
			runFor(t, f, schedule.Source{}, 400*time.Millisecond, settings)
			if len(f.fired) != 1000 || f.dropped != 1 {
				t.Errorf("%s: %d firings and %d dropped, want 1000 and 1", expression, len(f.fired), f.dropped)
			}
			f.fired = nil
			time.Sleep(10 * time.Hour)
			settings["catch_up"] = "last"
			runFor(t, f, schedule.Source{}, 400*time.Millisecond, settings)
			if len(f.fired) != 1 {
				t.Errorf("%s: %d firings, want 1", expression, len(f.fired))
			}
		})
	}
}

// TestAnotherScheduleBeginsNow: what the old one had not fired is not its affair.
func TestAnotherScheduleBeginsNow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &feed{}
		runFor(t, f, schedule.Source{}, 30*time.Minute, orchestrator.Settings{"cron": "@hourly", "catch_up": "all"})
		time.Sleep(10 * time.Hour)
		runFor(t, f, schedule.Source{}, 31*time.Minute, orchestrator.Settings{"cron": "0 * * * *", "time_zone": "Europe/Berlin", "catch_up": "all"})
		if diff := cmp.Diff([]string{"2000-01-01T11:00:00Z"}, f.fired); diff != "" {
			t.Errorf("fired (-want +got):\n%s", diff)
		}
	})
}

// fleet remembers when a function was expected.
type fleet struct {
	lead time.Duration
	at   []time.Time
}

func (f *fleet) WakeTime(string) time.Duration { return f.lead }
func (f *fleet) Expect(string)                 { f.at = append(f.at, time.Now()) }

func TestFunctionIsWokenAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, woken := &feed{}, &fleet{lead: 700 * time.Millisecond}
		runFor(t, f, schedule.Source{Fleet: woken}, 150*time.Minute, orchestrator.Settings{"cron": "@hourly"})
		if len(woken.at) != 2 || len(f.fired) != 2 {
			t.Fatalf("expected at %v for %v", woken.at, f.fired)
		}
		for i, at := range woken.at {
			due, err := time.Parse(time.RFC3339, f.fired[i])
			if err != nil || due.Sub(at) != woken.lead {
				t.Errorf("expected %s before it was due, want %s", due.Sub(at), woken.lead)
			}
		}
		if f.late[0] != 0 || f.late[1] != 0 {
			t.Errorf("fired %v late, want at the instant", f.late)
		}
	})
}

func TestBody(t *testing.T) {
	e := schedule.Source{}.Sample(of(orchestrator.Settings{"cron": "@daily", "body": `{"a":1}`}))
	if string(e.Data) != `{"a":1}` || e.ContentType != "application/json" {
		t.Errorf("event = %+v", e)
	}
	e = schedule.Source{}.Sample(of(orchestrator.Settings{"cron": "@daily", "body": "hello"}))
	if string(e.Data) != "hello" || e.ContentType != "text/plain; charset=utf-8" {
		t.Errorf("event = %+v", e)
	}
}
