package jetstream_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"go.uber.org/goleak"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/jetstream"
	"github.com/kilnfaas/kiln/orchestrator/queuetest"
)

func openJournal(t testing.TB, server *jetstream.Server) *jetstream.Journal {
	t.Helper()
	j, err := jetstream.NewJournal(context.Background(), server)
	if err != nil {
		t.Fatal(err)
	}
	return j
}

func connect(t testing.TB, options jetstream.Options) *jetstream.Server {
	t.Helper()
	options.Logger = slog.New(slog.DiscardHandler)
	s, err := jetstream.Connect(context.Background(), options)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestJournalConforms(t *testing.T) {
	queuetest.Run(t, func(t *testing.T) (orchestrator.Journal, func() orchestrator.Journal) {
		options := jetstream.Options{Dir: t.TempDir()}
		server := connect(t, options)
		j := openJournal(t, server)
		closeAll := func() {
			if err := errors.Join(j.Close(), server.Close()); err != nil {
				t.Error(err)
			}
		}
		t.Cleanup(func() {
			closeAll()
			goleak.VerifyNone(t)
		})
		return j, func() orchestrator.Journal {
			closeAll()
			server = connect(t, options)
			j = openJournal(t, server)
			return j
		}
	})
}

func TestJournalConformsExternal(t *testing.T) {
	url := ""
	queuetest.Run(t, func(t *testing.T) (orchestrator.Journal, func() orchestrator.Journal) {
		url = external(t, server.Options{JetStream: true, StoreDir: t.TempDir()})
		s := connect(t, jetstream.Options{URL: url})
		j := openJournal(t, s)
		t.Cleanup(func() {
			if err := errors.Join(j.Close(), s.Close()); err != nil {
				t.Error(err)
			}
		})
		return j, nil
	})
}

func TestJournalClosed(t *testing.T) {
	s := connect(t, jetstream.Options{Dir: t.TempDir()})
	defer s.Close()
	j := openJournal(t, s)
	for range 2 {
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := j.Append(t.Context(), []byte("a")); !errors.Is(err, orchestrator.ErrUnavailable) {
		t.Errorf("Append to a closed journal: error %v, want the class %q", err, orchestrator.ErrUnavailable)
	}
}

// TestJournalClosesUnderLoad: whoever appends while the journal closes gets an
// answer, and what was acknowledged is there.
func TestJournalClosesUnderLoad(t *testing.T) {
	options := jetstream.Options{Dir: t.TempDir()}
	s := connect(t, options)
	j := openJournal(t, s)
	var mu sync.Mutex
	acknowledged := map[string]bool{}
	var running sync.WaitGroup
	started := make(chan struct{}, 16)
	for c := range 16 {
		running.Go(func() {
			for i := 0; ; i++ {
				data := fmt.Sprintf("%d/%d", c, i)
				if _, err := j.Append(context.Background(), []byte(data)); err != nil {
					return
				}
				mu.Lock()
				acknowledged[data] = true
				mu.Unlock()
				if i == 2 {
					started <- struct{}{}
				}
			}
		})
	}
	for range 16 {
		<-started
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	running.Wait()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = connect(t, options)
	defer s.Close()
	j = openJournal(t, s)
	defer j.Close()
	found := map[string]bool{}
	if err := j.Replay(t.Context(), func(_ orchestrator.Position, data []byte) error {
		found[string(data)] = true
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for data := range acknowledged {
		if !found[data] {
			t.Errorf("%s was acknowledged and is gone", data)
		}
	}
}

// BenchmarkJournal is what one entry of 1 KiB costs with so many callers.
func BenchmarkJournal(b *testing.B) {
	for _, callers := range []int{1, 8, 64, 256} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			s := connect(b, jetstream.Options{Dir: b.TempDir()})
			defer s.Close()
			j := openJournal(b, s)
			defer j.Close()
			entry := make([]byte, 1<<10)
			var running sync.WaitGroup
			work := make(chan struct{}, callers)
			b.ResetTimer()
			for range callers {
				running.Go(func() {
					for range work {
						if _, err := j.Append(b.Context(), entry); err != nil {
							b.Error(err)
						}
					}
				})
			}
			for range b.N {
				work <- struct{}{}
			}
			close(work)
			running.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "entries/s")
		})
	}
}
