package schedule_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kilnfaas/kiln/orchestrator/trigger/schedule"
)

// TestNext has, for each expression, the instants that follow a beginning. Berlin
// puts its clocks forward on 2026-03-29 (02:00 -> 03:00, +1 -> +2) and back on
// 2026-10-25 (03:00 -> 02:00); Lord Howe by half an hour on 2026-10-04 (02:00 ->
// 02:30) and 2026-04-05 (02:00 -> 01:30); Sao Paulo did at midnight in 2018.
func TestNext(t *testing.T) {
	for _, test := range []struct {
		name, cron, zone, after string
		want                    []string
	}{
		{"minutes", "*/15 * * * *", "UTC", "2026-01-01T00:00:01Z", []string{"2026-01-01T00:15:00Z", "2026-01-01T00:30:00Z", "2026-01-01T00:45:00Z", "2026-01-01T01:00:00Z"}},
		{"an instant does not follow itself", "0 * * * *", "UTC", "2026-01-01T00:00:00Z", []string{"2026-01-01T01:00:00Z"}},
		{"nor within its second", "0 * * * *", "UTC", "2026-01-01T00:00:00.5Z", []string{"2026-01-01T01:00:00Z"}},
		{"seconds", "*/20 * * * * *", "UTC", "2026-01-01T00:00:00Z", []string{"2026-01-01T00:00:20Z", "2026-01-01T00:00:40Z", "2026-01-01T00:01:00Z"}},
		{"names", "30 4 * JAN MON-fri", "UTC", "2026-01-01T12:00:00Z", []string{"2026-01-02T04:30:00Z", "2026-01-05T04:30:00Z"}},
		{"@daily", "@daily", "UTC", "2026-01-31T12:00:00Z", []string{"2026-02-01T00:00:00Z", "2026-02-02T00:00:00Z"}},
		{"day or weekday", "0 0 13 * 5", "UTC", "2026-03-01T00:00:00Z", []string{"2026-03-06T00:00:00Z", "2026-03-13T00:00:00Z", "2026-03-20T00:00:00Z"}},
		{"last day", "0 0 L * *", "UTC", "2026-01-15T00:00:00Z", []string{"2026-01-31T00:00:00Z", "2026-02-28T00:00:00Z"}},
		{"leap day", "0 0 29 2 *", "UTC", "2026-01-01T00:00:00Z", []string{"2028-02-29T00:00:00Z", "2032-02-29T00:00:00Z"}},
		{"31st", "0 0 31 * *", "UTC", "2026-03-31T00:00:00Z", []string{"2026-05-31T00:00:00Z", "2026-07-31T00:00:00Z"}},
		{"zone", "0 3 * * *", "America/New_York", "2026-01-01T00:00:00Z", []string{"2026-01-01T08:00:00Z", "2026-01-02T08:00:00Z"}},
		{"half an hour's zone", "0 0 * * *", "Asia/Kolkata", "2026-01-01T00:00:00Z", []string{"2026-01-01T18:30:00Z"}},

		{"gap: at the change, and next day as ever", "30 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", []string{"2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"}},
		{"gap: once", "0,10,20 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", []string{"2026-03-29T01:00:00Z", "2026-03-30T00:00:00Z"}},
		{"gap: and what is due then", "0 2,3 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", []string{"2026-03-29T01:00:00Z", "2026-03-30T00:00:00Z", "2026-03-30T01:00:00Z"}},
		{"gap: not on another day", "30 2 1 * *", "Europe/Berlin", "2026-03-28T12:00:00Z", []string{"2026-04-01T00:30:00Z"}},
		{"gap: minutes go on", "*/30 * * * *", "Europe/Berlin", "2026-03-29T00:29:00Z", []string{"2026-03-29T00:30:00Z", "2026-03-29T01:00:00Z", "2026-03-29T01:30:00Z"}},
		{"gap at midnight", "0 0 * * *", "America/Sao_Paulo", "2018-11-03T12:00:00Z", []string{"2018-11-04T03:00:00Z", "2018-11-05T02:00:00Z"}},
		{"gap of half an hour", "15 2 * * *", "Australia/Lord_Howe", "2026-10-03T00:00:00Z", []string{"2026-10-03T15:30:00Z", "2026-10-04T15:15:00Z"}},

		{"twice: an hour that is named fires once", "30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", []string{"2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"}},
		{"twice: the hour after it is not affected", "0 3 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", []string{"2026-10-25T02:00:00Z", "2026-10-26T02:00:00Z"}},
		{"twice: a star goes on", "30 * * * *", "Europe/Berlin", "2026-10-24T23:31:00Z", []string{"2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z", "2026-10-25T02:30:00Z"}},
		{"twice: begun in the second hour", "30 2 * * *", "Europe/Berlin", "2026-10-25T01:10:00Z", []string{"2026-10-26T01:30:00Z"}},
		{"twice: half an hour", "45 1 * * *", "Australia/Lord_Howe", "2026-04-04T00:00:00Z", []string{"2026-04-04T14:45:00Z", "2026-04-05T15:15:00Z"}},
		{"twice: every two hours is a star", "0 */2 * * *", "Europe/Berlin", "2026-10-24T23:00:00Z", []string{"2026-10-25T00:00:00Z", "2026-10-25T01:00:00Z", "2026-10-25T03:00:00Z"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			at, err := time.Parse(time.RFC3339Nano, test.after)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for range test.want {
				next, err := schedule.Next(test.cron, test.zone, at)
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, next.UTC().Format(time.RFC3339Nano))
				at = next
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("after %s (-want +got):\n%s", test.after, diff)
			}
		})
	}
}

// FuzzNext: whatever is taken fires later than asked, on a full second, at a time
// that the expression is for or that a clock which is put forward leaves out.
func FuzzNext(f *testing.F) {
	for _, expression := range []string{"* * * * *", "*/7 1-5 * * 1-5", "0 0 29 2 *", "0 0 L * 5L", "5/15 * * * * *", "0 0 1W * *", "@weekly", "0 0 * * 5#3", "1,99 * * * *", "0 0 31 2 *"} {
		f.Add(expression, int64(1774746000), "Europe/Berlin")
	}
	f.Fuzz(func(t *testing.T, expression string, seconds int64, zone string) {
		at := time.Unix(seconds%(1<<33), 0)
		next, err := schedule.Next(expression, zone, at)
		if err != nil {
			return
		}
		if !next.After(at) || next.Nanosecond() != 0 {
			t.Errorf("%q in %s after %s fires at %s", expression, zone, at, next)
		}
	})
}
