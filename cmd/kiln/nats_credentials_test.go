package main

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestNATSCredentials: the first start makes them, for nobody else to read; what is
// given is used, or refused.
func TestNATSCredentials(t *testing.T) {
	d := &daemon{cfg: defaultConfig(), logger: slog.New(slog.DiscardHandler)}
	d.cfg.Data, d.cfg.NATSListen = filepath.Join(t.TempDir(), "data"), "127.0.0.1:0"
	made, err := d.natsClients()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(d.cfg.Data, "nats-credentials")
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("the file is %v, %v, want mode 0600", info, err)
	}
	again, err := d.natsClients()
	if err != nil || again.User != "kiln" || again.Password != made.Password || len(made.Password) < 26 {
		t.Errorf("again: %+v, %v, want the same as %+v", again, err, made)
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := d.natsClients(); err == nil || !strings.Contains(err.Error(), "chmod 600") || strings.Contains(err.Error(), made.Password) {
		t.Errorf("a file that others may read: %v", err)
	}

	given := filepath.Join(t.TempDir(), "given")
	d.cfg.NATSCredentialsFile = given
	if _, err := d.natsClients(); err == nil {
		t.Error("a file that is named and missing was made")
	}
	for content, right := range map[string]bool{
		"me:0123456789abcdef\n": true, "me:0123456789:abcdef": true, "me:short": false, ":0123456789abcdef": false, "0123456789abcdef": false, "me:0123456789abcdef\nyou": false,
	} {
		write(t, given, content)
		clients, err := d.natsClients()
		if (err == nil) != right {
			t.Errorf("%q: %+v, %v", content, clients, err)
		}
	}
}

// TestNATSListensInTheOpenWithTLSOnly.
func TestNATSListensInTheOpenWithTLSOnly(t *testing.T) {
	for address, right := range map[string]bool{
		"127.0.0.1:0": true, "[::1]:0": true, "localhost:0": true, "0.0.0.0:0": false, ":4222": false, "192.0.2.1:4222": false, "example.com:4222": false,
	} {
		d := &daemon{cfg: defaultConfig()}
		d.cfg.Data, d.cfg.NATSListen = t.TempDir(), address
		if _, err := d.natsClients(); (err == nil) != right {
			t.Errorf("listening on %s without TLS: %v", address, err)
		}
	}
}
