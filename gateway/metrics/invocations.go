package metrics

import (
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Invocations counts invocations by function. It is a Prometheus collector; what
// it keeps between scrapes are counters that cost the data plane a few
// nanoseconds. Functions that nobody has called have no series.
type Invocations struct {
	shards    *shards
	functions sync.Map // of *Function by name; read far more often than written

	total, queue, start, function, cold *prometheus.Desc
}

// NewInvocations returns counters without functions.
func NewInvocations() *Invocations {
	describe := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("kiln_"+name, help, labels, nil)
	}
	return &Invocations{
		shards:   newShards(),
		total:    describe("invocations_total", "Invocations answered, by status; 499 is a client that left.", "function", "code"),
		queue:    describe("queue_duration_seconds", "Time invocations waited for a slot of an instance.", "function"),
		start:    describe("start_duration_seconds", "Time invocations waited for an instance to start, of those that did.", "function"),
		function: describe("function_duration_seconds", "Time invocations spent at an instance.", "function"),
		cold:     describe("cold_starts_total", "Instances that were started, by where they came from.", "function", "origin"),
	}
}

// Function returns the counters of a function, the same for each call with its
// name until Remove. Names must be those of functions that exist: each makes
// series of its own.
func (i *Invocations) Function(name string) *Function {
	if f, ok := i.functions.Load(name); ok {
		return f.(*Function)
	}
	f, _ := i.functions.LoadOrStore(name, newFunction(i.shards))
	return f.(*Function)
}

// Observe counts an invocation of a function by its name; see Function.Observe.
func (i *Invocations) Observe(name string, code int, queue, start, function time.Duration) {
	i.Function(name).Observe(code, queue, start, function)
}

// Remove drops the series of a function. Whoever still holds its Function
// counts into the void.
func (i *Invocations) Remove(name string) {
	i.functions.Delete(name)
}

// Describe implements prometheus.Collector.
func (i *Invocations) Describe(descs chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{i.total, i.queue, i.start, i.function, i.cold} {
		descs <- d
	}
}

// Collect implements prometheus.Collector.
func (i *Invocations) Collect(out chan<- prometheus.Metric) {
	i.functions.Range(func(name, f any) bool {
		i.collect(out, name.(string), f.(*Function).snapshot())
		return true
	})
}

func (i *Invocations) collect(out chan<- prometheus.Metric, name string, s snapshot) {
	for code, n := range s.codes {
		out <- prometheus.MustNewConstMetric(i.total, prometheus.CounterValue, float64(n), name, strconv.Itoa(code))
	}
	for k, n := range s.origins {
		if n > 0 {
			out <- prometheus.MustNewConstMetric(i.cold, prometheus.CounterValue, float64(n), name, origins[k])
		}
	}
	collect(out, i.queue, &s.queue, name)
	collect(out, i.start, &s.start, name)
	collect(out, i.function, &s.function, name)
}

// collect sends a histogram unless it is empty.
func collect(out chan<- prometheus.Metric, desc *prometheus.Desc, t *totals, labels ...string) {
	if n := t.count(); n > 0 {
		out <- prometheus.MustNewConstHistogram(desc, n, t.sum.Seconds(), t.cumulative(), labels...)
	}
}
