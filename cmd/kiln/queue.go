package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/kilnfaas/kiln/gateway"
	"github.com/kilnfaas/kiln/gateway/problem"
	"github.com/kilnfaas/kiln/gateway/proxy"
	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/events"
	"github.com/kilnfaas/kiln/orchestrator/jetstream"
)

// openQueue begins with the asynchronous calls that wait. It is closed before
// the pools, so that attempts that run can finish, and before the journal.
func (d *daemon) openQueue(ctx context.Context) error {
	journal, err := jetstream.NewJournal(ctx, d.store.Server())
	if err != nil {
		return opening("the queue", err)
	}
	d.closers.add(journal.Close)
	secret, err := callbackSecret(d.cfg.Data)
	if err != nil {
		return opening("the queue", err)
	}
	outbound := &events.Outbound{Secret: secret, AllowPrivate: d.cfg.CallbackPrivate == "allow", Publish: d.store.Server().Publish}
	outbound.Open()
	d.closers.add(outbound.Close)
	handler := &proxy.Handler{Routes: d.table, Gate: openGate{}, Fail: problem.Write, Observe: d.metrics.Invocations.Observe}
	d.inner = handler
	d.queue = events.New(events.Config{
		Journal: journal, Functions: d.service, Fleet: d.table,
		Invoke: gateway.InvokeAsync(handler), Deliver: outbound.Deliver,
		Depth: d.cfg.AsyncDepth, Share: float64(d.cfg.AsyncShare) / 100, ResultTTL: d.cfg.AsyncResults, Logger: d.logger,
	})
	if err := d.queue.Open(ctx); err != nil {
		return opening("the queue", err)
	}
	d.closers.add(func() error { return d.queue.Close(d.stopping) })
	return nil
}

// openGate admits the platform's own calls: whoever queued one was asked then.
type openGate struct{}

// Admit implements proxy.Gate.
func (openGate) Admit(*orchestrator.Spec, string) error { return nil }

// callbackSecretFile is where the secret is that callbacks are signed with, in
// the data folder. Whoever checks signatures is given what is in it.
const callbackSecretFile = "callback-secret"

// callbackSecret returns the secret for signatures, made at the first start.
func callbackSecret(data string) ([]byte, error) {
	path := filepath.Join(data, callbackSecretFile)
	secret, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		secret = []byte(rand.Text())
		err = writePrivate(path, secret)
	}
	if err != nil {
		return nil, fmt.Errorf("the secret for callbacks: %w", err)
	}
	return []byte(strings.TrimSpace(string(secret))), nil
}
