package jetstream_test

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kilnfaas/kiln/orchestrator/jetstream"
	"github.com/kilnfaas/kiln/orchestrator/storetest"
)

func benchStore(b *testing.B, dir string) *jetstream.Store {
	b.Helper()
	store, err := jetstream.Open(b.Context(), jetstream.Options{Dir: dir, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { store.Close() })
	return store
}

func BenchmarkPutFunction(b *testing.B) {
	store := benchStore(b, b.TempDir())
	f := storetest.Function("a")
	var err error
	for b.Loop() {
		if f, err = store.PutFunction(b.Context(), f); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkPutFunctionParallel has eight writers.
func BenchmarkPutFunctionParallel(b *testing.B) {
	store := benchStore(b, b.TempDir())
	var n atomic.Int64
	b.SetParallelism(4)
	b.RunParallel(func(pb *testing.PB) {
		f := storetest.Function(fmt.Sprintf("f%d", n.Add(1)))
		var err error
		for pb.Next() {
			if f, err = store.PutFunction(b.Context(), f); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

func BenchmarkFunction(b *testing.B) {
	store := benchStore(b, b.TempDir())
	if _, err := store.PutFunction(b.Context(), storetest.Function("a")); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := store.Function(b.Context(), "a"); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkPutArchive50MiB(b *testing.B) {
	store := benchStore(b, b.TempDir())
	b.SetBytes(50 << 20)
	seed := uint64(0)
	for b.Loop() {
		seed++
		if _, _, err := store.PutArchive(b.Context(), storetest.Content(seed, 50<<20)); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkArchive50MiB(b *testing.B) {
	store := benchStore(b, b.TempDir())
	digest, _, err := store.PutArchive(b.Context(), storetest.Content(1, 50<<20))
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(50 << 20)
	for b.Loop() {
		r, err := store.Archive(b.Context(), digest)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, r); err != nil {
			b.Fatal(err)
		}
	}
}

// fill puts n functions with two revisions each into a store.
func fill(b testing.TB, dir string, n int) {
	b.Helper()
	store, err := jetstream.Open(b.Context(), jetstream.Options{Dir: dir, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	for i := range n {
		name := fmt.Sprintf("f%d", i)
		if _, err := store.PutFunction(b.Context(), storetest.Function(name)); err != nil {
			b.Fatal(err)
		}
		for number := 1; number <= 2; number++ {
			if err := store.PutRevision(b.Context(), storetest.Revision(name, number)); err != nil {
				b.Fatal(err)
			}
		}
	}
	if err := store.Close(); err != nil {
		b.Fatal(err)
	}
}

func BenchmarkOpen1000Functions(b *testing.B) {
	dir := b.TempDir()
	fill(b, dir, 1000)
	for b.Loop() {
		store := benchStore(b, dir)
		functions, err := store.Functions(b.Context())
		if err != nil || len(functions) != 1000 {
			b.Fatal(len(functions), err)
		}
		b.StopTimer()
		if err := store.Close(); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

func BenchmarkList1000Functions(b *testing.B) {
	dir := b.TempDir()
	fill(b, dir, 1000)
	store := benchStore(b, dir)
	for b.Loop() {
		if functions, err := store.Functions(b.Context()); err != nil || len(functions) != 1000 {
			b.Fatal(len(functions), err)
		}
	}
}

// residentMiB is the memory of this process as the kernel counts it.
func residentMiB(tb testing.TB) float64 {
	tb.Helper()
	data, err := os.ReadFile("/proc/self/status")
	if err != nil {
		tb.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, err := strconv.Atoi(strings.Fields(rest)[0])
			if err != nil {
				tb.Fatal(err)
			}
			return float64(kib) / 1024
		}
	}
	tb.Fatal("no VmRSS")
	return 0
}

// TestMeasureIdleMemory prints what the store adds to a process: run it with
// KILN_MEASURE=1 and -v.
func TestMeasureIdleMemory(t *testing.T) {
	if os.Getenv("KILN_MEASURE") == "" {
		t.Skip("set KILN_MEASURE=1 to measure")
	}
	const settle = 15 * time.Second // the server lets go of its buffers after ten
	dir := t.TempDir()
	fill(t, dir, 100)
	runtime.GC()
	debug.FreeOSMemory()
	before := residentMiB(t)
	store := openQuietly(t, dir)
	if functions, err := store.Functions(t.Context()); err != nil || len(functions) != 100 {
		t.Fatal(len(functions), err)
	}
	if _, err := store.AllRevisions(t.Context()); err != nil {
		t.Fatal(err)
	}
	opened := residentMiB(t)
	time.Sleep(settle)
	idle := residentMiB(t)
	if _, _, err := store.PutArchive(t.Context(), storetest.Content(1, 50<<20)); err != nil {
		t.Fatal(err)
	}
	busy := residentMiB(t)
	time.Sleep(settle)
	t.Logf("MiB resident: closed %.1f, opened %.1f, idle %.1f, after an archive of 50 MiB %.1f, idle again %.1f",
		before, opened, idle, busy, residentMiB(t))
}
