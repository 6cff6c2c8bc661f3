package jetstream_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"math/big"
	"net"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/jetstream"
	"github.com/kilnfaas/kiln/orchestrator/storetest"
)

const (
	clientUser     = "somebody"
	clientPassword = "a-password-of-tests"
)

// listening opens a store whose server lets clients in.
func listening(t *testing.T, dir string, change ...func(*jetstream.Options)) *jetstream.Store {
	t.Helper()
	options := jetstream.Options{Dir: dir, Clients: &jetstream.Clients{Address: "127.0.0.1:0", User: clientUser, Password: clientPassword}}
	for _, c := range change {
		c(&options)
	}
	return open(t, options)
}

// client is somebody outside.
func client(t *testing.T, store *jetstream.Store, options ...nats.Option) (*nats.Conn, error) {
	t.Helper()
	options = append([]nats.Option{nats.UserInfo(clientUser, clientPassword), nats.NoReconnect()}, options...)
	conn, err := nats.Connect("nats://"+store.Server().ClientsAddress(), options...)
	if err == nil {
		t.Cleanup(conn.Close)
	}
	return conn, err
}

// streams lists what a connection sees of JetStream.
func streams(t *testing.T, conn *nats.Conn) (names []string) {
	t.Helper()
	js, err := natsjs.New(conn)
	if err != nil {
		t.Fatal(err)
	}
	list := js.StreamNames(t.Context())
	for name := range list.Name() {
		names = append(names, name)
	}
	if err := list.Err(); err != nil {
		t.Fatal(err)
	}
	return names
}

