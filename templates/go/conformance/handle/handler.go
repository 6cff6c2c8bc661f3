// Package function is the conformance suite's function for the go template.
package function

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"crypto/rand"
)

func exists(name string) bool {
	_, err := os.Stat("/tmp/" + name)
	return err == nil
}

func awaitFile(name string) {
	for !exists(name) {
		time.Sleep(5 * time.Millisecond)
	}
}

func touch(name string) {
	if err := os.WriteFile("/tmp/"+name, nil, 0o644); err != nil {
		panic(err)
	}
}

func barrier(n int) {
	touch("barrier-" + rand.Text())
	for {
		files, _ := filepath.Glob("/tmp/barrier-*")
		if len(files) >= n {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func environment() any {
	env, proc := map[string]string{}, map[string]string{}
	for _, variable := range os.Environ() {
		name, value, _ := strings.Cut(variable, "=")
		env[name] = value
	}
	for _, name := range []string{"self", "1"} {
		data, _ := os.ReadFile("/proc/" + name + "/environ")
		proc[name] = string(data)
	}
	return map[string]any{"env": env, "proc": proc}
}

func upload(r *http.Request, name string) int64 {
	first := make([]byte, 1024)
	n, _ := r.Body.Read(first)
	touch(name)
	rest, _ := io.Copy(io.Discard, r.Body)
	return int64(n) + rest
}

func echo(w http.ResponseWriter, r *http.Request) {
	kind := r.Header.Get("Content-Type")
	if kind == "" {
		kind = "application/octet-stream"
	}
	for name, value := range map[string]string{
		"Content-Type": kind, "X-Method": r.Method, "X-Path": r.URL.Path, "X-Query": r.URL.RawQuery,
		"X-Request-Id": r.Header.Get("Kiln-Request-Id"),
	} {
		w.Header().Set(name, value)
	}
	io.Copy(w, r.Body)
}

// Handle has one path for each check of the suite.
func Handle(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	switch r.URL.Path {
	case "/echo":
		echo(w, r)
	case "/status":
		code, _ := strconv.Atoi(q.Get("code"))
		w.WriteHeader(code)
		io.WriteString(w, "status")
	case "/cookies":
		w.Header().Add("Set-Cookie", "a=1")
		w.Header().Add("Set-Cookie", "b=2")
	case "/fail":
		panic("kaboom")
	case "/fail-late", "/stream":
		io.WriteString(w, "first\n")
		w.(http.Flusher).Flush()
		if r.URL.Path == "/fail-late" {
			panic("late")
		}
		awaitFile(q.Get("file"))
		io.WriteString(w, "last\n")
	case "/wait":
		awaitFile(q.Get("file"))
		io.WriteString(w, "done")
	case "/exists":
		if !exists(q.Get("file")) {
			w.WriteHeader(http.StatusNotFound)
		}
	case "/barrier":
		n, _ := strconv.Atoi(q.Get("n"))
		barrier(n)
		io.WriteString(w, "passed")
	case "/upload":
		fmt.Fprint(w, upload(r, q.Get("file")))
	case "/disconnect":
		touch(q.Get("file") + "-begun")
		<-r.Context().Done()
		touch(q.Get("file"))
	case "/env":
		json.NewEncoder(w).Encode(environment())
	case "/print":
		fmt.Println(q.Get("text"))
	default:
		http.NotFound(w, r)
	}
}
