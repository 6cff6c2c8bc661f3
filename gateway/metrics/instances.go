package metrics

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/kilnfaas/kiln/orchestrator"
)

// instances tells at each scrape what runs.
type instances struct {
	statuses                   Statuses
	byState, waiting, inFlight *prometheus.Desc
}

func newInstances(statuses Statuses) *instances {
	return &instances{
		statuses: statuses,
		byState:  prometheus.NewDesc("kiln_instances", "Instances by state: ready, frozen, starting, draining.", []string{"function", "state"}, nil),
		waiting:  prometheus.NewDesc("kiln_waiting_requests", "Invocations that wait for a slot now.", []string{"function"}, nil),
		inFlight: prometheus.NewDesc("kiln_inflight_requests", "Invocations that are at an instance now.", []string{"function"}, nil),
	}
}

// Describe implements prometheus.Collector.
func (i *instances) Describe(descs chan<- *prometheus.Desc) {
	descs <- i.byState
	descs <- i.waiting
	descs <- i.inFlight
}

// Collect implements prometheus.Collector.
func (i *instances) Collect(out chan<- prometheus.Metric) {
	gauge := func(desc *prometheus.Desc, n int, labels ...string) {
		out <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, float64(n), labels...)
	}
	i.statuses(func(name string, s orchestrator.FunctionStatus) bool {
		gauge(i.byState, s.Ready, name, "ready")
		gauge(i.byState, s.Frozen, name, "frozen")
		gauge(i.byState, s.Starting, name, "starting")
		gauge(i.byState, s.Draining, name, "draining")
		gauge(i.waiting, s.Waiting, name)
		gauge(i.inFlight, s.InFlight, name)
		return true
	})
}
