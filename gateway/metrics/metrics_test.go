package metrics_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/kilnfaas/kiln/gateway/metrics"
	"github.com/kilnfaas/kiln/orchestrator"
)

// quiet is a logger whose output nobody reads.
var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

// scrape returns the samples whose names begin with prefix.
func scrape(t *testing.T, m *metrics.Metrics, prefix string) map[string]string {
	t.Helper()
	recorder := httptest.NewRecorder()
	m.Handler(quiet).ServeHTTP(recorder, httptest.NewRequest("GET", "/metrics", nil))
	if recorder.Code != 200 {
		t.Fatalf("scrape: status %d: %s", recorder.Code, recorder.Body)
	}
	samples := map[string]string{}
	for line := range strings.Lines(recorder.Body.String()) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), "} "); ok && strings.HasPrefix(line, prefix) {
			samples[name+"}"] = value
		} else if name, value, ok := strings.Cut(strings.TrimSpace(line), " "); ok && strings.HasPrefix(line, prefix) {
			samples[name] = value
		}
	}
	return samples
}

func wantSamples(t *testing.T, got, want map[string]string) {
	t.Helper()
	for name, value := range want {
		if got[name] != value {
			t.Errorf("%s = %q, want %q", name, got[name], value)
		}
	}
}

func TestInvocations(t *testing.T) {
	m := metrics.New("test")
	f := m.Invocations.Function("a")
	f.Observe(200, 0, 0, 300*time.Microsecond)
	f.Observe(200, 0, 0, 256*time.Microsecond)
	f.Observe(200, 3*time.Millisecond, 2*time.Millisecond, time.Second)
	f.Observe(429, 0, 0, 0)
	f.Observe(418, 0, 0, time.Hour)
	f.Observe(-1, 0, 0, 0)
	f.ColdStart("cell")
	f.ColdStart("something new")
	m.Invocations.Observe("a", 429, 0, 0, 0)
	m.Invocations.Function("b") // never called: no series

	got := scrape(t, m, "kiln_")
	wantSamples(t, got, map[string]string{
		`kiln_invocations_total{code="200",function="a"}`:                    "3",
		`kiln_invocations_total{code="429",function="a"}`:                    "2",
		`kiln_invocations_total{code="418",function="a"}`:                    "1",
		`kiln_invocations_total{code="0",function="a"}`:                      "1",
		`kiln_queue_duration_seconds_count{function="a"}`:                    "7",
		`kiln_queue_duration_seconds_sum{function="a"}`:                      "0.003",
		`kiln_start_duration_seconds_count{function="a"}`:                    "1",
		`kiln_start_duration_seconds_bucket{function="a",le="0.001024"}`:     "0",
		`kiln_start_duration_seconds_bucket{function="a",le="0.002048"}`:     "1",
		`kiln_function_duration_seconds_count{function="a"}`:                 "4",
		`kiln_function_duration_seconds_bucket{function="a",le="0.000256"}`:  "1",
		`kiln_function_duration_seconds_bucket{function="a",le="0.000512"}`:  "2",
		`kiln_function_duration_seconds_bucket{function="a",le="67.108864"}`: "3",
		`kiln_function_duration_seconds_bucket{function="a",le="+Inf"}`:      "4",
		`kiln_cold_starts_total{function="a",origin="cell"}`:                 "1",
		`kiln_cold_starts_total{function="a",origin="other"}`:                "1",
		`kiln_builds_total{result="failed"}`:                                 "0",
		`kiln_invocations_total{code="200",function="b"}`:                    "",
		`kiln_queue_duration_seconds_count{function="b"}`:                    "",
		`kiln_build_info{version="test"}`:                                    "1",
		`kiln_start_duration_seconds_sum{function="a"}`:                      "0.002",
		`kiln_function_duration_seconds_bucket{function="a",le="1.048576"}`:  "3",
		`kiln_function_duration_seconds_bucket{function="a",le="0.524288"}`:  "2",
		`kiln_queue_duration_seconds_bucket{function="a",le="0.000256"}`:     "6",
		`kiln_queue_duration_seconds_bucket{function="a",le="0.004096"}`:     "7",
		`kiln_queue_duration_seconds_bucket{function="a",le="+Inf"}`:         "7",
		`kiln_queue_duration_seconds_bucket{function="a",le="0.002048"}`:     "6",
		`kiln_start_duration_seconds_bucket{function="a",le="+Inf"}`:         "1",
	})

	m.Invocations.Remove("a")
	f.Observe(200, 0, 0, time.Second) // into the void
	for name := range scrape(t, m, "kiln_") {
		if strings.Contains(name, `function="a"`) {
			t.Errorf("%s is still there after Remove", name)
		}
	}
	if got := scrape(t, m, "go_goroutines")["go_goroutines"]; got == "" {
		t.Error("no metrics of the Go process")
	}
}

