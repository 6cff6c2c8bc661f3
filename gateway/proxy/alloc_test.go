package proxy_test

import (
	"bytes"
	"testing"
)

// fixedInstance answers every request with the same bytes and allocates nothing
// for it. Requests must come in one piece, which they do from a loop.
func fixedInstance(t testing.TB, answer string) *instance {
	return serve(t, func(p *peer, _ int) {
		buf, reply := make([]byte, 8<<10), []byte(answer)
		for {
			if n, err := p.TCPConn.Read(buf); err != nil || !bytes.Contains(buf[:n], []byte("\r\n\r\n")) {
				return
			}
			if _, err := p.TCPConn.Write(reply); err != nil {
				return
			}
		}
	})
}

// TestWarmCallAllocatesNothing counts over the whole process: the loop, the pool
// and the counters, with a client and an instance that allocate nothing.
func TestWarmCallAllocatesNothing(t *testing.T) {
	for name, answer := range map[string]string{
		"length":  "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello",
		"chunked": "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			g := newRig(t, "fast", nil, fixedInstance(t, answer).addr)
			p := g.dial()
			request := []byte("POST /invoke/echo/path?query HTTP/1.1\r\nHost: a\r\nUser-Agent: test\r\nAccept: */*\r\nContent-Length: 5\r\n\r\nhello")
			answered := []byte("hello")
			buf := make([]byte, 8<<10)
			allocs := testing.AllocsPerRun(500, func() {
				if _, err := p.TCPConn.Write(request); err != nil {
					t.Fatal(err)
				}
				for n := 0; !bytes.Contains(buf[:n], answered); {
					m, err := p.TCPConn.Read(buf[n:])
					if n += m; err != nil {
						t.Fatal(err)
					}
				}
			})
			if allocs != 0 {
				t.Errorf("%v allocations a call, want none", allocs)
			}
		})
	}
}

// BenchmarkWarmCall is one client's round trip through a loop; what the client,
// the instance and the kernel take is in it.
func BenchmarkWarmCall(b *testing.B) {
	for _, way := range ways {
		b.Run(way, func(b *testing.B) {
			in := fixedInstance(b, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
			g := newRig(b, way, nil, in.addr)
			p := g.dial()
			request := []byte("GET /invoke/echo HTTP/1.1\r\nHost: a\r\n\r\n")
			buf := make([]byte, 8<<10)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := p.TCPConn.Write(request); err != nil {
					b.Fatal(err)
				}
				for n := 0; !bytes.Contains(buf[:n], []byte("hello")); {
					m, err := p.TCPConn.Read(buf[n:])
					if n += m; err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}
