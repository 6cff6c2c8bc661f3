package jetstream_test

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/jetstream"
	"github.com/kilnfaas/kiln/orchestrator/storetest"
)

// shortLife lets a test wait for the end of a lease.
const shortLife = 2 * time.Second

// TestOneGatewayAStore: of two gateways on an external server the second is
// refused, and told who has it, until the first has left.
func TestOneGatewayAStore(t *testing.T) {
	url := external(t, server.Options{JetStream: true, StoreDir: t.TempDir()})
	options := func() jetstream.Options {
		return jetstream.Options{URL: url, Dir: t.TempDir(), LeaseLife: shortLife, Logger: slog.New(slog.DiscardHandler)}
	}
	first := open(t, options())
	_, err := jetstream.Open(t.Context(), options())
	var known *orchestrator.Error
	if !errors.As(err, &known) || known.Code != "store-in-use" || !errors.Is(err, orchestrator.ErrConflict) ||
		!strings.Contains(err.Error(), fmt.Sprintf("process %d", os.Getpid())) {
		t.Fatalf("the second gateway got %v", err)
	}
	if _, err := first.PutFunction(t.Context(), storetest.Function("a")); err != nil {
		t.Errorf("the first cannot write any more: %v", err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	second := options()
	second.LeaseLife = time.Minute // which it need not wait for
	open(t, second)
	if took := time.Since(begin); took > 10*time.Second {
		t.Errorf("after a clean end the next waited %s", took)
	}
}

// TestGatewayComesBack: after a crash the same gateway has its store at once,
// another after the lease's life; the one that was thought dead then writes
// nothing and is told.
func TestGatewayComesBack(t *testing.T) {
	url := external(t, server.Options{JetStream: true, StoreDir: t.TempDir()})
	dir := t.TempDir()
	hung := open(t, jetstream.Options{URL: url, Dir: dir, LeaseLife: shortLife})
	f, err := hung.PutFunction(t.Context(), storetest.Function("a"))
	if err != nil {
		t.Fatal(err)
	}
	hung.Hang()

	other := open(t, jetstream.Options{URL: url, Dir: t.TempDir(), LeaseLife: shortLife})
	if _, err := hung.PutFunction(t.Context(), f); code(err) != "store-lease-expired" {
		t.Errorf("a gateway whose lease is over wrote: %v", err)
	}
	hung.Resume()
	select {
	case <-hung.Lost():
	case <-time.After(10 * time.Second):
		t.Fatal("it was not told that another has its store")
	}
	for what, err := range map[string]error{
		"put": func() error { _, err := hung.PutFunction(t.Context(), f); return err }(), "revision": hung.PutRevision(t.Context(), storetest.Revision("a", 1)),
		"delete": hung.DeleteFunction(t.Context(), f.Name, f.Version),
	} {
		if code(err) != "store-lost" {
			t.Errorf("%s after the loss: %v", what, err)
		}
	}
	if _, err := other.PutFunction(t.Context(), f); err != nil {
		t.Errorf("the new owner: %v", err)
	}
}

// TestOwnLeaseOfAnEarlierLife: the data folder says that the record is one's own.
func TestOwnLeaseOfAnEarlierLife(t *testing.T) {
	url := external(t, server.Options{JetStream: true, StoreDir: t.TempDir()})
	dir := t.TempDir()
	crashed := open(t, jetstream.Options{URL: url, Dir: dir, LeaseLife: time.Minute})
	crashed.Crash()
	begin := time.Now()
	open(t, jetstream.Options{URL: url, Dir: dir, LeaseLife: time.Minute})
	if took := time.Since(begin); took > 10*time.Second {
		t.Errorf("it took %s", took)
	}
}

// TestLeaseOutlivesTheServer: an outage of the server ends writes in time, not
// the gateway: it goes on when the server is back and nobody has come between.
func TestLeaseOutlivesTheServer(t *testing.T) {
	url := external(t, server.Options{JetStream: true, StoreDir: t.TempDir()})
	store := open(t, jetstream.Options{URL: url, Dir: t.TempDir(), LeaseLife: shortLife})
	store.Hang()
	eventually(t, "an end of the writes", func() error {
		if _, err := store.PutFunction(t.Context(), storetest.Function("a")); code(err) != "store-lease-expired" {
			return fmt.Errorf("got %w", err)
		}
		return nil
	})
	store.Resume()
	eventually(t, "a write", func() error {
		_, err := store.PutFunction(t.Context(), storetest.Function("b"))
		return err
	})
}

// code returns the code of an error.
func code(err error) string {
	var known *orchestrator.Error
	if errors.As(err, &known) {
		return known.Code
	}
	return fmt.Sprint(err)
}
