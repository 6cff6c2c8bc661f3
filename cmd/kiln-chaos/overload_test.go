package main

import (
	"slices"
	"strings"
	"testing"
	"time"
)

// TestJudge: each promise that was not kept under too much load is told, and no
// other; what the machine is to blame for is not.
func TestJudge(t *testing.T) {
	const ms = time.Millisecond
	times := func(most time.Duration, slow int) []time.Duration { // of 100
		return append(slices.Repeat([]time.Duration{ms}, 100-slow), slices.Repeat([]time.Duration{most}, slow)...)
	}
	for name, test := range map[string]struct {
		change func(f *flood)
		want   string // empty = all promises are kept
	}{
		"all is well":                    {func(*flood) {}, ""},
		"slow health checks":             {func(f *flood) { f.healthz = times(51*ms, 1) }, "health checks took 51ms"},
		"slow health checks, as all is":  {func(f *flood) { f.healthz, f.plain = times(90*ms, 1), times(31*ms, 1) }, ""},
		"no overload":                    {func(f *flood) { f.shed = 0 }, "nothing was refused"},
		"a refusal without Retry-After":  {func(f *flood) { f.other = []string{"429 after 1ms"} }, "neither an answer nor 429 with Retry-After (1 in all): 429"},
		"a late answer":                  {func(f *flood) { f.accepted[7] = floodTimeout + 251*ms }, "an accepted call took 2.251s"},
		"a late answer, as all is":       {func(f *flood) { f.accepted[7], f.plain = floodTimeout+300*ms, times(101*ms, 1) }, ""},
		"hardly any answer":              {func(f *flood) { f.accepted = f.accepted[:49] }, "49 calls/s were served of a capacity of 100"},
		"a failure of the other":         {func(f *flood) { f.quietBad = []string{"429 <nil>"} }, "the quiet function failed: 429"},
		"a slow answer of the other":     {func(f *flood) { f.quiet = times(251*ms, 1) }, "the quiet function took 251ms"},
		"a slow answer, one in hundreds": {func(f *flood) { f.quiet = append(times(time.Second, 1), times(0, 0)...) }, ""},
		"long to come back":              {func(f *flood) { f.back = backWithin + ms }, "only 2.001s after the load"},
	} {
		t.Run(name, func(t *testing.T) {
			w := &world{o: options{say: t.Logf}}
			f := &flood{
				capacity: 100, length: time.Second, accepted: times(floodTimeout, 1), shed: 200,
				healthz: times(50*ms, 1), plain: times(ms, 0), quiet: times(250*ms, 1), back: backWithin,
			}
			test.change(f)
			f.judge(w)
			if test.want == "" && len(w.violations) > 0 || test.want != "" && (len(w.violations) != 1 || !strings.Contains(w.violations[0], test.want)) {
				t.Errorf("got %q, want %q", w.violations, test.want)
			}
		})
	}
}
