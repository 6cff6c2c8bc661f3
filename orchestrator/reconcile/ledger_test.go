package reconcile

import (
	"slices"
	"testing"
	"time"
)

func TestLedgerOverdue(t *testing.T) {
	start := time.Unix(0, 0)
	l := newLedger()
	for _, step := range []struct {
		after   time.Duration
		orphans []string
		want    []string
	}{
		{0, []string{"a"}, nil},
		{59 * time.Second, []string{"a", "b"}, nil},
		{60 * time.Second, []string{"a", "b"}, []string{"a"}},
		{70 * time.Second, []string{"b"}, nil},
		{80 * time.Second, []string{"a", "b"}, nil}, // a was gone meanwhile: its time begins anew
		{119 * time.Second, []string{"a", "b"}, []string{"b"}},
		{140 * time.Second, []string{"a"}, []string{"a"}},
	} {
		if got := l.overdue(start.Add(step.after), time.Minute, step.orphans); !slices.Equal(got, step.want) {
			t.Errorf("after %v with %v: got %v, want %v", step.after, step.orphans, got, step.want)
		}
	}
}
