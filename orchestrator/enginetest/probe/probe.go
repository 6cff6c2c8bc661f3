// Package probe is the program inside the containers of the engine tests. The
// same code runs as a static binary in a real container and as a function in a
// fake one, so that one suite can ask both the same questions.
package probe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// EnvIgnoreTerm, when not empty, makes the program ignore SIGTERM.
const EnvIgnoreTerm = "PROBE_IGNORE_TERM"

// dialTimeout is when a dial counts as not answered. What answers on one machine
// does so within a millisecond.
const dialTimeout = 500 * time.Millisecond

// reached dials all addresses at once and returns those that accept.
func reached(ctx context.Context, addresses []string) []string {
	accepts := make([]bool, len(addresses))
	var dials sync.WaitGroup
	for i, address := range addresses {
		dials.Go(func() {
			dialer := net.Dialer{Timeout: dialTimeout}
			conn, err := dialer.DialContext(ctx, "tcp", address)
			if err == nil {
				accepts[i] = true
				conn.Close()
			}
		})
	}
	dials.Wait()
	var list []string
	for i, address := range addresses {
		if accepts[i] {
			list = append(list, address)
		}
	}
	return list
}

// Machine is what the program runs on.
type Machine struct {
	Env            func(name string) string
	Stdout, Stderr io.Writer
	Term           <-chan struct{} // closed on SIGTERM
	Listen         func() (net.Listener, error)
	ReadFile       func(path string) ([]byte, error)
	// Allocate uses that many bytes of memory until the program ends.
	Allocate func(bytes int64)
	// Syscall makes a system call that is worth forbidding; nil where the program
	// is in no container.
	Syscall func(name string) error
}

// Main runs the program until it ends or ctx does, and returns the exit code.
// Without arguments, or with "serve", it serves HTTP until SIGTERM; with
// "script" it carries out the lines after it.
func Main(ctx context.Context, m Machine, args []string) int {
	if len(args) > 0 && args[0] == "script" {
		return m.script(ctx, args[1:])
	}
	return m.serve(ctx)
}

// script carries out lines: "echo TEXT", "err TEXT", "exit CODE", "sleep
// DURATION", "wide N" (a line of N characters), "whoami", and the breaches of
// breach.go. It ends with code 0 after the last one, and with 143 on SIGTERM.
func (m Machine) script(ctx context.Context, lines []string) int {
	for _, line := range lines {
		command, rest, _ := strings.Cut(line, " ")
		switch command {
		case "echo":
			fmt.Fprintln(m.Stdout, rest)
		case "err":
			fmt.Fprintln(m.Stderr, rest)
		case "wide":
			n, _ := strconv.Atoi(rest)
			fmt.Fprintln(m.Stdout, strings.Repeat("x", n))
		case "whoami":
			fmt.Fprintln(m.Stdout, os.Getuid(), os.Geteuid())
		case "exit":
			code, err := strconv.Atoi(rest)
			if err != nil {
				fmt.Fprintln(m.Stderr, "probe:", err)
				return 2
			}
			return code
		case "sleep":
			d, err := time.ParseDuration(rest)
			if err != nil {
				fmt.Fprintln(m.Stderr, "probe:", err)
				return 2
			}
			timer := time.NewTimer(d)
			defer timer.Stop()
			select {
			case <-timer.C:
			case <-ctx.Done():
				return 137
			case <-m.term():
				return 143
			}
		default:
			if err := m.breach(ctx, command, rest); err != nil {
				fmt.Fprintln(m.Stderr, "probe:", err)
				return 2
			}
		}
	}
	return 0
}

// term is Term unless the environment says to ignore it.
func (m Machine) term() <-chan struct{} {
	if m.Env(EnvIgnoreTerm) != "" {
		return nil
	}
	return m.Term
}

func (m Machine) serve(ctx context.Context) int {
	listener, err := m.Listen()
	if err != nil {
		fmt.Fprintln(m.Stderr, "probe:", err)
		return 1
	}
	exit := make(chan int, 1)
	server := &http.Server{Handler: m.handler(exit), ReadHeaderTimeout: 10 * time.Second}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	fmt.Fprintln(m.Stdout, "serving")
	code := 0
	select {
	case <-ctx.Done():
		code = 137
	case <-m.term():
		fmt.Fprintln(m.Stdout, "terminating")
	case code = <-exit:
	case err := <-failed:
		fmt.Fprintln(m.Stderr, "probe:", err)
		return 1
	}
	shutdown, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if err := server.Shutdown(shutdown); err != nil {
		err = errors.Join(err, server.Close())
		fmt.Fprintln(m.Stderr, "probe:", err)
	}
	<-failed
	return code
}

