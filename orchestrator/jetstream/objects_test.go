package jetstream_test

import (
	"context"
	"errors"
	"io"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/jetstream"
	"github.com/kilnfaas/kiln/orchestrator/storetest"
)

func file(key string) orchestrator.Object {
	return orchestrator.Object{Bucket: "files", Key: key, ContentType: "text/plain"}
}

// uploads waits until so many uploads are kept.
func uploads(t *testing.T, b *jetstream.Buckets, want int) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		got, err := b.Uploads(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if got == want {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d uploads are kept, want %d", got, want)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// TestContentsGo: with what replaces them, with a torn upload, and with their
// last reader.
func TestContentsGo(t *testing.T) {
	b := openBuckets(t, open(t, jetstream.Options{Dir: t.TempDir()}))
	put := func(content string) {
		t.Helper()
		if _, _, err := b.PutObject(t.Context(), file("a"), strings.NewReader(content), nil); err != nil {
			t.Fatal(err)
		}
	}
	put("one")
	put("two")
	uploads(t, b, 1)
	reader, err := b.OpenObject(t.Context(), "files", "a")
	if err != nil {
		t.Fatal(err)
	}
	put("three")
	uploads(t, b, 2)
	torn := io.MultiReader(storetest.Content(1, 3<<20), errReader{})
	if _, _, err := b.PutObject(t.Context(), file("a"), torn, nil); err == nil {
		t.Fatal("a torn upload is no error")
	}
	uploads(t, b, 2)
	reader.Close()
	uploads(t, b, 1)
	if err := b.DeleteObject(t.Context(), "files", "a", nil); err != nil {
		t.Fatal(err)
	}
	uploads(t, b, 0)
}

type errReader struct{}

func (errReader) Read([]byte) (int, error) { return 0, errors.New("torn") }

// TestKilledUploadLeavesNothing: what a power cut leaves of an upload is swept by
// the next start, and what was acknowledged is there.
func TestKilledUploadLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	b := openBuckets(t, open(t, jetstream.Options{Dir: dir}))
	if _, _, err := b.PutObject(t.Context(), file("whole"), storetest.Content(1, 2<<20), nil); err != nil {
		t.Fatal(err)
	}
	half, more := io.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		b.PutObject(context.Background(), file("half"), half, nil) // its end is not looked at
	}()
	if _, err := io.Copy(more, storetest.Content(2, 2<<20)); err != nil {
		t.Fatal(err)
	}
	uploads(t, b, 2)
	cut := image(t, dir)
	more.CloseWithError(errors.New("the end"))
	<-done

	next := openBuckets(t, openQuietly(t, cut))
	uploads(t, next, 1)
	page, _, err := next.Objects(t.Context(), "files", orchestrator.ObjectFilter{Limit: 10})
	if err != nil || len(page) != 1 || page[0].Key != "whole" {
		t.Errorf("objects after the cut: %+v, %v, want the whole one", page, err)
	}
	reader, err := next.OpenObject(t.Context(), "files", "whole")
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	if _, err := io.Copy(io.Discard, reader); err != nil { // compares the digest
		t.Error(err)
	}
}

// TestDamagedObjectIsNotHandedOut: its last bytes do not come.
func TestDamagedObjectIsNotHandedOut(t *testing.T) {
	b := openBuckets(t, open(t, jetstream.Options{Dir: t.TempDir()}))
	const size = 2 << 20
	if _, _, err := b.PutObject(t.Context(), file("a"), storetest.Content(1, size), nil); err != nil {
		t.Fatal(err)
	}
	if err := b.Damage(t.Context(), "files", "a"); err != nil {
		t.Fatal(err)
	}
	reader, err := b.OpenObject(t.Context(), "files", "a")
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	if n, err := io.Copy(io.Discard, reader); !errors.Is(err, orchestrator.ErrUnavailable) || n >= size {
		t.Errorf("%d bytes of %d came, %v", n, size, err)
	}
}

func TestTransfersAreBounded(t *testing.T) {
	b := openBuckets(t, open(t, jetstream.Options{Dir: t.TempDir()}))
	if _, _, err := b.PutObject(t.Context(), file("a"), strings.NewReader("x"), nil); err != nil {
		t.Fatal(err)
	}
	var readers []orchestrator.ObjectReader
	defer func() {
		for _, r := range readers {
			r.Close()
		}
	}()
	for {
		r, err := b.OpenObject(t.Context(), "files", "a")
		if errors.Is(err, orchestrator.ErrExhausted) {
			break
		}
		if err != nil || len(readers) > 1000 {
			t.Fatalf("%d readers, %v", len(readers), err)
		}
		readers = append(readers, r)
	}
	readers[0].Close()
	readers[0].Close()
	r, err := b.OpenObject(t.Context(), "files", "a")
	if err != nil {
		t.Fatal(err)
	}
	readers[0] = r
	if _, err := b.OpenObject(t.Context(), "files", "a"); !errors.Is(err, orchestrator.ErrExhausted) {
		t.Errorf("a reader that was closed twice gave two back: %v", err)
	}
}

// TestLargeObjectNeedsLittleMemory: 128 MiB are written and read in pieces. What
// counts is what is in use: the process itself grows with the race detector.
func TestLargeObjectNeedsLittleMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("takes some seconds")
	}
	const size, limit = 128 << 20, 48 << 20
	b := openBuckets(t, open(t, jetstream.Options{Dir: t.TempDir()}))
	before, high := inUse(), 0
	watch := func(r io.Reader) io.Reader {
		return &watched{Reader: r, look: func() { high = max(high, inUse()) }}
	}
	if _, _, err := b.PutObject(t.Context(), file("large"), watch(&zeros{size}), nil); err != nil {
		t.Fatal(err)
	}
	reader, err := b.OpenObject(t.Context(), "files", "large")
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	if n, err := io.Copy(io.Discard, watch(reader)); n != size || err != nil {
		t.Fatalf("read %d bytes of %d, %v", n, size, err)
	}
	t.Logf("in use: %d MiB before, %d MiB at most", before>>20, high>>20)
	if high-before > limit {
		t.Errorf("it took %d MiB, at most %d are meant", (high-before)>>20, limit>>20)
	}
}

// zeros yields so many bytes.
type zeros struct{ left int }

func (z *zeros) Read(p []byte) (int, error) {
	if z.left == 0 {
		return 0, io.EOF
	}
	n := min(len(p), z.left)
	clear(p[:n])
	z.left -= n
	return n, nil
}

// watched calls look every 16 MiB.
type watched struct {
	io.Reader
	look func()
	n    int
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.Reader.Read(p)
	const every = 16 << 20
	if w.n += n; w.n >= every {
		w.n -= every
		w.look()
	}
	return n, err
}

// inUse returns the memory that is not garbage, in bytes.
func inUse() int {
	var stats runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&stats)
	return int(stats.HeapAlloc)
}
