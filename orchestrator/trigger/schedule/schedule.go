// Package schedule is the kind of triggers that fire by the clock: cron
// expressions in a time zone, and `@every`.
//
// The position is the instant up to which everything has fired. An event's id is
// the instant it is for, so that what fires again after a crash is folded.
package schedule

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"
	_ "time/tzdata" // zones on machines, and in images, that have none

	"github.com/kilnfaas/kiln/orchestrator"
)

// Type is the type of these triggers.
const Type = "schedule"

const (
	// minEvery is the shortest @every: what comes more often is no schedule.
	minEvery = time.Second
	maxEvery = 366 * 24 * time.Hour
	// maxCatchUp bounds what is caught up with after a downtime.
	maxCatchUp = 1000
	// maxSleep is the longest that one timer runs: it does not hear of the wall
	// clock being set.
	maxSleep = time.Minute
	// maxLate is how late a firing may be that is made with catch_up: none.
	maxLate = time.Minute
	// lookBack is the factor by which one look back is longer than the one before.
	lookBack = 8
	// maxBody bounds the body that a trigger gives its events, in bytes.
	maxBody = 64 << 10
)

// Fleet wakes functions ahead of time. Its methods do not wait.
type Fleet interface {
	// WakeTime is how long before a call a function should be woken so as to be
	// ready for it.
	WakeTime(function string) time.Duration
	// Expect tells that a call of a function comes soon: it is woken if it sleeps.
	Expect(function string)
}

// Source is an orchestrator.Source.
type Source struct {
	Fleet Fleet // nil = functions are woken by their events
}

var _ orchestrator.Source = Source{}

// spec is a trigger's settings.
type spec struct {
	rule    rule
	text    string // of the rule, with its zone
	catchUp string
	body    []byte
	media   string
}

// Values of catch_up.
const (
	catchUpLast = "last"
	catchUpAll  = "all"
	catchUpNone = "none"
)

func read(trigger orchestrator.Trigger) (spec, error) {
	r := trigger.Settings.Reader()
	expression := r.Required("cron", `cron: "0 3 * * *", or "@every 5m"`)
	zone := r.Text("time_zone", "UTC")
	s := spec{catchUp: r.Choice("catch_up", catchUpLast, catchUpAll, catchUpNone)}
	body := r.Text("body", "")
	if len(body) > maxBody {
		r.Refuse("body", "keep data in a file beside the code", "has %d bytes, %d are allowed", len(body), maxBody)
	}
	if body != "" {
		s.body, s.media = []byte(body), "text/plain; charset=utf-8"
		if json.Valid(s.body) {
			s.media = "application/json"
		}
	}
	location, err := time.LoadLocation(zone)
	if err != nil || zone == "Local" || zone == "" {
		r.Refuse("time_zone", "name one of the IANA database, for example Europe/Berlin", "%.80q is no time zone", zone)
		location = time.UTC
	}
	if interval, ok := strings.CutPrefix(expression, "@every "); ok {
		d, err := time.ParseDuration(strings.TrimSpace(interval))
		if err != nil || d < minEvery || d > maxEvery || d%time.Second != 0 {
			r.Refuse("cron", fmt.Sprintf("write a number of seconds, minutes or hours from %s on, for example @every 5m", minEvery), "%.80q is no interval", interval)
		}
		s.rule, s.text = every(d), "@every "+d.String()
	} else if expression != "" {
		c, err := parseCron(expression, location)
		if err != nil {
			r.Refuse("cron", `write minute, hour, day, month and weekday, for example "30 3 * * 1-5", or "@every 5m"`, "%.80q is no schedule: %w", expression, err)
		}
		s.rule, s.text = c, c.expression+" "+zone
	}
	return s, r.Err()
}

// Check implements orchestrator.Source.
func (Source) Check(trigger orchestrator.Trigger) error {
	_, err := read(trigger)
	return err
}

// Sample implements orchestrator.Source.
func (Source) Sample(trigger orchestrator.Trigger) orchestrator.CloudEvent {
	s, err := read(trigger)
	if err != nil {
		s = spec{}
	}
	return s.event(time.Now().Truncate(time.Second), 0)
}

// fired is the data of an event, unless its trigger gives it a body.
type fired struct {
	ScheduledAt time.Time `json:"scheduled_at"`
	// Missed is how many firings before this one were left out, counted up to
	// maxCatchUp: no gateway ran, and the trigger wants the last only.
	Missed int `json:"missed"`
}

