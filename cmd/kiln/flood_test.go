package main_test

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/kilnfaas/kiln/gateway/api"
)

// flood queues numbered calls from several callers, each again until the gateway
// has acknowledged it, whatever happens to the gateway meanwhile.
type flood struct {
	work   sync.WaitGroup
	cancel context.CancelFunc

	mu      sync.Mutex
	refused int   // guarded by mu: requests without an acknowledgement
	err     error // guarded by mu
}

// floodTimeout bounds a flood, restarts of the gateway included.
const floodTimeout = 3 * time.Minute

func startFlood(url, function string, calls, callers int) *flood {
	ctx, cancel := context.WithTimeout(context.Background(), floodTimeout)
	f := &flood{cancel: cancel}
	client := &api.Client{BaseURL: url, HTTP: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: callers}, Timeout: loadTimeout}}
	numbers := make(chan int)
	for range callers {
		f.work.Go(func() {
			for n := range numbers {
				f.queue(ctx, client, function, n)
			}
		})
	}
	f.work.Go(func() {
		defer close(numbers)
		for n := range calls {
			numbers <- n
		}
	})
	return f
}

// queue queues one call. The idempotency key makes it one call although its
// acknowledgement may be lost.
func (f *flood) queue(ctx context.Context, client *api.Client, function string, n int) {
	for {
		_, err := client.InvokeAsync(ctx, api.Invocation{
			Function: function, Body: strings.NewReader(strconv.Itoa(n)), Header: http.Header{api.HeaderIdempotencyKey: {fmt.Sprint("n", n)}},
		})
		f.mu.Lock()
		if err != nil {
			f.refused++
		}
		if ctx.Err() != nil {
			f.err = fmt.Errorf("call %d was not acknowledged in %s: %w", n, floodTimeout, err)
		}
		over := err == nil || f.err != nil
		f.mu.Unlock()
		if over {
			return
		}
		time.Sleep(pollInterval)
	}
}

func beginFlood(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 3 {
		ts.Fatalf("usage: flood NAME CALLS CALLERS")
	}
	calls, err := strconv.Atoi(args[1])
	ts.Check(err)
	callers, err := strconv.Atoi(args[2])
	ts.Check(err)
	w := worldOf(ts)
	w.flood = startFlood(w.gateway.url(), args[0], calls, callers)
	ts.Defer(func() {
		w.flood.cancel()
		w.flood.work.Wait()
	})
}

func endFlood(ts *testscript.TestScript, _ bool, _ []string) {
	f := worldOf(ts).flood
	f.work.Wait()
	f.mu.Lock()
	defer f.mu.Unlock()
	ts.Check(f.err)
	ts.Logf("every call is acknowledged; %d requests were not at first", f.refused)
}
