package host

import (
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
)

// tokenFD is where start.sh leaves the load token.
const tokenFD = 3

// maxToken bounds the token in bytes.
const maxToken = 4096

// cell waits for the code of one function.
type cell struct {
	token []byte
	load  func(*http.Request) error // makes the unpacked code answer

	mu   sync.Mutex // guards used
	used bool
}

// waitingCell returns the cell this process is to be, or nil.
func waitingCell() (*cell, error) {
	if os.Getenv("KILN_CELL") != "1" {
		return nil, nil
	}
	os.Unsetenv("KILN_CELL")
	pipe := os.NewFile(tokenFD, "token")
	defer pipe.Close()
	token, err := io.ReadAll(io.LimitReader(pipe, maxToken))
	if err != nil {
		return nil, fmt.Errorf("read the cell's token: %w", err)
	}
	token = []byte(strings.TrimSpace(string(token)))
	if len(token) == 0 {
		return nil, errors.New("the cell has no token")
	}
	return &cell{token: token}, nil
}

func (c *cell) authorized(r *http.Request) bool {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	return strings.EqualFold(scheme, "bearer") && subtle.ConstantTimeCompare([]byte(token), c.token) == 1
}

// claim reports whether this is the cell's one load.
func (c *cell) claim() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	first := !c.used
	c.used = true
	return first
}

func (c *cell) serveLoad(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Connection", "close")
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	answer := func(status int, text string) {
		w.WriteHeader(status)
		io.WriteString(w, text)
	}
	if !c.authorized(r) {
		answer(http.StatusUnauthorized, "the token is not this cell's")
		return
	}
	if !c.claim() {
		answer(http.StatusConflict, "this cell was loaded before")
		return
	}
	env, err := Unpack(r.Body, "/")
	if err != nil {
		answer(http.StatusUnprocessableEntity, fmt.Sprintf("the code cannot be unpacked: %v", err))
		return
	}
	for name, value := range env {
		if err := os.Setenv(name, value); err != nil {
			answer(http.StatusUnprocessableEntity, fmt.Sprintf("set %s: %v", name, err))
			return
		}
	}
	if err := c.load(r); err != nil {
		fmt.Fprintln(os.Stderr, "kiln: the handler could not be loaded:", err)
		answer(http.StatusUnprocessableEntity, err.Error())
		return
	}
	answer(http.StatusOK, "")
}
