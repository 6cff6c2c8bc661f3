package porttest_test

import (
	"errors"
	"net"
	"syscall"
	"testing"

	"github.com/kilnfaas/kiln/orchestrator/porttest"
)

// TestServersComeAndGo on a port that nobody else gets.
func TestServersComeAndGo(t *testing.T) {
	address := porttest.Address(t)
	for range 3 {
		if conn, err := net.Dial("tcp", address); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("a connection where nobody listens: %v, %v, want it refused", conn, err)
		}
		listener, err := net.Listen("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(conn.Close(), listener.Close()); err != nil {
			t.Fatal(err)
		}
	}
}

// TestNobodyElseGetsIt who asks for any port. Each would else be the one that is
// reserved with a chance of one in fourteen thousand.
func TestNobodyElseGetsIt(t *testing.T) {
	address := porttest.Address(t)
	for range 1 << 15 {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		got := listener.Addr().String()
		if err := listener.Close(); err != nil {
			t.Fatal(err)
		}
		if got == address {
			t.Fatal("somebody else was given the port")
		}
	}
}
