package metrics

import "github.com/prometheus/client_golang/prometheus"

// WatchCells makes each scrape tell how many cells of each template wait. It may
// be called once.
func (m *Metrics) WatchCells(waiting func() map[string]int) {
	m.registry.MustRegister(&cells{
		waiting: waiting,
		desc:    prometheus.NewDesc("kiln_cells_waiting", "Cells that wait to be loaded: zero where the next wake takes longer.", []string{"template"}, nil),
	})
}

// cells tells at each scrape what waits.
type cells struct {
	waiting func() map[string]int
	desc    *prometheus.Desc
}

// Describe implements prometheus.Collector.
func (c *cells) Describe(descs chan<- *prometheus.Desc) { descs <- c.desc }

// Collect implements prometheus.Collector.
func (c *cells) Collect(out chan<- prometheus.Metric) {
	for template, n := range c.waiting() {
		out <- prometheus.MustNewConstMetric(c.desc, prometheus.GaugeValue, float64(n), template)
	}
}
