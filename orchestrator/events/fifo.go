package events

import (
	"slices"
	"time"
)

// fifo is records in the order in which they ended. One that is tried again
// leaves from the middle; that is noticed when its turn comes.
type fifo struct {
	places []place
	head   int
	count  int // records that are in
}

// place is a record's place; it is void once the record ended at another time.
type place struct {
	r     *record
	ended time.Time
}

// fifoSlack is how many places that were passed are kept before the rest moves up.
const fifoSlack = 1024

func (f *fifo) push(r *record) {
	f.places = append(f.places, place{r, r.ended})
	f.count++
}

// oldest returns the record that has been in for the longest; nil when empty.
func (f *fifo) oldest() *record {
	for f.head < len(f.places) {
		if p := f.places[f.head]; p.r.status.Ended() && p.r.ended.Equal(p.ended) && !p.r.dropped {
			return p.r
		}
		f.places[f.head] = place{}
		f.head++
	}
	f.places, f.head = nil, 0
	return nil
}

// left tells that a record is no longer in.
func (f *fifo) left() {
	f.count--
	if f.head > fifoSlack && f.head > len(f.places)/2 {
		f.places = slices.Clone(f.places[f.head:])
		f.head = 0
	}
}
