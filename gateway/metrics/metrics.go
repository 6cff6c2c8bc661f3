// Package metrics is what Kiln tells Prometheus: invocations by function and
// code, the durations of queue, start and function, instances by state, builds,
// cold starts, and the Go process.
//
// Metrics owns a registry; there is no global one. Labels are bounded by the
// names of the functions that exist, by HTTP statuses and by fixed words. The
// data plane counts through Function.Observe, which takes a few nanoseconds and
// no lock; everything else is read at the scrape or decorates a contract.
package metrics

import (
	"context"
	"errors"
	"iter"
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/kilnfaas/kiln/orchestrator"
)

// Metrics are all metrics of one gateway.
type Metrics struct {
	// Invocations are counted by the data plane.
	Invocations *Invocations

	registry      *prometheus.Registry
	builds        *prometheus.CounterVec
	buildDuration prometheus.Histogram
}

// buildBounds are the buckets of build durations, in seconds: from an image that
// is only tagged again to a build at its deadline.
var buildBounds = []float64{0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600}

// Results of a build.
const (
	buildOK       = "ok"
	buildFailed   = "failed"   // the function's fault
	buildError    = "error"    // the platform's fault
	buildCanceled = "canceled" // replaced by a newer one, or the gateway stopped
)

// New returns metrics of which everything is zero.
func New(version string) *Metrics {
	m := &Metrics{
		Invocations: NewInvocations(),
		registry:    prometheus.NewPedanticRegistry(),
		builds: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kiln_builds_total", Help: "Builds of revisions by result: ok, failed (the function's fault), error (the platform's), canceled.",
		}, []string{"result"}),
		buildDuration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "kiln_build_duration_seconds", Help: "Duration of builds that succeeded.", Buckets: buildBounds,
		}),
	}
	for _, result := range []string{buildOK, buildFailed, buildError, buildCanceled} {
		m.builds.WithLabelValues(result) // zero rather than absent, so that rates are right from the first
	}
	info := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "kiln_build_info", Help: "Always 1; the version is the label."}, []string{"version"})
	info.WithLabelValues(version).Set(1)
	m.registry.MustRegister(m.Invocations, m.builds, m.buildDuration, info,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// Statuses yields for each function what runs for it.
type Statuses = iter.Seq2[string, orchestrator.FunctionStatus]

// WatchInstances makes each scrape tell the instances by function and state, and
// the waiting and current requests. It may be called once.
func (m *Metrics) WatchInstances(statuses Statuses) {
	m.registry.MustRegister(newInstances(statuses))
}

// Handler answers scrapes. Errors of collectors go to the log and leave out the
// metric.
func (m *Metrics) Handler(log *slog.Logger) http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{
		ErrorLog:            slog.NewLogLogger(log.Handler(), slog.LevelError),
		ErrorHandling:       promhttp.ContinueOnError,
		MaxRequestsInFlight: maxScrapes,
		EnableOpenMetrics:   true,
	})
}

// maxScrapes bounds the scrapes at one time: two Prometheus servers and a person.
const maxScrapes = 3

// Builds returns a builder that counts the builds of next.
func (m *Metrics) Builds(next orchestrator.RevisionBuilder) orchestrator.RevisionBuilder {
	return &countedBuilds{next: next, metrics: m}
}

type countedBuilds struct {
	next    orchestrator.RevisionBuilder
	metrics *Metrics
}

// BuildRevision implements orchestrator.RevisionBuilder.
func (b *countedBuilds) BuildRevision(ctx context.Context, revision orchestrator.Revision, template orchestrator.Template, progress func(orchestrator.BuildEvent)) (orchestrator.Image, error) {
	start := time.Now()
	image, err := b.next.BuildRevision(ctx, revision, template, progress)
	b.metrics.builds.WithLabelValues(buildResult(ctx, err)).Inc()
	if err == nil {
		b.metrics.buildDuration.Observe(time.Since(start).Seconds())
	}
	return image, err
}

func buildResult(ctx context.Context, err error) string {
	switch {
	case err == nil:
		return buildOK
	case errors.Is(ctx.Err(), context.Canceled):
		return buildCanceled
	case errors.Is(err, orchestrator.ErrFunction):
		return buildFailed
	}
	return buildError
}
