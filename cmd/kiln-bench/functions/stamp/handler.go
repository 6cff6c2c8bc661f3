// Package function notes when it was called, and how often for each id.
package function

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"
)

var (
	mu   sync.Mutex
	seen = map[string]int{} // guarded by mu
)

// Handle answers with the time at which it began, in nanoseconds since 1970, and
// with the instant that an event is for. GET /seen tells the ids that came and
// how often.
func Handle(w http.ResponseWriter, r *http.Request) {
	began := time.Now()
	if r.URL.Path == "/seen" {
		mu.Lock()
		defer mu.Unlock()
		json.NewEncoder(w).Encode(seen)
		return
	}
	if id := r.Header.Get("X-Id"); id != "" {
		mu.Lock()
		seen[id]++
		mu.Unlock()
	}
	io.Copy(io.Discard, r.Body)
	fmt.Fprintf(w, "%d %s", began.UnixNano(), r.Header.Get("Ce-Time"))
}