// handler answers the suite's questions:
//
//	GET  /_kiln/ready    200
//	GET  /exit?code=3    the program ends
//	GET  /env?name=X     the value of a variable
//	GET  /log?out=&err=  writes lines
//	GET  /allocate?bytes the program uses that much memory
//	GET  /write?path=    200 when a file could be written, 403 and why when not
//	GET  /file?path=     the content of a file, 404 and why when it has none
//	GET  /mode?path=     mode and owner of a file, 404 and why when there is none
//	GET  /fill?path=&bytes= the same for a file of that size
//	GET  /run?path=      what another copy of the program says of its users
//	GET  /syscall?name=  200 when a system call could be made, 403 and why when not
//	GET  /flood?bytes=   writes as much to stdout
//	GET  /dial?to=&to=   those of the addresses HOST:PORT that accept
//	GET  /lookup?name=   the addresses of a name, 403 and why when it has none
//	GET  /count          how many requests came before
func (m Machine) handler(exit chan<- int) http.Handler {
	var count atomic.Int64
	mux := http.NewServeMux()
	mux.HandleFunc("/_kiln/ready", func(w http.ResponseWriter, r *http.Request) {})
	mux.HandleFunc("/exit", func(w http.ResponseWriter, r *http.Request) {
		code, _ := strconv.Atoi(r.FormValue("code"))
		select {
		case exit <- code:
		default:
		}
	})
	mux.HandleFunc("/env", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, m.Env(r.FormValue("name")))
	})
	mux.HandleFunc("/log", func(w http.ResponseWriter, r *http.Request) {
		if out := r.FormValue("out"); out != "" {
			fmt.Fprintln(m.Stdout, out)
		}
		if text := r.FormValue("err"); text != "" {
			fmt.Fprintln(m.Stderr, text)
		}
	})
	mux.HandleFunc("/allocate", func(w http.ResponseWriter, r *http.Request) {
		n, _ := strconv.ParseInt(r.FormValue("bytes"), 10, 64)
		m.Allocate(n)
	})
	mux.HandleFunc("/write", func(w http.ResponseWriter, r *http.Request) {
		if err := os.WriteFile(r.FormValue("path"), []byte("probe"), 0o755); err != nil {
			http.Error(w, err.Error(), http.StatusForbidden)
		}
	})
	mux.HandleFunc("/fill", func(w http.ResponseWriter, r *http.Request) {
		n, _ := strconv.ParseInt(r.FormValue("bytes"), 10, 64)
		if err := fill(r.FormValue("path"), n); err != nil {
			http.Error(w, err.Error(), http.StatusForbidden)
		}
	})
	mux.HandleFunc("/run", func(w http.ResponseWriter, r *http.Request) {
		path := r.FormValue("path")
		out, err := exec.CommandContext(r.Context(), path, "script", "whoami").CombinedOutput()
		if err != nil {
			http.Error(w, fmt.Sprint(err, ": ", string(out)), http.StatusForbidden)
			return
		}
		if info, err := os.Stat(path); err == nil {
			fmt.Fprintln(w, info.Mode())
		}
		w.Write(out)
	})
	mux.HandleFunc("/syscall", func(w http.ResponseWriter, r *http.Request) {
		if m.Syscall == nil {
			http.Error(w, "not in a container", http.StatusNotImplemented)
			return
		}
		if err := m.Syscall(r.FormValue("name")); err != nil {
			http.Error(w, err.Error(), http.StatusForbidden)
		}
	})
	mux.HandleFunc("/flood", func(w http.ResponseWriter, r *http.Request) {
		n, _ := strconv.ParseInt(r.FormValue("bytes"), 10, 64)
		m.flood(n)
	})
	mux.HandleFunc("/file", func(w http.ResponseWriter, r *http.Request) {
		data, err := m.ReadFile(r.FormValue("path"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusNotFound)
			return
		}
		w.Write(data)
	})
	mux.HandleFunc("/mode", func(w http.ResponseWriter, r *http.Request) {
		info, err := os.Stat(r.FormValue("path"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusNotFound)
			return
		}
		owner := reflect.Indirect(reflect.ValueOf(info.Sys())).FieldByName("Uid")
		fmt.Fprintf(w, "%s %v", info.Mode(), owner)
	})
	mux.HandleFunc("/dial", func(w http.ResponseWriter, r *http.Request) {
		_ = r.ParseForm() // what cannot be read is not dialled
		fmt.Fprint(w, strings.Join(reached(r.Context(), r.Form["to"]), " "))
	})
	mux.HandleFunc("/lookup", func(w http.ResponseWriter, r *http.Request) {
		addrs, err := net.DefaultResolver.LookupHost(r.Context(), r.FormValue("name"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusForbidden)
			return
		}
		fmt.Fprint(w, strings.Join(addrs, " "))
	})
	mux.HandleFunc("/count", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, count.Add(1)-1)
	})
	return mux
}