func TestInvocationsLint(t *testing.T) {
	m := metrics.New("test")
	m.Invocations.Function("a").Observe(200, time.Second, time.Second, time.Second)
	m.Invocations.Function("a").ColdStart("image")
	problems, err := testutil.CollectAndLint(m.Invocations)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

// TestObserveConcurrently loses no count while scrapes go on.
func TestObserveConcurrently(t *testing.T) {
	m := metrics.New("test")
	const callers, calls = 8, 5_000
	var group sync.WaitGroup
	for range callers {
		group.Go(func() {
			f := m.Invocations.Function("a")
			for n := range calls {
				f.Observe(200+n%100, time.Duration(n), time.Duration(n), time.Duration(n))
			}
		})
	}
	for range 5 {
		scrape(t, m, "kiln_")
	}
	group.Wait()
	var total int
	for name, value := range scrape(t, m, "kiln_invocations_total{") {
		n, err := strconv.Atoi(value)
		if err != nil {
			t.Fatalf("%s = %q", name, value)
		}
		total += n
	}
	if total != callers*calls {
		t.Errorf("counted %d invocations, want %d", total, callers*calls)
	}
	if got, want := scrape(t, m, "kiln_")[`kiln_queue_duration_seconds_count{function="a"}`], strconv.Itoa(callers*calls); got != want {
		t.Errorf("queue count = %s, want %s", got, want)
	}
}

func TestObserveAllocatesNothing(t *testing.T) {
	f := metrics.NewInvocations().Function("a")
	if n := testing.AllocsPerRun(1000, func() { f.Observe(200, 0, time.Millisecond, time.Millisecond) }); n > 0 {
		t.Errorf("Observe allocates %v times, want none", n)
	}
}

func TestInstances(t *testing.T) {
	m := metrics.New("test")
	m.WatchInstances(func(yield func(string, orchestrator.FunctionStatus) bool) {
		_ = yield("a", orchestrator.FunctionStatus{Ready: 2, Frozen: 1, Waiting: 5, InFlight: 3}) &&
			yield("b", orchestrator.FunctionStatus{Draining: 1})
	})
	wantSamples(t, scrape(t, m, "kiln_"), map[string]string{
		`kiln_instances{function="a",state="ready"}`:    "2",
		`kiln_instances{function="a",state="frozen"}`:   "1",
		`kiln_instances{function="a",state="starting"}`: "0",
		`kiln_instances{function="b",state="draining"}`: "1",
		`kiln_waiting_requests{function="a"}`:           "5",
		`kiln_inflight_requests{function="a"}`:          "3",
	})
}

func TestCells(t *testing.T) {
	m := metrics.New("test")
	m.WatchCells(func() map[string]int { return map[string]int{"python": 2, "go": 0} })
	wantSamples(t, scrape(t, m, "kiln_cells_"), map[string]string{
		`kiln_cells_waiting{template="python"}`: "2",
		`kiln_cells_waiting{template="go"}`:     "0",
	})
}

type builderFunc func(context.Context) error

func (f builderFunc) BuildRevision(ctx context.Context, r orchestrator.Revision, _ orchestrator.Template, _ func(orchestrator.BuildEvent)) (orchestrator.Image, error) {
	return orchestrator.Image{ID: r.ID}, f(ctx)
}

func TestBuilds(t *testing.T) {
	m := metrics.New("test")
	canceled, cancel := context.WithCancel(context.Background())
	cancel()
	builds := []struct {
		ctx context.Context
		err error
	}{
		{context.Background(), nil},
		{context.Background(), nil},
		{context.Background(), orchestrator.Errorf(orchestrator.ErrFunction, "build-failed", "no")},
		{context.Background(), errors.New("engine gone")},
		{canceled, context.Canceled},
	}
	for _, b := range builds {
		builder := m.Builds(builderFunc(func(context.Context) error { return b.err }))
		image, err := builder.BuildRevision(b.ctx, orchestrator.Revision{ID: "r1"}, orchestrator.Template{}, nil)
		if !errors.Is(err, b.err) || image.ID != "r1" {
			t.Errorf("BuildRevision = %v, %v; want what the next builder returned, r1, %v", image, err, b.err)
		}
	}
	wantSamples(t, scrape(t, m, "kiln_"), map[string]string{
		`kiln_builds_total{result="ok"}`:       "2",
		`kiln_builds_total{result="failed"}`:   "1",
		`kiln_builds_total{result="error"}`:    "1",
		`kiln_builds_total{result="canceled"}`: "1",
		`kiln_build_duration_seconds_count`:    "2",
	})
}

// The benchmarks compare Observe with the same counts through client_golang, on
// one goroutine and on all processors.

func BenchmarkObserve(b *testing.B) {
	f := metrics.NewInvocations().Function("a")
	b.ReportAllocs()
	for b.Loop() {
		f.Observe(200, 0, 0, time.Millisecond)
	}
}

func BenchmarkObserveByName(b *testing.B) {
	invocations := metrics.NewInvocations()
	b.ReportAllocs()
	for b.Loop() {
		invocations.Observe("a", 200, 0, 0, time.Millisecond)
	}
}

func BenchmarkObserveParallel(b *testing.B) {
	f := metrics.NewInvocations().Function("a")
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			f.Observe(200, 0, 0, time.Millisecond)
		}
	})
}

func clientObserver() func() {
	buckets := prometheus.ExponentialBuckets(0.000256, 2, 19)
	total := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "total"}, []string{"function", "code"}).WithLabelValues("a", "200")
	queue := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "queue", Buckets: buckets}, []string{"function"}).WithLabelValues("a")
	function := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "function", Buckets: buckets}, []string{"function"}).WithLabelValues("a")
	return func() {
		total.Inc()
		queue.Observe(0)
		function.Observe(0.001)
	}
}

func BenchmarkClientGolang(b *testing.B) {
	observe := clientObserver()
	for b.Loop() {
		observe()
	}
}

func BenchmarkClientGolangParallel(b *testing.B) {
	observe := clientObserver()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			observe()
		}
	})
}
