package metrics

import (
	"maps"
	"strconv"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

// Invocations counts invocations by function. It is a Prometheus collector; what
// it keeps between scrapes are counters that cost the data plane a few
// nanoseconds. Functions that nobody has called have no series.
type Invocations struct {
	shards *shards

	mu        sync.Mutex
	functions map[string]*Function // guarded by mu

	total, queue, start, function, cold *prometheus.Desc
}

// NewInvocations returns counters without functions.
func NewInvocations() *Invocations {
	describe := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("kiln_"+name, help, labels, nil)
	}
	return &Invocations{
		shards:    newShards(),
		functions: map[string]*Function{},
		total:     describe("invocations_total", "Invocations answered, by status; 499 is a client that left.", "function", "code"),
		queue:     describe("queue_duration_seconds", "Time invocations waited for a slot of an instance.", "function"),
		start:     describe("start_duration_seconds", "Time invocations waited for an instance to start, of those that did.", "function"),
		function:  describe("function_duration_seconds", "Time invocations spent at an instance.", "function"),
		cold:      describe("cold_starts_total", "Invocations that waited for an instance to start, by where it came from.", "function", "origin"),
	}
}

// Function returns the counters of a function, the same for each call with its
// name until Remove. Names must be those of functions that exist: each makes
// series of its own.
func (i *Invocations) Function(name string) *Function {
	i.mu.Lock()
	defer i.mu.Unlock()
	f, ok := i.functions[name]
	if !ok {
		f = newFunction(i.shards)
		i.functions[name] = f
	}
	return f
}

// Remove drops the series of a function. Whoever still holds its Function
// counts into the void.
func (i *Invocations) Remove(name string) {
	i.mu.Lock()
	delete(i.functions, name)
	i.mu.Unlock()
}

// Describe implements prometheus.Collector.
func (i *Invocations) Describe(descs chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{i.total, i.queue, i.start, i.function, i.cold} {
		descs <- d
	}
}

// Collect implements prometheus.Collector.
func (i *Invocations) Collect(out chan<- prometheus.Metric) {
	i.mu.Lock()
	functions := maps.Clone(i.functions)
	i.mu.Unlock()
	for name, f := range functions {
		s := f.snapshot()
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
}

// collect sends a histogram unless it is empty.
func collect(out chan<- prometheus.Metric, desc *prometheus.Desc, t *totals, labels ...string) {
	if n := t.count(); n > 0 {
		out <- prometheus.MustNewConstHistogram(desc, n, t.sum.Seconds(), t.cumulative(), labels...)
	}
}
