package host

import (
	"archive/tar"
	"bytes"
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

// waitingCell returns the cell this process is to be, rehearsed, or nil.
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
	if err := rehearse(); err != nil {
		return nil, fmt.Errorf("rehearse a load: %w", err)
	}
	return &cell{token: token}, nil
}

// rehearsalSize is enough for every buffer on the way of a file to be there.
const rehearsalSize = 256 << 10

// rehearse unpacks a load of its own, so that the memory which the first one
// touches is there before a caller waits for it.
func rehearse() error {
	dir, err := os.MkdirTemp("", "kiln-rehearsal-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	var load bytes.Buffer
	out := tar.NewWriter(&load)
	for _, file := range []struct {
		name string
		data []byte
	}{{"env.json", []byte("{}")}, {codeName + "/rehearsal", make([]byte, rehearsalSize)}} {
		header := &tar.Header{Typeflag: tar.TypeReg, Name: file.name, Size: int64(len(file.data)), Mode: 0o755}
		if err := out.WriteHeader(header); err != nil {
			return err
		}
		if _, err := out.Write(file.data); err != nil {
			return err
		}
	}
	if err := out.Close(); err != nil {
		return err
	}
	_, err = Unpack(&load, dir)
	return err
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
