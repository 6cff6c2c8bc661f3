package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"

	"github.com/kilnfaas/kiln/templates/shared/host"
)

const (
	// maxHead bounds a header block, and so how much is read to find one.
	maxHead = 64 << 10
	// maxHeld is how much output without a header block is held back until the
	// process has ended well; more than that is streamed.
	maxHeld    = 1 << 20
	copyBuffer = 32 << 10
)

// respond turns the output of a run into the response.
func respond(w http.ResponseWriter, r *http.Request, run *process) {
	defer run.stdout.Close()
	out := bufio.NewReaderSize(run.stdout, maxHead)
	status, headed, err := readHead(out, w.Header())
	if err != nil {
		fail(w, r, run, err)
		return
	}
	var held []byte
	if !headed {
		held, err = io.ReadAll(io.LimitReader(out, maxHeld))
		if err == nil && len(held) == maxHeld {
			headed = true
		}
	}
	if !headed {
		<-run.ended
		if run.err != nil {
			fail(w, r, run, nil)
			return
		}
		if len(held) == 0 {
			w.WriteHeader(http.StatusNoContent)
			return
		}
	}
	if w.Header().Get("Content-Type") == "" && (len(held) > 0 || status == 0) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	}
	if status == 0 {
		status = http.StatusOK
	}
	stream(w, r, run, out, status, held)
}

// stream sends the head, what was held and, as it comes, the rest.
func stream(w http.ResponseWriter, r *http.Request, run *process, out *bufio.Reader, status int, held []byte) {
	flusher := http.NewResponseController(w)
	buffer := make([]byte, copyBuffer)
	n, err := copy(buffer, held), error(nil)
	held = held[n:]
	begun := false
	for {
		if n == 0 && len(held) == 0 {
			n, err = out.Read(buffer)
		}
		if n == 0 && err != nil {
			break
		}
		if !begun {
			begun = true
			w.WriteHeader(status)
		}
		if _, err := w.Write(buffer[:n]); err != nil {
			panic(http.ErrAbortHandler) // the caller is gone
		}
		n = copy(buffer, held)
		held = held[n:]
		if n == 0 && out.Buffered() == 0 && r.Method != http.MethodHead && !over(run) {
			flusher.Flush()
		}
	}
	<-run.ended
	switch {
	case run.err != nil && begun:
		fmt.Fprintln(os.Stderr, "kiln: the handler failed:", run.err)
		panic(http.ErrAbortHandler)
	case run.err != nil:
		fail(w, r, run, nil)
	case !begun:
		w.WriteHeader(status)
	}
}

// over says whether the process has ended: its last output needs no flush.
func over(run *process) bool {
	select {
	case <-run.ended:
		return true
	default:
		return false
	}
}

// fail answers 500. err is what was wrong with the output, nil when the process
// itself failed.
func fail(w http.ResponseWriter, r *http.Request, run *process, err error) {
	if r.Context().Err() != nil {
		panic(http.ErrAbortHandler) // killed because the caller went away
	}
	detail := "the handler's output is not understood: "
	if err == nil {
		<-run.ended
		detail, err = "the handler failed: ", run.err
	}
	fmt.Fprintln(os.Stderr, "kiln: "+detail+err.Error())
	host.Problem(w, r, http.StatusInternalServerError, "handler-failed", detail+err.Error())
}

// readHead reads a CGI header block, if the output begins with one, that is with
// a Status, Content-Type or Location field. status is 0 when none is given.
func readHead(out *bufio.Reader, header http.Header) (status int, headed bool, err error) {
	if !headFollows(out) {
		return 0, false, nil
	}
	for size := 0; ; {
		line, err := out.ReadSlice('\n')
		size += len(line)
		switch {
		case errors.Is(err, io.EOF):
			return 0, true, errors.New("it ends within the header block")
		case err != nil || size > maxHead:
			return 0, true, fmt.Errorf("its header block is over %d bytes", maxHead)
		}
		line = bytes.TrimRight(line, "\r\n")
		if len(line) == 0 {
			break
		}
		name, value, found := strings.Cut(string(line), ":")
		value = strings.TrimSpace(value)
		switch {
		case !found || name == "" || strings.ContainsAny(name, " \t"):
			return 0, true, fmt.Errorf("%.80q is not a header field", line)
		case strings.EqualFold(name, "Status"):
			code, _, _ := strings.Cut(value, " ")
			if status, err = strconv.Atoi(code); err != nil || status < 200 || status > 599 {
				return 0, true, fmt.Errorf("%.80q is not a status", value)
			}
		default:
			header.Add(name, value)
		}
	}
	if status == 0 && header.Get("Location") != "" {
		status = http.StatusFound
	}
	return status, true, nil
}

// headFields begin a header block.
var headFields = []string{"status:", "content-type:", "location:"}

// headFollows looks at no more of the output than the answer needs.
func headFollows(out *bufio.Reader) bool {
	for n := 1; ; n++ {
		begin, err := out.Peek(n)
		if err != nil {
			return false
		}
		text, possible := strings.ToLower(string(begin)), false
		for _, field := range headFields {
			if text == field {
				return true
			}
			possible = possible || strings.HasPrefix(field, text)
		}
		if !possible {
			return false
		}
	}
}
