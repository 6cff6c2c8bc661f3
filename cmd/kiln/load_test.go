package main_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"
)

// load calls a URL from several callers until it is stopped, and counts.
type load struct {
	url    string
	cancel context.CancelFunc
	work   sync.WaitGroup

	mu      sync.Mutex
	calls   int            // guarded by mu
	answers map[string]int // guarded by mu; by body
	failure string         // guarded by mu; the first
	failed  int            // guarded by mu
}

// loadTimeout bounds one call.
const loadTimeout = 30 * time.Second

// maxAnswer bounds what is read of one answer.
const maxAnswer = 1 << 20

func startLoad(url string, callers int) *load {
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{url: url, cancel: cancel, answers: map[string]int{}}
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: callers}, Timeout: loadTimeout}
	for range callers {
		l.work.Go(func() {
			for ctx.Err() == nil {
				l.count(callOnce(client, url))
			}
		})
	}
	return l
}

// callOnce calls and reads the whole answer; the calls are not cancelled, so
// that stopping the load makes no failure.
func callOnce(client *http.Client, url string) (string, error) {
	response, err := client.Post(url, "text/plain", strings.NewReader("load"))
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", response.Status, body)
	}
	return strings.TrimSpace(string(body)), err
}

func (l *load) count(answer string, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.calls++
	if err != nil {
		if l.failed++; l.failed == 1 {
			l.failure = err.Error()
		}
		return
	}
	l.answers[answer]++
}

// saw says whether every one of the answers has come.
func (l *load) saw(answers []string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, want := range answers {
		if l.answers[want] == 0 {
			return false
		}
	}
	return true
}

// stop ends the callers and returns how it went.
func (l *load) stop() (calls int, answers map[string]int, err error) {
	l.cancel()
	l.work.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.failed > 0 {
		return l.calls, l.answers, fmt.Errorf("%d of %d calls failed; the first: %s", l.failed, l.calls, l.failure)
	}
	return l.calls, l.answers, nil
}
