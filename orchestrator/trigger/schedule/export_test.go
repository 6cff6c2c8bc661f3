package schedule

import (
	"errors"
	"time"
)

// Next returns the first instant after another at which a cron expression fires.
func Next(expression, zone string, after time.Time) (time.Time, error) {
	location, err := time.LoadLocation(zone)
	if err != nil {
		return time.Time{}, err
	}
	c, err := parseCron(expression, location)
	if err != nil {
		return time.Time{}, err
	}
	at, ok := c.next(after, time.Time{})
	if !ok {
		return time.Time{}, errors.New("never again")
	}
	return at, nil
}
