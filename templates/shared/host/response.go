package host

import (
	"bufio"
	"encoding/json"
	"io"
	"net"
	"net/http"
)

// tracked knows whether a response has begun. It keeps the abilities of the
// HTTP/1.1 server's own ResponseWriter.
type tracked struct {
	http.ResponseWriter
	begun bool
}

func (t *tracked) WriteHeader(status int) {
	t.begun = t.begun || status >= 200
	t.ResponseWriter.WriteHeader(status)
}

func (t *tracked) Write(p []byte) (int, error) {
	t.begun = true
	return t.ResponseWriter.Write(p)
}

func (t *tracked) WriteString(s string) (int, error) {
	t.begun = true
	return io.WriteString(t.ResponseWriter, s)
}

func (t *tracked) ReadFrom(r io.Reader) (int64, error) {
	t.begun = true
	return io.Copy(t.ResponseWriter, r)
}

func (t *tracked) Flush() {
	t.begun = true
	_ = http.NewResponseController(t.ResponseWriter).Flush() // http.Flusher returns nothing
}

func (t *tracked) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	t.begun = true
	return http.NewResponseController(t.ResponseWriter).Hijack()
}

// Unwrap serves http.ResponseController.
func (t *tracked) Unwrap() http.ResponseWriter { return t.ResponseWriter }

// Problem answers with an RFC 9457 document in place of what the handler may
// have prepared.
func Problem(w http.ResponseWriter, r *http.Request, status int, code, detail string) {
	document := struct {
		Type      string `json:"type"`
		Title     string `json:"title"`
		Status    int    `json:"status"`
		Code      string `json:"code"`
		Detail    string `json:"detail"`
		Instance  string `json:"instance,omitempty"`
		RequestID string `json:"request_id,omitempty"`
	}{
		Type: "urn:kiln:error:" + code, Title: http.StatusText(status),
		Status: status, Code: code, Detail: detail,
	}
	if id := r.Header.Get("Kiln-Request-Id"); id != "" {
		document.Instance, document.RequestID = "urn:kiln:request:"+id, id
	}
	data, err := json.Marshal(document)
	if err != nil {
		data = []byte("{}") // strings and numbers cannot fail
	}
	header := w.Header()
	clear(header)
	header.Set("Content-Type", "application/problem+json")
	header.Set("Kiln-Error", "function")
	w.WriteHeader(status)
	w.Write(data)
}
