package jetstream_test

import (
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/jetstream"
)

func TestPublish(t *testing.T) {
	url := external(t, server.Options{JetStream: true, StoreDir: t.TempDir()})
	s := connect(t, jetstream.Options{URL: url})
	listener, err := nats.Connect(url)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	subscription, err := listener.SubscribeSync("orders.>")
	if err != nil {
		t.Fatal(err)
	}
	if err := listener.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := s.Publish(t.Context(), "orders.done", http.Header{"Ce-Id": {"7"}}, []byte("body")); err != nil {
		t.Fatal(err)
	}
	message, err := subscription.NextMsg(10 * time.Second)
	if err != nil || string(message.Data) != "body" || message.Header["Ce-Id"][0] != "7" || message.Subject != "orders.done" {
		t.Errorf("got %+v, %v", message, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Publish(t.Context(), "orders.done", nil, nil); !errors.Is(err, orchestrator.ErrUnavailable) {
		t.Errorf("publish after the end: %v", err)
	}
}
