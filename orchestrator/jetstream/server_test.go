package jetstream_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats-server/v2/server"
	natsjs "github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sys/unix"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/jetstream"
	"github.com/kilnfaas/kiln/orchestrator/porttest"
	"github.com/kilnfaas/kiln/orchestrator/storetest"
)

// external starts a NATS server that listens, as an administrator would.
func external(t *testing.T, options server.Options) string {
	t.Helper()
	options.Host, options.Port, options.NoSigs, options.NoLog = "127.0.0.1", server.RANDOM_PORT, true, true
	srv, err := server.NewServer(&options)
	if err != nil {
		t.Fatal(err)
	}
	srv.Start()
	t.Cleanup(func() {
		srv.Shutdown()
		srv.WaitForShutdown()
	})
	if !srv.ReadyForConnections(10 * time.Second) {
		t.Fatal("the external server did not start")
	}
	return srv.ClientURL()
}

func TestStoreConformsExternal(t *testing.T) {
	storetest.Run(t, func(t *testing.T) orchestrator.Store {
		return open(t, jetstream.Options{URL: external(t, server.Options{JetStream: true, StoreDir: t.TempDir()})})
	})
}

func TestExternalWithoutJetStream(t *testing.T) {
	_, err := jetstream.Open(t.Context(), jetstream.Options{URL: external(t, server.Options{})})
	if !errors.Is(err, orchestrator.ErrUnavailable) {
		t.Errorf("error %v, want the class %q", err, orchestrator.ErrUnavailable)
	}
}

func TestNobodyListens(t *testing.T) {
	_, err := jetstream.Open(t.Context(), jetstream.Options{URL: "nats://127.0.0.1:1"})
	if !errors.Is(err, orchestrator.ErrUnavailable) {
		t.Errorf("error %v, want the class %q", err, orchestrator.ErrUnavailable)
	}
}

func TestNeitherFolderNorURL(t *testing.T) {
	_, err := jetstream.Open(t.Context(), jetstream.Options{})
	if !errors.Is(err, orchestrator.ErrInvalid) {
		t.Errorf("error %v, want the class %q", err, orchestrator.ErrInvalid)
	}
}

// TestLostServer: while an external server is away calls fail at once; once it
// is back they work.
func TestLostServer(t *testing.T) {
	dir := t.TempDir()
	port, err := porttest.Reserve()
	if err != nil {
		t.Fatal(err)
	}
	defer port.Close()
	options := server.Options{Host: "127.0.0.1", Port: port.Number, NoSigs: true, NoLog: true, JetStream: true, StoreDir: dir}
	start := func() *server.Server {
		srv, err := server.NewServer(&options)
		if err != nil {
			t.Fatal(err)
		}
		srv.Start()
		t.Cleanup(srv.Shutdown)
		if !srv.ReadyForConnections(10 * time.Second) {
			t.Fatal("the external server did not start")
		}
		return srv
	}
	first := start()
	store := open(t, jetstream.Options{URL: first.ClientURL()})
	f, err := store.PutFunction(t.Context(), storetest.Function("a"))
	if err != nil {
		t.Fatal(err)
	}
	first.Shutdown()
	first.WaitForShutdown()
	// What was sent before the loss was noticed waits for its answer; after that
	// a write is refused long before the caller's deadline.
	eventually(t, "an error of the right class without a server", func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		_, err := store.PutFunction(ctx, f)
		if errors.Is(err, orchestrator.ErrUnavailable) && ctx.Err() == nil {
			return nil
		}
		return fmt.Errorf("write without a server: error %w", err)
	})
	start()
	eventually(t, "a write once the server is back", func() error {
		_, err := store.PutFunction(t.Context(), f)
		return err
	})
}

// eventually waits for what another process or the server's clock does.
func eventually(t *testing.T, what string, try func() error) {
	t.Helper()
	const patience, pause = 15 * time.Second, 20 * time.Millisecond
	tick := time.NewTicker(pause)
	defer tick.Stop()
	for end := time.Now().Add(patience); ; <-tick.C {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s: %v after %v", what, err, patience)
		}
	}
}

func TestFolderIsLocked(t *testing.T) {
	dir := t.TempDir()
	first := open(t, jetstream.Options{Dir: dir})
	_, err := jetstream.Open(t.Context(), jetstream.Options{Dir: dir})
	if !errors.Is(err, orchestrator.ErrConflict) || !strings.Contains(err.Error(), fmt.Sprintf("process %d", os.Getpid())) {
		t.Fatalf("second open: error %v, want a conflict that names process %d", err, os.Getpid())
	}
	for range 2 { // Close is idempotent
		if err := first.Close(); err != nil {
			t.Fatal(err)
		}
	}
	open(t, jetstream.Options{Dir: dir})
}

