package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/kilnfaas/kiln/gateway/api"
)

// The range of latencies that are told apart: a microsecond to a minute, with
// three digits.
const (
	lowestLatency  = 1
	highestLatency = int64(time.Minute / time.Microsecond)
	latencyDigits  = 3
)

// target is something that answers HTTP/1.1, and the requests to send to it.
type target struct {
	name     string
	addr     string
	requests [][]byte // each caller takes them in turn, from a start of its own

	proxy, function []int // processes whose processor time is measured
}

// get returns a request without a body, or a POST of body.
func rawRequest(host, path string, body []byte) []byte {
	var b bytes.Buffer
	if len(body) == 0 {
		fmt.Fprintf(&b, "GET %s HTTP/1.1\r\nHost: %s\r\n\r\n", path, host)
		return b.Bytes()
	}
	fmt.Fprintf(&b, "POST %s HTTP/1.1\r\nHost: %s\r\nContent-Type: application/octet-stream\r\nContent-Length: %d\r\n\r\n", path, host, len(body))
	b.Write(body)
	return b.Bytes()
}

// request is a request to an instance, without a proxy.
func (u upstream) request(body []byte) []byte {
	head := fmt.Sprintf("Host: %s\r\n%s: %s\r\n", u.addr, api.HeaderInstanceToken, u.token)
	return bytes.Replace(rawRequest(u.addr, "/", body), []byte("Host: "+u.addr+"\r\n"), []byte(head), 1)
}

// sample is what one stretch of load measured.
type sample struct {
	requests int64
	failures int64
	elapsed  time.Duration
	latency  *hdrhistogram.Histogram // microseconds
	firstErr error

	proxyCPU, functionCPU time.Duration
}

func newSample() sample {
	return sample{latency: hdrhistogram.New(lowestLatency, highestLatency, latencyDigits)}
}

func (s *sample) add(o sample) {
	s.requests += o.requests
	s.failures += o.failures
	s.elapsed += o.elapsed
	s.latency.Merge(o.latency)
	s.proxyCPU += o.proxyCPU
	s.functionCPU += o.functionCPU
	if s.firstErr == nil {
		s.firstErr = o.firstErr
	}
}

// rate is answers per second.
func (s sample) rate() float64 {
	if s.elapsed == 0 {
		return 0
	}
	return float64(s.requests) / s.elapsed.Seconds()
}

// each is a share of the processor time for one request, in microseconds.
func (s sample) each(cpu time.Duration) float64 {
	if s.requests == 0 {
		return 0
	}
	return float64(cpu.Nanoseconds()/s.requests) / 1000
}

func (s sample) quantile(q float64) time.Duration {
	return time.Duration(s.latency.ValueAtQuantile(q)) * time.Microsecond
}

// closedLoop has each caller send its next request when the last is answered.
func closedLoop(ctx context.Context, t target, callers int, length time.Duration) sample {
	return drive(ctx, t, callers, length, func(time.Time, int) (time.Time, bool) { return time.Now(), true })
}

// openLoop sends at a fixed rate whether or not answers have come. Latency
// counts from when a request was due, so a stall is charged to every request
// that it held up.
func openLoop(ctx context.Context, t target, callers int, perSecond float64, length time.Duration) sample {
	gap := time.Duration(float64(time.Second) * float64(callers) / perSecond)
	return drive(ctx, t, callers, length, func(start time.Time, n int) (time.Time, bool) {
		due := start.Add(time.Duration(n) * gap)
		if wait := time.Until(due); wait > 0 {
			select {
			case <-time.After(wait):
			case <-ctx.Done():
				return due, false
			}
		}
		return due, true
	})
}

// drive runs the callers; due returns when the n-th request of a caller counts
// from, after waiting for that time if need be.
func drive(ctx context.Context, t target, callers int, length time.Duration, due func(start time.Time, n int) (time.Time, bool)) sample {
	results := make([]sample, callers)
	proxy, function := cpuTime(t.proxy), cpuTime(t.function)
	start := time.Now()
	end := start.Add(length)
	var wait sync.WaitGroup
	for i := range callers {
		wait.Go(func() {
			c := caller{target: t, offset: i * 7919, sample: newSample()} // a prime, so that callers spread over the requests
			c.run(ctx, start, end, due)
			results[i] = c.sample
		})
	}
	wait.Wait()
	total := newSample()
	for _, r := range results {
		total.add(r)
	}
	total.elapsed = time.Since(start)
	total.proxyCPU, total.functionCPU = cpuTime(t.proxy)-proxy, cpuTime(t.function)-function
	return total
}

