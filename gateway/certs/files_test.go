package certs_test

import (
	"crypto/tls"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kilnfaas/kiln/gateway/certs"
)

// TestFilesAreReadAgain renews a certificate, breaks it, and repairs it.
func TestFilesAreReadAgain(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
		writePair(t, dir, "one.test")
		files, err := certs.Open(cert, key, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		shows := func(want string) {
			t.Helper()
			got, err := files.Config().GetCertificate(&tls.ClientHelloInfo{})
			if err != nil || got.Leaf.DNSNames[0] != want {
				t.Errorf("the certificate is %v, %v; want %s", got.Leaf.DNSNames, err, want)
			}
		}
		// The test's own clock is not that of the files: say when they changed.
		changed := time.Now()
		touch := func() {
			changed = changed.Add(time.Minute)
			for _, name := range []string{cert, key} {
				if err := os.Chtimes(name, changed, changed); err != nil {
					t.Fatal(err)
				}
			}
		}
		shows("one.test")
		writePair(t, dir, "two.test")
		touch()
		time.Sleep(2 * time.Second)
		shows("two.test")
		kept, err := os.ReadFile(key)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(key, []byte("torn"), 0o600); err != nil {
			t.Fatal(err)
		}
		touch()
		time.Sleep(2 * time.Second)
		shows("two.test")
		if err := os.Remove(key); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		shows("two.test")
		if err := os.WriteFile(key, kept, 0o600); err != nil {
			t.Fatal(err)
		}
		writePair(t, dir, "three.test")
		touch()
		time.Sleep(2 * time.Second)
		shows("three.test")
	})
}

// TestOldTLSIsRefused: whoever knows nothing newer than 1.1 gets no connection.
func TestOldTLSIsRefused(t *testing.T) {
	dir := t.TempDir()
	writePair(t, dir, "one.test")
	files, err := certs.Open(filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	for version, served := range map[uint16]bool{tls.VersionTLS11: false, tls.VersionTLS12: true} {
		here, there := net.Pipe()
		server, client := tls.Server(there, files.Config()), tls.Client(here, &tls.Config{InsecureSkipVerify: true, MinVersion: version, MaxVersion: version})
		done := make(chan error, 1)
		go func() { done <- server.Handshake(); there.Close() }()
		_ = client.Handshake()
		if err := <-done; (err == nil) != served {
			t.Errorf("a handshake with %s: %v", tls.VersionName(version), err)
		}
		here.Close()
	}
}

// TestPairsThatDoNotFit are refused at the start.
func TestPairsThatDoNotFit(t *testing.T) {
	one, two := t.TempDir(), t.TempDir()
	writePair(t, one, "one.test")
	writePair(t, two, "two.test")
	for _, pair := range [][2]string{
		{filepath.Join(one, "cert.pem"), filepath.Join(two, "key.pem")},
		{filepath.Join(one, "cert.pem"), filepath.Join(one, "absent.pem")},
		{filepath.Join(one, "key.pem"), filepath.Join(one, "key.pem")},
	} {
		if _, err := certs.Open(pair[0], pair[1], slog.New(slog.DiscardHandler)); err == nil {
			t.Errorf("%v is accepted", pair)
		}
	}
}
