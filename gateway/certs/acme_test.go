package certs_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/kilnfaas/kiln/gateway/certs"
	"github.com/kilnfaas/kiln/orchestrator/porttest"
)

const (
	// pebblePath is where the tests' set-up puts the authority.
	pebblePath = "../../.kiln/test/pebble"
	// patience bounds every wait; nothing waits that long when it works.
	patience = 60 * time.Second
)

// TestACME gets a certificate from Pebble, Let's Encrypt's authority for tests,
// which proves the domain as real ones do.
func TestACME(t *testing.T) {
	if _, err := os.Stat(pebblePath); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("no ACME authority to test with: %v; deploy/test-setup installs it", err)
		}
		t.Skipf("SKIPPED, no ACME authority to test with: %v; deploy/test-setup installs it", err)
	}
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	directory, management := startPebble(t, dir, tcp.Addr().(*net.TCPAddr).Port)
	config, err := certs.Authority{
		Domains: []string{"kiln.test"}, Directory: directory, CAFile: filepath.Join(dir, "cert.pem"), Cache: filepath.Join(dir, "cache"),
	}.Config()
	if err != nil {
		t.Fatal(err)
	}
	serveTLS(t, tls.NewListener(tcp, config))

	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(fetch(t, dir, management+"/roots/0")) {
		t.Fatal("the authority has no root certificate")
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	dial := func(name string) error {
		dialer := tls.Dialer{Config: &tls.Config{ServerName: name, RootCAs: roots}}
		conn, err := dialer.DialContext(ctx, "tcp", tcp.Addr().String())
		if err == nil {
			conn.Close()
		}
		return err
	}
	if err := dial("kiln.test"); err != nil {
		t.Errorf("the domain that is ours: %v", err)
	}
	if err := dial("other.test"); err == nil {
		t.Error("there is a certificate for a domain that was not named")
	}
	cached, err := os.Stat(filepath.Join(dir, "cache", "kiln.test"))
	if err != nil || cached.Mode().Perm() != 0o600 {
		t.Errorf("the certificate and its key are not kept with mode 0600: %v, %v", cached, err)
	}
}

// serveTLS shakes hands with whoever comes, until the test ends.
func serveTLS(t *testing.T, listener net.Listener) {
	var work sync.WaitGroup
	work.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			work.Go(func() {
				defer conn.Close()
				conn.SetDeadline(time.Now().Add(patience))
				if err := conn.(*tls.Conn).Handshake(); err != nil {
					t.Logf("handshake: %v", err) // tells why, when the test fails
				}
			})
		}
	})
	t.Cleanup(func() {
		listener.Close()
		work.Wait() // nobody may log after the test
	})
}

// startPebble runs an authority that proves domains at a port of this machine,
// and returns the URLs of its directory and of its management. Its own
// certificate is cert.pem in dir.
func startPebble(t *testing.T, dir string, port int) (directory, management string) {
	t.Helper()
	writePair(t, dir, "localhost")
	api, admin := porttest.Address(t), porttest.Address(t)
	settings, err := json.Marshal(map[string]any{"pebble": map[string]any{
		"listenAddress": api, "managementListenAddress": admin, "httpPort": 1, "tlsPort": port,
		"certificate": filepath.Join(dir, "cert.pem"), "privateKey": filepath.Join(dir, "key.pem"),
	}})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "pebble.json")
	if err := os.WriteFile(file, settings, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(pebblePath, "-config", file, "-dnsserver", serveDNS(t))
	cmd.Env = append(os.Environ(), "PEBBLE_VA_ALWAYS_VALID=0", "PEBBLE_VA_NOSLEEP=1", "PEBBLE_WFE_NONCEREJECT=0")
	cmd.Stdout, cmd.Stderr = t.Output(), t.Output()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	directory = "https://" + api + "/dir"
	fetch(t, dir, directory)
	return directory, "https://" + admin
}

// fetch gets a page of the authority, which may be starting still.
func fetch(t *testing.T, dir, url string) []byte {
	t.Helper()
	own, err := os.ReadFile(filepath.Join(dir, "cert.pem"))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(own)
	client := &http.Client{Timeout: patience, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, DisableKeepAlives: true}}
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for deadline := time.Now().Add(patience); ; <-ticker.C {
		response, err := client.Get(url)
		if err == nil {
			body, err := io.ReadAll(response.Body)
			response.Body.Close()
			if err != nil || response.StatusCode != http.StatusOK {
				t.Fatalf("GET %s: %s, %v", url, response.Status, err)
			}
			return body
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// maxQuery bounds a question over TCP.
const maxQuery = 1 << 10

// serveDNS answers every question over TCP with this machine, and returns where.
func serveDNS(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				conn.SetDeadline(time.Now().Add(patience))
				var size uint16 // before each message (RFC 1035, section 4.2.2)
				for binary.Read(conn, binary.BigEndian, &size) == nil && size <= maxQuery {
					query := make([]byte, size)
					if _, err := io.ReadFull(conn, query); err != nil {
						return
					}
					reply, err := here(query)
					if err != nil {
						return
					}
					conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(reply))), reply...))
				}
			}()
		}
	}()
	return listener.Addr().String()
}

func here(query []byte) ([]byte, error) {
	var m dnsmessage.Message
	if err := m.Unpack(query); err != nil {
		return nil, err
	}
	if len(m.Questions) != 1 {
		return nil, fmt.Errorf("%d questions", len(m.Questions))
	}
	m.Response, m.Additionals = true, nil
	if q := m.Questions[0]; q.Type == dnsmessage.TypeA {
		m.Answers = []dnsmessage.Resource{{
			Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class},
			Body:   &dnsmessage.AResource{A: [4]byte{127, 0, 0, 1}},
		}}
	}
	return m.Pack()
}