// caller is one connection and what it measured.
type caller struct {
	target target
	offset int
	conn   net.Conn
	reader *bufio.Reader
	sample sample
}

// dialTimeout and answerTimeout tell a hang from load.
const (
	dialTimeout   = 5 * time.Second
	answerTimeout = 30 * time.Second
)

func (c *caller) run(ctx context.Context, start, end time.Time, due func(time.Time, int) (time.Time, bool)) {
	defer c.hangUp()
	for n := 0; ctx.Err() == nil; n++ {
		since, ok := due(start, n)
		if !ok || !time.Now().Before(end) {
			return
		}
		status, err := c.exchange(c.target.requests[(c.offset+n)%len(c.target.requests)])
		if err == nil && (status < 200 || status > 299) {
			err = fmt.Errorf("%s answered %d", c.target.name, status)
		}
		if err != nil {
			c.sample.failures++
			if c.sample.firstErr == nil {
				c.sample.firstErr = err
			}
			c.hangUp()
			continue
		}
		c.sample.requests++
		c.sample.latency.RecordValue(min(max(time.Since(since).Microseconds(), lowestLatency), highestLatency))
	}
}

func (c *caller) hangUp() {
	if c.conn != nil {
		c.conn.Close()
		c.conn = nil
	}
}

// exchange sends a request and reads the whole answer.
func (c *caller) exchange(request []byte) (status int, err error) {
	if c.conn == nil {
		conn, err := net.DialTimeout("tcp", c.target.addr, dialTimeout)
		if err != nil {
			return 0, err
		}
		c.conn, c.reader = conn, bufio.NewReaderSize(conn, 64<<10)
	}
	if err := c.conn.SetDeadline(time.Now().Add(answerTimeout)); err != nil {
		return 0, err
	}
	if _, err := c.conn.Write(request); err != nil {
		return 0, err
	}
	status, last, err := readAnswer(c.reader)
	if last {
		c.hangUp()
	}
	return status, err
}

var (
	lengthHeader     = []byte("content-length:")
	chunkedHeader    = []byte("transfer-encoding:")
	connectionHeader = []byte("connection:")
)

// readAnswer reads an HTTP/1.1 answer of known length or in chunks and discards
// its body. The last one on its connection says so. It trusts the server: this is
// a load driver.
func readAnswer(r *bufio.Reader) (status int, last bool, err error) {
	line, err := r.ReadSlice('\n')
	if err != nil {
		return 0, false, err
	}
	if len(line) < 12 {
		return 0, false, fmt.Errorf("not an answer: %q", line)
	}
	if status, err = strconv.Atoi(string(line[9:12])); err != nil {
		return 0, false, fmt.Errorf("not an answer: %q", line)
	}
	length := int64(-1)
	chunked := false
	for {
		line, err = r.ReadSlice('\n')
		if err != nil {
			return 0, false, err
		}
		line = bytes.TrimRight(line, "\r\n")
		if len(line) == 0 {
			break
		}
		if value, ok := header(line, lengthHeader); ok {
			if length, err = strconv.ParseInt(string(value), 10, 64); err != nil {
				return 0, false, err
			}
		} else if _, ok := header(line, chunkedHeader); ok {
			chunked = true
		} else if value, ok := header(line, connectionHeader); ok {
			last = bytes.EqualFold(value, []byte("close"))
		}
	}
	switch {
	case chunked:
		err = discardChunks(r)
	case length < 0 && status != 204 && status != 304:
		err = errors.New("an answer without a length")
	case length > 0:
		_, err = io.CopyN(io.Discard, r, length)
	}
	return status, last, err
}

func header(line, name []byte) ([]byte, bool) {
	if len(line) < len(name) || !bytes.EqualFold(line[:len(name)], name) {
		return nil, false
	}
	return bytes.TrimSpace(line[len(name):]), true
}

func discardChunks(r *bufio.Reader) error {
	for {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return err
		}
		size, err := strconv.ParseInt(string(bytes.TrimSpace(line)), 16, 64)
		if err != nil {
			return err
		}
		if _, err := io.CopyN(io.Discard, r, size+2); err != nil { // and the line end
			return err
		}
		if size == 0 {
			return nil
		}
	}
}
