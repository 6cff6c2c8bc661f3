package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kilnfaas/kiln/gateway/api"
)

const (
	// callTimeout is more than a function's own: an answer that never comes is
	// told from one that is late.
	callTimeout = 90 * time.Second
	// maxAnswer bounds what is read of an answer.
	maxAnswer = 4 << 20
)

// failure is a call that was not answered with success.
type failure struct {
	function    string
	method      string
	id          string
	from, until time.Time
	status      int    // 0 = no whole answer came
	code        string // of a problem document
	text        string
}

func (f failure) String() string {
	return fmt.Sprintf("%s %s (%s) from %s for %s: %d %s %s", f.method, f.function, f.id,
		f.from.Format("15:04:05.000"), f.until.Sub(f.from).Round(time.Millisecond), f.status, f.code, f.text)
}

// load calls functions until it is stopped.
type load struct {
	cancel context.CancelFunc
	work   sync.WaitGroup
	sent   atomic.Int64

	mu       sync.Mutex
	failures []failure     // guarded by mu
	ids      []string      // guarded by mu; of the calls that must not be repeated
	slowest  time.Duration // guarded by mu; of those that succeeded
}

// caller is one client with a connection of its own.
type caller struct {
	function string
	method   string
	pause    time.Duration // between two calls
}

// callNumber makes the ids of calls.
var callNumber atomic.Int64

// startLoad starts the callers. Stopping it lets calls under way finish.
func (g *gateway) startLoad(callers []caller) *load {
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{cancel: cancel}
	for _, c := range callers {
		l.work.Go(func() {
			conn := wire{address: g.address}
			defer conn.hangUp()
			for ctx.Err() == nil {
				l.call(&conn, c)
				select {
				case <-ctx.Done():
				case <-time.After(c.pause):
				}
			}
		})
	}
	return l
}

// mark is a point in a load: how much there was up to it.
type mark struct {
	sent          int64
	failures, ids int
}

func (l *load) mark() mark {
	l.mu.Lock()
	defer l.mu.Unlock()
	return mark{sent: l.sent.Load(), failures: len(l.failures), ids: len(l.ids)}
}

func (l *load) stop() {
	l.cancel()
	l.work.Wait()
}

// call makes one call and takes it down.
func (l *load) call(conn *wire, c caller) {
	id := fmt.Sprintf("%s-%d", c.function, callNumber.Add(1))
	from := time.Now()
	status, body, err := conn.exchange(c.method, c.function, id)
	until := time.Now()
	l.sent.Add(1)
	f := failure{function: c.function, method: c.method, id: id, from: from, until: until, status: status}
	switch {
	case err != nil:
		f.status, f.text = 0, err.Error()
	case status != http.StatusOK:
		var problem api.Error
		if json.Unmarshal(body, &problem) == nil {
			f.code, f.text = problem.Code, problem.Detail
		}
	default:
		_, err = versionOf(body)
		if err != nil {
			f.text = err.Error()
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if c.method == http.MethodPost {
		l.ids = append(l.ids, id)
	}
	if err != nil || status != http.StatusOK {
		l.failures = append(l.failures, f)
	} else {
		l.slowest = max(l.slowest, until.Sub(from))
	}
}

// wire is a connection that never repeats a call by itself, as http.Transport
// would.
type wire struct {
	address string
	conn    net.Conn
	reader  *bufio.Reader
}

func (w *wire) hangUp() {
	if w.conn != nil {
		w.conn.Close()
		w.conn = nil
	}
}

// closed says whether the other side has closed an idle connection.
func closed(conn net.Conn) (gone bool) {
	raw, err := conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		return true
	}
	err = raw.Read(func(fd uintptr) bool {
		_, _, err := unix.Recvfrom(int(fd), make([]byte, 1), unix.MSG_PEEK|unix.MSG_DONTWAIT)
		gone = !errors.Is(err, unix.EAGAIN)
		return true
	})
	return gone || err != nil
}

// exchange sends one call and reads its whole answer.
func (w *wire) exchange(method, function, id string) (status int, body []byte, err error) {
	status, _, body, err = w.exchangeHead(method, function, id)
	return status, body, err
}

// exchangeHead is exchange with the answer's header.
func (w *wire) exchangeHead(method, function, id string) (status int, header http.Header, body []byte, err error) {
	defer func() {
		if err != nil {
			w.hangUp()
		}
	}()
	if w.conn != nil && closed(w.conn) {
		w.hangUp() // while it was idle, which every client has to expect
	}
	if w.conn == nil {
		if w.conn, err = net.DialTimeout("tcp", w.address, callTimeout); err != nil {
			return 0, nil, nil, err
		}
		w.reader = bufio.NewReader(w.conn)
	}
	if err := w.conn.SetDeadline(time.Now().Add(callTimeout)); err != nil {
		return 0, nil, nil, err
	}
	content := ""
	if method == http.MethodPost {
		content = id
	}
	_, err = fmt.Fprintf(w.conn, "%s /invoke/%s HTTP/1.1\r\nHost: chaos\r\nX-Call: %s\r\nContent-Length: %d\r\n\r\n%s",
		method, function, id, len(content), content)
	if err != nil {
		return 0, nil, nil, err
	}
	response, err := http.ReadResponse(w.reader, &http.Request{Method: method})
	if err != nil {
		return 0, nil, nil, err
	}
	defer response.Body.Close()
	body, err = io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err == nil && response.Close {
		w.hangUp()
	}
	return response.StatusCode, response.Header, body, err
}

// versionOf reads an answer of the functions here: the version that their code
// and their data each say. They differ where half a revision is live.
func versionOf(body []byte) (int, error) {
	var code, data int
	if _, err := fmt.Sscanf(strings.TrimSpace(string(body)), "code=%d data=%d", &code, &data); err != nil {
		return 0, fmt.Errorf("not an answer of this function: %.80q", body)
	}
	if code != data {
		return 0, fmt.Errorf("half a revision: the code is version %d and its data %d", code, data)
	}
	return code, nil
}
