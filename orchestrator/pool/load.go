package pool

import "time"

// never is an instant before all others.
const never instant = -1

// load integrates concurrency over time: the number of requests waiting or in
// flight, as the windowed decision needs it. It also knows since when there
// have been none.
type load struct {
	n         int
	area      float64 // request-seconds since start
	last      instant // when n last changed
	start     instant // of the present interval
	idleSince instant // end of the last request; never before the first
}

func (l *load) enter(now instant) {
	l.area += float64(l.n) * (now - l.last).Seconds()
	l.last = now
	l.n++
}

func (l *load) leave(now instant) {
	l.area += float64(l.n) * (now - l.last).Seconds()
	l.last = now
	if l.n--; l.n == 0 {
		l.idleSince = now
	}
}

// restart begins an interval.
func (l *load) restart(now instant) { l.area, l.last, l.start = 0, now, now }

// average ends an interval and returns its mean concurrency.
func (l *load) average(now instant) float64 {
	l.area += float64(l.n) * (now - l.last).Seconds()
	area, span := l.area, now-l.start
	l.restart(now)
	if span <= 0 {
		return float64(l.n)
	}
	return area / span.Seconds()
}

// arrive counts a request in and, when it is the first after a pause, records
// how long that was.
func (p *Pool) arrive(now instant) {
	if p.load.n == 0 && p.load.idleSince != never {
		p.idle.Record(now - p.load.idleSince)
	}
	p.load.enter(now)
}

// idleFor returns how long there has been no request; 0 while there is one.
func (p *Pool) idleFor(now instant) time.Duration {
	if p.load.n > 0 || p.load.idleSince == never {
		return 0
	}
	return now - p.load.idleSince
}
