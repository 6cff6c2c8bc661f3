package metrics_test

import (
	"testing"
	"time"

	"github.com/kilnfaas/kiln/gateway/metrics"
	"github.com/kilnfaas/kiln/orchestrator"
)

func TestTriggersAreScraped(t *testing.T) {
	m := metrics.New("test")
	m.WatchTriggers(func(string) []orchestrator.TriggerStatus {
		return []orchestrator.TriggerStatus{
			{Function: "a", Trigger: orchestrator.Trigger{Name: "t", Type: "k"}, Phase: orchestrator.TriggerRunning, Delivered: 3, Replayed: 2, Dropped: 1, Errors: 4,
				Pending: 5, Lag: orchestrator.Duration(1500 * time.Millisecond)},
			{Function: "b", Trigger: orchestrator.Trigger{Name: "u", Type: "k"}, Phase: orchestrator.TriggerPaused, Pending: -1},
		}
	})
	got := scrape(t, m, "kiln_trigger_")
	wantSamples(t, got, map[string]string{
		`kiln_trigger_events_total{function="a",outcome="delivered",trigger="t",type="k"}`: "3",
		`kiln_trigger_events_total{function="a",outcome="replayed",trigger="t",type="k"}`:  "2",
		`kiln_trigger_events_total{function="a",outcome="dropped",trigger="t",type="k"}`:   "1",
		`kiln_trigger_errors_total{function="a",trigger="t",type="k"}`:                     "4",
		`kiln_trigger_running{function="a",trigger="t",type="k"}`:                          "1",
		`kiln_trigger_running{function="b",trigger="u",type="k"}`:                          "0",
		`kiln_trigger_pending_events{function="a",trigger="t",type="k"}`:                   "5",
		`kiln_trigger_lag_seconds{function="a",trigger="t",type="k"}`:                      "1.5",
		`kiln_trigger_pending_events{function="b",trigger="u",type="k"}`:                   "", // not known
	})
}