// event is the firing at an instant.
func (s spec) event(at time.Time, missed int) orchestrator.CloudEvent {
	at = at.UTC()
	e := orchestrator.CloudEvent{
		ID: at.Format(time.RFC3339), Type: "dev.kiln.schedule.fired", Time: at, ContentType: s.media, Data: s.body,
	}
	if e.Data == nil {
		data, err := json.Marshal(fired{ScheduledAt: at, Missed: missed})
		if err != nil {
			panic("schedule: encode an event: " + err.Error()) // a time and a number
		}
		e.ContentType, e.Data = "application/json", data
	}
	return e
}

// position is where a schedule has got to.
type position struct {
	Rule  string    `json:"rule"`  // that it is the position of
	Start time.Time `json:"start"` // when the rule began
	Done  time.Time `json:"done"`  // everything up to here has fired
}

func (p position) encode() []byte {
	data, err := json.Marshal(p)
	if err != nil {
		panic("schedule: encode a position: " + err.Error()) // text and times
	}
	return data
}

// Run implements orchestrator.Source.
func (source Source) Run(ctx context.Context, trigger orchestrator.Trigger, feed orchestrator.Feed) error {
	s, err := read(trigger)
	if err != nil {
		return err
	}
	var p position
	stored := feed.Position()
	if stored != nil {
		if err := json.Unmarshal(stored, &p); err != nil {
			return fmt.Errorf("decode the position: %w", err)
		}
	}
	if p.Rule != s.text { // a new schedule begins now; what another one missed is not its affair
		now := time.Now().UTC().Truncate(time.Second)
		p = position{Rule: s.text, Start: now, Done: now}
		if err := feed.Deliver(ctx, p.encode()); err != nil {
			return err
		}
	}
	feed.Ready()
	for {
		next, ok := s.rule.next(p.Done, p.Start)
		if !ok {
			feed.Report(orchestrator.Progress{})
			<-ctx.Done() // it has fired for the last time
			return nil
		}
		feed.Report(orchestrator.Progress{Next: next})
		if !source.await(ctx, feed.Function(), next) {
			return nil
		}
		if err := s.catchUpWith(ctx, feed, &p, time.Now()); err != nil {
			return err
		}
	}
}

// await waits for an instant, and wakes the function ahead of it; false when ctx
// ended first.
func (source Source) await(ctx context.Context, function string, at time.Time) bool {
	expected := source.Fleet == nil
	for {
		now := time.Now()
		wait := at.Sub(now.Round(0)) // by the wall clock, which may have been set
		if wait <= 0 {
			return ctx.Err() == nil
		}
		if !expected {
			lead := source.Fleet.WakeTime(function)
			if wait <= lead {
				source.Fleet.Expect(function)
				expected = true
			} else {
				wait -= lead
			}
		}
		timer := time.NewTimer(min(wait, maxSleep))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return false
		}
	}
}

// catchUpWith fires what is due by now: usually one, more when nothing ran for a
// while.
func (s spec) catchUpWith(ctx context.Context, feed orchestrator.Feed, p *position, now time.Time) error {
	due := s.due(*p, now)
	if len(due) == 0 {
		return nil
	}
	last := due[len(due)-1]
	p.Done = last
	switch {
	case s.catchUp == catchUpNone && now.Sub(last) > maxLate:
		return feed.Deliver(ctx, p.encode())
	case s.catchUp != catchUpAll:
		return feed.Deliver(ctx, p.encode(), s.event(last, len(due)-1))
	}
	if len(due) > maxCatchUp {
		feed.Drop(s.event(due[0], 0), orchestrator.Errorf(orchestrator.ErrExhausted, "catch-up-bounded",
			"the firings before %s are left out: at most %d are caught up with", due[1].Format(time.RFC3339), maxCatchUp))
		due = due[1:]
	}
	events := make([]orchestrator.CloudEvent, len(due))
	for i, at := range due {
		events[i] = s.event(at, 0)
	}
	return feed.Deliver(ctx, p.encode(), events...)
}

// due returns the instants that have come and were not fired, the latest
// maxCatchUp and one more at most. It looks back further and further, so that
// the downtime may have been long.
func (s spec) due(p position, now time.Time) []time.Time {
	for back := time.Minute; ; back *= lookBack {
		from := now.Add(-back)
		if from.Before(p.Done) || back > horizon {
			from = p.Done
		}
		var due []time.Time
		for at, ok := s.rule.next(from, p.Start); ok && !at.After(now); at, ok = s.rule.next(at, p.Start) {
			due = append(due, at)
		}
		if from.Equal(p.Done) || len(due) > maxCatchUp {
			return due[max(0, len(due)-maxCatchUp-1):]
		}
	}
}
