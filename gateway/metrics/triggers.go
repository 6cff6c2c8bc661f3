package metrics

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/kilnfaas/kiln/orchestrator"
)

// WatchTriggers makes each scrape tell of triggers; list describes those of a
// function, or of all (""). It may be called once.
func (m *Metrics) WatchTriggers(list func(function string) []orchestrator.TriggerStatus) {
	m.registry.MustRegister(newTriggers(list))
}

// triggers tells at each scrape how triggers do.
type triggers struct {
	list                                     func(string) []orchestrator.TriggerStatus
	events, errors, running, pending, behind *prometheus.Desc
}

func newTriggers(list func(string) []orchestrator.TriggerStatus) *triggers {
	describe := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("kiln_trigger_"+name, help, append([]string{"function", "trigger", "type"}, labels...), nil)
	}
	return &triggers{
		list:    list,
		events:  describe("events_total", "Events by what came of them: delivered, replayed (they had been before), dropped.", "outcome"),
		errors:  describe("errors_total", "Errors of a trigger: of its source, or of putting events into the queue."),
		running: describe("running", "1 while the trigger watches, 0 while it is paused, starts or is tried again."),
		pending: describe("pending_events", "Events that happened and are not delivered yet, where the source knows."),
		behind:  describe("lag_seconds", "How old the first of those is."),
	}
}

// Describe implements prometheus.Collector.
func (t *triggers) Describe(descs chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{t.events, t.errors, t.running, t.pending, t.behind} {
		descs <- d
	}
}

// Collect implements prometheus.Collector.
func (t *triggers) Collect(out chan<- prometheus.Metric) {
	for _, s := range t.list("") {
		send := func(desc *prometheus.Desc, kind prometheus.ValueType, value float64, labels ...string) {
			out <- prometheus.MustNewConstMetric(desc, kind, value, append([]string{s.Function, s.Trigger.Name, s.Trigger.Type}, labels...)...)
		}
		for outcome, n := range map[string]uint64{"delivered": s.Delivered, "replayed": s.Replayed, "dropped": s.Dropped} {
			send(t.events, prometheus.CounterValue, float64(n), outcome)
		}
		send(t.errors, prometheus.CounterValue, float64(s.Errors))
		running := 0.0
		if s.Phase == orchestrator.TriggerRunning {
			running = 1
		}
		send(t.running, prometheus.GaugeValue, running)
		if s.Pending >= 0 {
			send(t.pending, prometheus.GaugeValue, float64(s.Pending))
		}
		send(t.behind, prometheus.GaugeValue, s.Lag.Seconds())
	}
}
