package metrics

import (
	"iter"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kilnfaas/kiln/orchestrator/events"
)

// WatchQueue makes each scrape tell of asynchronous calls by function. It may be
// called once.
func (m *Metrics) WatchQueue(stats iter.Seq[events.Stats]) {
	m.registry.MustRegister(newQueue(stats))
}

// queue tells at each scrape what waits. The label kind is "call" for calls of
// the function and "outbound" for its results that are sent on.
type queue struct {
	stats                                                iter.Seq[events.Stats]
	waiting, running, age, dead, queued, tried, discards *prometheus.Desc
}

func newQueue(stats iter.Seq[events.Stats]) *queue {
	describe := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("kiln_async_"+name, help, append([]string{"function", "kind"}, labels...), nil)
	}
	return &queue{
		stats:    stats,
		waiting:  describe("waiting_calls", "Asynchronous calls that wait: for a slot, their time or their next attempt."),
		running:  describe("running_calls", "Asynchronous calls that are being made."),
		age:      describe("oldest_due_seconds", "How long the first call in line has been due."),
		dead:     describe("dead_letters", "Calls that failed for good and were not dropped."),
		queued:   describe("calls_total", "Asynchronous calls taken in."),
		tried:    describe("attempts_total", "Attempts by what came of them: succeeded, retried, deferred (they did not count), failed.", "outcome"),
		discards: describe("dropped_dead_letters_total", "Dead letters that made room for newer ones."),
	}
}

// Describe implements prometheus.Collector.
func (q *queue) Describe(descs chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{q.waiting, q.running, q.age, q.dead, q.queued, q.tried, q.discards} {
		descs <- d
	}
}

// Collect implements prometheus.Collector.
func (q *queue) Collect(out chan<- prometheus.Metric) {
	for s := range q.stats {
		kind := "call"
		if s.Outbound {
			kind = "outbound"
		}
		send := func(desc *prometheus.Desc, kindOfValue prometheus.ValueType, value float64, labels ...string) {
			out <- prometheus.MustNewConstMetric(desc, kindOfValue, value, append([]string{s.Function, kind}, labels...)...)
		}
		send(q.waiting, prometheus.GaugeValue, float64(s.Waiting))
		send(q.running, prometheus.GaugeValue, float64(s.Running))
		send(q.age, prometheus.GaugeValue, s.Age.Seconds())
		send(q.dead, prometheus.GaugeValue, float64(s.Dead))
		send(q.queued, prometheus.CounterValue, float64(s.Counts.Queued))
		send(q.discards, prometheus.CounterValue, float64(s.Counts.Dropped))
		for outcome, n := range map[string]uint64{
			"succeeded": s.Counts.Succeeded, "retried": s.Counts.Retried, "deferred": s.Counts.Deferred, "failed": s.Counts.Failed,
		} {
			send(q.tried, prometheus.CounterValue, float64(n), outcome)
		}
	}
}
