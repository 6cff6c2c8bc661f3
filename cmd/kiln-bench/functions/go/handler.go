// Package function echoes the request's body.
package function

import (
	"io"
	"net/http"
	"strconv"
)

// Handle answers with what it was sent.
func Handle(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Length", strconv.FormatInt(max(r.ContentLength, 0), 10))
	io.Copy(w, r.Body)
}