// makeStream makes a stream as a client does, with a message in it.
func makeStream(t *testing.T, conn *nats.Conn, name string) {
	t.Helper()
	js, err := natsjs.New(conn)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateStream(t.Context(), natsjs.StreamConfig{Name: name, Subjects: []string{name + ".>"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := js.Publish(t.Context(), name+".x", []byte("kept")); err != nil {
		t.Fatal(err)
	}
}

// TestClientsNeverSeeKiln: neither its streams, nor its subjects, whatever they ask
// for.
func TestClientsNeverSeeKiln(t *testing.T) {
	store := listening(t, t.TempDir())
	conn, err := client(t, store)
	if err != nil {
		t.Fatal(err)
	}
	all, err := conn.SubscribeSync(">")
	if err == nil {
		err = conn.Flush()
	}
	if err != nil {
		t.Fatal(err)
	}
	put, err := store.PutFunction(t.Context(), storetest.Function("a"))
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.Flush(); err != nil {
		t.Fatal(err)
	}
	if n, _, err := all.Pending(); err != nil || n != 0 {
		m, _ := all.NextMsg(time.Second)
		t.Errorf("a client was told of %+v", m)
	}
	if err := all.Unsubscribe(); err != nil {
		t.Fatal(err)
	}
	if names := streams(t, conn); len(names) != 0 {
		t.Errorf("a client sees %v", names)
	}
	// What it makes under the names of Kiln's streams is another thing.
	js, err := natsjs.New(conn)
	if err != nil {
		t.Fatal(err)
	}
	bucket, err := js.CreateKeyValue(t.Context(), natsjs.KeyValueConfig{Bucket: "kiln-functions"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := bucket.PutString(t.Context(), "a", "forged"); err != nil {
		t.Fatal(err)
	}
	if got, err := store.Function(t.Context(), "a"); err != nil || got.Version != put.Version {
		t.Errorf("Function = %+v, %v after a client wrote to a bucket of that name", got, err)
	}
	if err := js.DeleteKeyValue(t.Context(), "kiln-functions"); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Function(t.Context(), "a"); err != nil {
		t.Errorf("Function after a client removed a bucket of that name: %v", err)
	}
}

func TestClientsNeedThePassword(t *testing.T) {
	store := listening(t, t.TempDir())
	for name, login := range map[string]nats.Option{
		"None":          nats.UserInfo("", ""),
		"WrongPassword": nats.UserInfo(clientUser, "other"),
		"WrongUser":     nats.UserInfo("other", clientPassword),
		"KilnsOwn":      nats.UserInfo("kiln", ""),
		"AsThisProcess": nats.UserInfo("events", ""),
		"PasswordAlone": nats.UserInfo("", clientPassword),
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := client(t, store, login); !errors.Is(err, nats.ErrAuthorization) {
				t.Errorf("Connect = %v, want it to be refused", err)
			}
		})
	}
	if _, err := client(t, store); err != nil {
		t.Errorf("with the right ones: %v", err)
	}
}

// TestStrangersDoNotFillTheLog who try passwords.
func TestStrangersDoNotFillTheLog(t *testing.T) {
	var lines lineCounter
	store, err := jetstream.Open(t.Context(), jetstream.Options{
		Dir: t.TempDir(), Clients: &jetstream.Clients{Address: "127.0.0.1:0", User: clientUser, Password: clientPassword},
		Logger: slog.New(slog.NewTextHandler(&lines, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	const tries, most = 200, 100
	for range tries {
		if _, err := client(t, store, nats.UserInfo("a", "b")); err == nil {
			t.Fatal("a wrong password was taken")
		}
	}
	if n := lines.n.Load(); n == 0 || n > most {
		t.Errorf("%d wrong passwords caused %d lines, want some and at most %d", tries, n, most)
	}
}

type lineCounter struct{ n atomic.Int64 }

func (c *lineCounter) Write(p []byte) (int, error) {
	c.n.Add(1)
	return len(p), nil
}

// TestDestinationsTriggersAndClientsMeet: what is published reaches those who
// listen.
func TestDestinationsTriggersAndClientsMeet(t *testing.T) {
	store := listening(t, t.TempDir())
	outside, err := client(t, store)
	if err != nil {
		t.Fatal(err)
	}
	trigger, err := store.Server().Dial()
	if err != nil {
		t.Fatal(err)
	}
	defer trigger.Close()
	for name, conn := range map[string]*nats.Conn{"client": outside, "trigger": trigger} {
		heard, err := conn.SubscribeSync("orders.done")
		if err == nil {
			err = conn.Flush()
		}
		if err == nil {
			err = store.Server().Publish(t.Context(), "orders.done", nil, []byte("body"))
		}
		if err != nil {
			t.Fatal(err)
		}
		if m, err := heard.NextMsg(10 * time.Second); err != nil || string(m.Data) != "body" {
			t.Errorf("the %s heard %+v, %v", name, m, err)
		}
	}
}

// TestStoreOfBefore: what a gateway kept that knew no listener is found, and
// what is kept with a listener is found without one, and the other way round.
func TestStoreOfBefore(t *testing.T) {
	dir := t.TempDir()
	// As gateways started the server before there was an account for events: without
	// accounts. That this one listens makes no difference to its files.
	former, err := server.NewServer(&server.Options{
		ServerName: "kiln", Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true, NoSystemAccount: true,
		JetStream: true, StoreDir: dir, SyncAlways: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	former.Start()
	if !former.ReadyForConnections(10 * time.Second) {
		t.Fatal("the server did not start")
	}
	store := open(t, jetstream.Options{URL: former.ClientURL()})
	if _, err := store.PutFunction(t.Context(), storetest.Function("f0")); err != nil {
		t.Fatal(err)
	}
	digest, _, err := store.PutArchive(t.Context(), storetest.Content(1, 2<<20))
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	former.Shutdown()
	former.WaitForShutdown()

	for i, listens := range []bool{false, true, false, true} {
		options := jetstream.Options{Dir: dir}
		if listens {
			options.Clients = &jetstream.Clients{Address: "127.0.0.1:0", User: clientUser, Password: clientPassword}
		}
		store := open(t, options)
		for n := range i + 1 {
			if _, err := store.Function(t.Context(), name(n)); err != nil {
				t.Errorf("start %d, with a listener: %v: %v", i, listens, err)
			}
		}
		readBack(t, store, digest)
		if _, err := store.PutFunction(t.Context(), storetest.Function(name(i+1))); err != nil {
			t.Fatal(err)
		}
		conn, err := store.Server().Dial()
		if err != nil {
			t.Fatal(err)
		}
		switch got := streams(t, conn); {
		case i == 1:
			makeStream(t, conn, "ORDERS")
		case i > 1 && (len(got) != 1 || got[0] != "ORDERS"):
			t.Errorf("start %d: there are the streams %v, want that of the client", i, got)
		}
		conn.Close()
		if err := store.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func name(n int) string { return "f" + string(rune('0'+n)) }

// TestStreamsOfOthersAreBounded, and leave Kiln its room.
func TestStreamsOfOthersAreBounded(t *testing.T) {
	store := listening(t, t.TempDir(), func(o *jetstream.Options) { o.EventsStore = 1 << 20 })
	conn, err := client(t, store)
	if err != nil {
		t.Fatal(err)
	}
	makeStream(t, conn, "ORDERS")
	js, err := natsjs.New(conn)
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		if _, err = js.Publish(t.Context(), "ORDERS.x", make([]byte, 300<<10)); err != nil {
			break
		}
	}
	if err == nil || !strings.Contains(err.Error(), "resource limits") {
		t.Errorf("publish beyond the bound: %v", err)
	}
	if _, _, err := store.PutArchive(t.Context(), storetest.Content(1, 3<<20)); err != nil {
		t.Errorf("a write of Kiln's own meanwhile: %v", err)
	}
}

func TestListenerThatCannotBe(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for address, class := range map[string]error{
		taken.Addr().String(): orchestrator.ErrUnavailable, "4222": orchestrator.ErrInvalid, "127.0.0.1:nats!": orchestrator.ErrInvalid,
	} {
		options := jetstream.Options{Dir: t.TempDir(), Clients: &jetstream.Clients{Address: address, User: clientUser, Password: clientPassword}}
		if _, err := jetstream.Open(t.Context(), options); !errors.Is(err, class) {
			t.Errorf("Open with %s: %v, want the class %q", address, err, class)
		}
		options.Clients = nil
		open(t, options) // the folder is free again
	}
	options := jetstream.Options{URL: "nats://127.0.0.1:1", Clients: &jetstream.Clients{Address: "127.0.0.1:0"}}
	if _, err := jetstream.Open(t.Context(), options); !errors.Is(err, orchestrator.ErrInvalid) {
		t.Errorf("Open of an external store with a listener: %v", err)
	}
}

func TestWithoutListenerNobodyComesIn(t *testing.T) {
	store := open(t, jetstream.Options{Dir: t.TempDir()})
	if address := store.Server().ClientsAddress(); address != "" {
		t.Errorf("it listens on %s", address)
	}
}

// TestListenerWithTLS: those outside have to encrypt; this process goes on as
// before.
func TestListenerWithTLS(t *testing.T) {
	certificate, roots := selfSigned(t)
	store := listening(t, t.TempDir(), func(o *jetstream.Options) {
		o.Clients.TLS = &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"h2"}, GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &certificate, nil }}
	})
	trusting := nats.Secure(&tls.Config{RootCAs: roots, ServerName: "kiln.test", MinVersion: tls.VersionTLS12})
	if _, err := client(t, store, trusting); err != nil {
		t.Errorf("with TLS: %v", err)
	}
	plain, err := net.Dial("tcp", store.Server().ClientsAddress())
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	if _, err := plain.Write([]byte(`CONNECT {"user":"` + clientUser + `","pass":"` + clientPassword + `","verbose":true}` + "\r\nPING\r\n")); err != nil {
		t.Fatal(err)
	}
	if err := plain.SetDeadline(time.Now().Add(15 * time.Second)); err != nil {
		t.Fatal(err)
	}
	var answer []byte
	for buf := make([]byte, 4096); ; {
		n, err := plain.Read(buf)
		answer = append(answer, buf[:n]...)
		if err != nil {
			break
		}
	}
	if strings.Contains(string(answer), "PONG") || strings.Contains(string(answer), "+OK") {
		t.Errorf("without TLS a client is answered: %s", answer)
	}
	if err := store.Server().Publish(t.Context(), "x", nil, nil); err != nil {
		t.Error(err)
	}
}

func selfSigned(t *testing.T) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{"kiln.test"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(parsed)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, roots
}

// TestPrivate: only on an external server Kiln's streams are where Dial leads to.
func TestPrivate(t *testing.T) {
	embedded := open(t, jetstream.Options{Dir: filepath.Join(t.TempDir(), "data")})
	external := open(t, jetstream.Options{URL: external(t, server.Options{JetStream: true, StoreDir: t.TempDir()})})
	for subject, private := range map[string]bool{"orders.new": false, "kilns": false, "kiln.journal": true, "$KV.kiln-functions.a": true} {
		if embedded.Server().Private(subject) {
			t.Errorf("%s is private in the account of events", subject)
		}
		if got := external.Server().Private(subject); got != private {
			t.Errorf("Private(%q) = %v on an external server", subject, got)
		}
	}
}
