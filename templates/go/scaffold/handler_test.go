package function

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestHandle(t *testing.T) {
	tests := []struct {
		name, target, body string
		status             int
		want               string
	}{
		{"by query", "/?name=Ada", "", http.StatusOK, "Hello, Ada!"},
		{"by body", "/", `{"name": "Ada"}`, http.StatusOK, "Hello, Ada!"},
		{"not understood", "/", "[]", http.StatusBadRequest, "error"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			w := httptest.NewRecorder()
			Handle(w, httptest.NewRequest(http.MethodPost, test.target, strings.NewReader(test.body)))
			if w.Code != test.status || !strings.Contains(w.Body.String(), test.want) {
				t.Errorf("got %d %s, want %d with %q", w.Code, w.Body, test.status, test.want)
			}
		})
	}
}
