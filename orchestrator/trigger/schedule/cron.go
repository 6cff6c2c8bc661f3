package schedule

import (
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/adhocore/gronx"
)

// rule says when a schedule fires.
type rule interface {
	// next returns the first instant after another at which it fires; false when
	// there is none. start is when the schedule began.
	next(after, start time.Time) (time.Time, bool)
}

// every fires at start plus multiples of itself.
type every time.Duration

func (e every) next(after, start time.Time) (time.Time, bool) {
	passed := after.Sub(start)
	if passed < 0 {
		return start.Add(time.Duration(e)), true
	}
	return start.Add((passed/time.Duration(e) + 1) * time.Duration(e)), true
}

// cron fires when the wall clock of a zone shows what an expression says.
//
// Where the clock is put forward, what the expression says of the hour that is
// left out happens at the instant of the change, once. Where it is put back, an
// hour comes twice: an expression that names hours fires in the first of the two
// only, one that has a star for them ("every 15 minutes") in both.
type cron struct {
	expression string
	zone       *time.Location
	anyHour    bool // the field of the hours is a star
}

// names are what cron takes for expressions.
var names = map[string]string{
	"@yearly": "0 0 1 1 *", "@annually": "0 0 1 1 *", "@monthly": "0 0 1 * *", "@weekly": "0 0 * * 0",
	"@daily": "0 0 * * *", "@midnight": "0 0 * * *", "@hourly": "0 * * * *",
}

// Fields of an expression, as they are given: those of the seconds may be left out.
const (
	fieldSecond = iota
	fieldMinute
	fieldHour
	fieldDay
	fieldMonth
	fieldWeekday
	fields
)

var fieldNames = [fields]string{"seconds", "minutes", "hours", "days", "months", "weekdays"}

// What one part of a field may look like. The library that reads them is more
// generous than people who slip want.
var (
	partSyntax    = regexp.MustCompile(`^(\*|\?|[0-9]{1,2}(-[0-9]{1,2})?)(/[0-9]{1,2})?$`)
	daySyntax     = regexp.MustCompile(`^(L|[0-9]{1,2}W)$`)
	weekdaySyntax = regexp.MustCompile(`^[0-7](L|#[1-5])$`)
	months        = strings.NewReplacer("JAN", "1", "FEB", "2", "MAR", "3", "APR", "4", "MAY", "5", "JUN", "6", "JUL", "7", "AUG", "8", "SEP", "9", "OCT", "10", "NOV", "11", "DEC", "12")
	weekdays      = strings.NewReplacer("SUN", "0", "MON", "1", "TUE", "2", "WED", "3", "THU", "4", "FRI", "5", "SAT", "6")
)

// horizon is how far ahead a firing is looked for: a 29th of February on a given
// weekday comes every 28 years, and every 40 around 2100.
const horizon = 41 * 366 * 24 * time.Hour

// parseCron reads an expression: five fields, or six with seconds in front.
func parseCron(text string, zone *time.Location) (cron, error) {
	expression := strings.ToUpper(strings.Join(strings.Fields(text), " "))
	if name, ok := names[strings.ToLower(expression)]; ok {
		expression = name
	}
	parts := strings.Split(expression, " ")
	if len(parts) == fields-1 {
		parts = append([]string{"0"}, parts...)
	}
	if len(parts) != fields {
		return cron{}, fmt.Errorf("it has %d fields, and not 5, or 6 with seconds in front", len(strings.Fields(text)))
	}
	parts[fieldMonth] = months.Replace(parts[fieldMonth])
	parts[fieldWeekday] = weekdays.Replace(parts[fieldWeekday])
	checker := &gronx.SegmentChecker{}
	checker.SetRef(time.Unix(0, 0).UTC())
	for i, field := range parts {
		for part := range strings.SplitSeq(field, ",") {
			fits := partSyntax.MatchString(part) || i == fieldDay && daySyntax.MatchString(part) || i == fieldWeekday && weekdaySyntax.MatchString(part)
			_, err := checker.CheckDue(part, i)
			if !fits || err != nil {
				return cron{}, fmt.Errorf("%.40q cannot be a part of the %s", part, fieldNames[i])
			}
		}
	}
	c := cron{expression: strings.Join(parts, " "), zone: zone, anyHour: strings.HasPrefix(parts[fieldHour], "*")}
	if _, ok := c.next(time.Unix(0, 0), time.Time{}); !ok {
		return cron{}, fmt.Errorf("no date is like that")
	}
	return c, nil
}

// next goes through the spans of time in which the zone's offset is the same:
// within one the wall clock runs evenly.
func (c cron) next(after, _ time.Time) (time.Time, bool) {
	from, inclusive := after.In(c.zone), false
	for end := from.Add(horizon); from.Before(end); {
		begin, until := from.ZoneBounds()
		_, offset := from.Zone()
		wall := shown(from, offset)
		if first, repeated := c.repeats(begin, offset); repeated && wall.Before(first) {
			wall, inclusive = first, true // what was shown before fired then
		}
		at, ok := c.tick(wall, inclusive)
		if !ok {
			return time.Time{}, false
		}
		instant := instantOf(at, offset)
		if until.IsZero() || instant.Before(until) {
			return instant, true
		}
		// Before the clock is put forward: is it due while no clock shows that time?
		_, later := until.Zone()
		if at.Before(shown(until, later)) {
			return until, true
		}
		from, inclusive = until, true
	}
	return time.Time{}, false
}

// repeats says whether a span begins with times that were shown before and are
// not to count again, and which is the first that was not.
func (c cron) repeats(begin time.Time, offset int) (first time.Time, repeated bool) {
	if begin.IsZero() || c.anyHour {
		return time.Time{}, false
	}
	_, before := begin.Add(-time.Nanosecond).Zone()
	return shown(begin, before), before > offset
}

// tick returns the next time on a wall clock that matches.
func (c cron) tick(wall time.Time, inclusive bool) (time.Time, bool) {
	if inclusive && wall.Nanosecond() == 0 {
		if due, err := gronx.New().IsDue(c.expression, wall); err == nil && due {
			return wall, true
		}
	}
	at, err := gronx.NextTickAfter(c.expression, wall, false)
	if err != nil {
		return time.Time{}, false
	}
	due, err := gronx.New().IsDue(c.expression, at)
	return at, err == nil && due
}

// shown is the time that a clock with an offset shows, as if it were one of UTC:
// in that, each time exists once.
func shown(t time.Time, offset int) time.Time {
	return t.UTC().Add(time.Duration(offset) * time.Second)
}

// instantOf undoes shown.
func instantOf(wall time.Time, offset int) time.Time {
	return wall.Add(-time.Duration(offset) * time.Second).UTC()
}