func TestFolderIsUnlockedWhenOpenFails(t *testing.T) {
	dir := t.TempDir()
	blocked := filepath.Join(dir, "jetstream")
	if err := os.WriteFile(blocked, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := jetstream.Open(t.Context(), jetstream.Options{Dir: dir, Logger: slog.New(slog.DiscardHandler)}); !errors.Is(err, orchestrator.ErrUnavailable) {
		t.Fatalf("open over a file: error %v, want the class %q", err, orchestrator.ErrUnavailable)
	}
	if err := os.Remove(blocked); err != nil {
		t.Fatal(err)
	}
	open(t, jetstream.Options{Dir: dir})
}

func TestStateOutlivesClose(t *testing.T) {
	dir := t.TempDir()
	store := open(t, jetstream.Options{Dir: dir})
	want, err := store.PutFunction(t.Context(), storetest.Function("a"))
	if err != nil {
		t.Fatal(err)
	}
	owner, err := store.Owner(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	digest, _, err := store.PutArchive(t.Context(), storetest.Content(1, 2<<20))
	if err != nil {
		t.Fatal(err)
	}
	gone, err := store.PutFunction(t.Context(), storetest.Function("gone"))
	if err != nil {
		t.Fatal(err)
	}
	if err := store.DeleteFunction(t.Context(), "gone", gone.Version); err != nil {
		t.Fatal(err)
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Function(t.Context(), "a"); !errors.Is(err, orchestrator.ErrUnavailable) {
		t.Errorf("read of a closed store: error %v, want the class %q", err, orchestrator.ErrUnavailable)
	}

	again := open(t, jetstream.Options{Dir: dir})
	got, err := again.Functions(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]orchestrator.Function{want}, got); diff != "" {
		t.Errorf("Functions (-want +got):\n%s", diff)
	}
	if kept, err := again.Owner(t.Context()); err != nil || kept != owner {
		t.Errorf("Owner = %q, %v, want %q", kept, err, owner)
	}
	readBack(t, again, digest)
	reborn, err := again.PutFunction(t.Context(), storetest.Function("gone"))
	if err != nil {
		t.Fatal(err)
	}
	if reborn.Version <= gone.Version {
		t.Errorf("version %d after version %d: versions went back over a restart", reborn.Version, gone.Version)
	}
}

// TestDeletionsLeaveNothing: marks of deletions expire, so that a store that
// lives long holds what it holds and no history.
func TestDeletionsLeaveNothing(t *testing.T) {
	store := open(t, jetstream.Options{Dir: t.TempDir(), MarkerLife: time.Second}) // JetStream's least
	for i := range 5 {
		name := fmt.Sprintf("f%d", i)
		f, err := store.PutFunction(t.Context(), storetest.Function(name))
		if err != nil {
			t.Fatal(err)
		}
		r := storetest.Revision(name, 1)
		digest, _, err := store.PutArchive(t.Context(), storetest.Content(uint64(i), 100))
		if err := errors.Join(err,
			store.PutRevision(t.Context(), r),
			store.DeleteFunction(t.Context(), name, f.Version),
			store.DeleteRevision(t.Context(), name, r.ID),
			store.DeleteArchive(t.Context(), digest),
		); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "an empty store", func() error {
		usage, err := store.Usage(t.Context())
		if err == nil && usage != (jetstream.Usage{}) {
			err = fmt.Errorf("it holds %+v", usage)
		}
		return err
	})
}

// TestDeletedArchivesGiveTheirSpaceBack: a machine that deploys all day needs
// the disk of what it keeps.
func TestDeletedArchivesGiveTheirSpaceBack(t *testing.T) {
	const rounds, size = 12, 10 << 20
	dir := t.TempDir()
	store := open(t, jetstream.Options{Dir: dir, CompactEvery: 100 * time.Millisecond})
	kept, _, err := store.PutArchive(t.Context(), storetest.Content(99, 1<<20))
	if err != nil {
		t.Fatal(err)
	}
	for i := range rounds {
		digest, _, err := store.PutArchive(t.Context(), storetest.Content(uint64(i), size))
		if err != nil {
			t.Fatal(err)
		}
		if err := store.DeleteArchive(t.Context(), digest); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the space of deleted archives", func() error {
		// The last block of 8 MiB is not compacted, and blocks are only when less
		// than half of them is in use.
		if got, limit := diskUsage(t, dir), int64(2*size); got > limit {
			return fmt.Errorf("%d MiB on disk for one MiB, after %d MiB were deleted; want under %d", got>>20, rounds*size>>20, limit>>20)
		}
		return nil
	})
	readBack(t, store, kept)
}

func diskUsage(t *testing.T, dir string) (total int64) {
	t.Helper()
	err := filepath.WalkDir(dir, func(_ string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		info, err := entry.Info()
		if errors.Is(err, os.ErrNotExist) {
			return nil // compacted away meanwhile
		}
		if err == nil {
			total += info.Size()
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return total
}

// TestBigArchiveInLittleMemory: what an archive needs does not depend on its
// size. Allocations that live on are counted, not what is allocated in passing.
func TestBigArchiveInLittleMemory(t *testing.T) {
	const size, most = 50 << 20, 30 << 20 // the server's write buffers are of 8 MiB
	store := open(t, jetstream.Options{Dir: t.TempDir()})
	peak := &peakReader{Reader: storetest.Content(1, size), base: heap()}
	digest, n, err := store.PutArchive(t.Context(), peak)
	if err != nil || n != size {
		t.Fatalf("PutArchive = %d, %v", n, err)
	}
	r, err := store.Archive(t.Context(), digest)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	reading := &peakReader{Reader: r, base: peak.base}
	if n, err := io.Copy(io.Discard, reading); err != nil || n != size {
		t.Fatalf("read %d, %v", n, err)
	}
	for what, got := range map[string]int64{"writing": peak.most, "reading": reading.most} {
		if got > most {
			t.Errorf("%s %d MiB held %d MiB of memory, want at most %d", what, size>>20, got>>20, most>>20)
		}
	}
}

func heap() int64 {
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return int64(stats.HeapAlloc)
}

// peakReader looks at the memory in use every few MiB.
type peakReader struct {
	io.Reader
	base, most, read, next int64
}

func (r *peakReader) Read(p []byte) (int, error) {
	if r.read >= r.next {
		r.most = max(r.most, heap()-r.base)
		r.next += 4 << 20
	}
	n, err := r.Reader.Read(p)
	r.read += int64(n)
	return n, err
}

// smallDisk mounts a disk in memory.
func smallDisk(t *testing.T, size int64) (dir string) {
	t.Helper()
	dir = t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", size)); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("CI=true and mounting a small disk needs root: %v", err)
		}
		t.Skipf("SKIPPED, NOT TESTED: mounting a small disk needs root: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func TestFullDisk(t *testing.T) {
	const disk = 100 << 20
	dir := smallDisk(t, disk)
	store := open(t, jetstream.Options{Dir: dir})
	f, err := store.PutFunction(t.Context(), storetest.Function("a"))
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = store.PutArchive(t.Context(), storetest.Content(1, disk))
	if !errors.Is(err, orchestrator.ErrExhausted) {
		t.Fatalf("archive larger than the disk: error %v, want the class %q", err, orchestrator.ErrExhausted)
	}
	eventually(t, "space of the refused archive", func() error {
		_, err := store.PutFunction(t.Context(), f)
		return err
	})

	filler := filepath.Join(dir, "filler")
	if err := os.WriteFile(filler, make([]byte, 60<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := store.PutFunction(t.Context(), storetest.Function("b")); !errors.Is(err, orchestrator.ErrExhausted) {
		t.Errorf("write to a full disk: error %v, want the class %q", err, orchestrator.ErrExhausted)
	}
	if _, err := store.Function(t.Context(), "a"); err != nil {
		t.Errorf("read with a full disk: %v", err)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	if _, err := store.PutFunction(t.Context(), storetest.Function("b")); err != nil {
		t.Errorf("write once there is room: %v", err)
	}
}

// TestFailedWriteIsMended: the disk was filled by somebody else between the look at
// it and a write, and is emptied later.
func TestFailedWriteIsMended(t *testing.T) {
	dir := smallDisk(t, 100<<20)
	store := open(t, jetstream.Options{Dir: dir})
	before, err := store.PutFunction(t.Context(), storetest.Function("before"))
	if err != nil {
		t.Fatal(err)
	}
	events := eventsOf(t, store)
	if _, err := events.Publish(t.Context(), "happened", nil); err != nil {
		t.Fatal(err)
	}
	var disk unix.Statfs_t
	if err := unix.Statfs(dir, &disk); err != nil {
		t.Fatal(err)
	}
	filler := filepath.Join(dir, "filler")
	if err := os.WriteFile(filler, make([]byte, int64(disk.Bavail)*disk.Bsize-100<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second) // the server says nothing of it
	defer cancel()
	if err := store.PutBlindly(ctx, "more", make([]byte, 500<<10)); err == nil {
		t.Fatal("there was room")
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a write of what could not be written", func() error {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		return store.PutBlindly(ctx, "more", make([]byte, 500<<10))
	})
	if got, err := store.Function(t.Context(), "before"); err != nil || got.Name != before.Name {
		t.Errorf("what was stored before: %v, %v", got, err)
	}
	if _, err := store.PutFunction(t.Context(), storetest.Function("after")); err != nil {
		t.Error(err)
	}
	if ack, err := events.Publish(t.Context(), "happened", nil); err != nil || ack.Sequence != 2 {
		t.Errorf("an event in a stream of others: %+v, %v; want it to be the second", ack, err)
	}
}

// eventsOf returns the account of events, with a stream that takes what happened.
func eventsOf(t *testing.T, store *jetstream.Store) natsjs.JetStream {
	t.Helper()
	conn, err := store.Server().Dial()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	js, err := natsjs.New(conn)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateStream(t.Context(), natsjs.StreamConfig{Name: "theirs", Subjects: []string{"happened"}}); err != nil {
		t.Fatal(err)
	}
	return js
}
