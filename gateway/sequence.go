package gateway

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/kilnfaas/kiln/gateway/api"
	"github.com/kilnfaas/kiln/gateway/proxy"
	"github.com/kilnfaas/kiln/gateway/requestid"
	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/events"
)

const (
	// sequencePrefix is where functions are called in a row.
	sequencePrefix = "/sequence/"
	// maxStageBody bounds what one function of a sequence hands to the next: it is
	// in memory, for each caller.
	maxStageBody = 10 << 20
)

// stages returns the functions that a path's name stands for, "a,b,c", if the
// caller may invoke each of them: none runs before all are known.
func (s *Server) stages(r *http.Request) ([]orchestrator.Function, error) {
	names := strings.Split(name(r), ",")
	if len(names) > events.MaxSequence {
		return nil, orchestrator.Errorf(orchestrator.ErrInvalid, "sequence-invalid", "the sequence has %d functions, %d are allowed", len(names), events.MaxSequence)
	}
	functions := make([]orchestrator.Function, len(names))
	for i, name := range names {
		var err error
		if functions[i], err = s.admit(r, name); err != nil {
			return nil, err
		}
	}
	return functions, nil
}

// invokeSequence calls functions in a row: the answer of one is the request of
// the next, and the last one's is the caller's. The first that fails ends it.
func (s *Server) invokeSequence(w http.ResponseWriter, r *http.Request) error {
	functions, err := s.stages(r)
	if err != nil {
		return err
	}
	_, path, _ := strings.Cut(strings.TrimPrefix(r.URL.EscapedPath(), sequencePrefix), "/")
	path = "/" + path
	if r.URL.RawQuery != "" {
		path += "?" + r.URL.RawQuery
	}
	header := asyncHeader(r)
	kept := http.Header{"Traceparent": r.Header["Traceparent"], "Tracestate": r.Header["Tracestate"], "X-Forwarded-For": header["X-Forwarded-For"]}
	body := io.Reader(r.Body)
	for i, f := range functions {
		stage := fmt.Sprintf("%d/%d %s", i+1, len(functions), f.Name)
		w.Header().Set(api.HeaderStage, stage)
		request, err := stageRequest(r, f.Name, path, header, body)
		if err != nil {
			return err
		}
		if i == 0 {
			request.ContentLength = r.ContentLength
		}
		reply := s.Call(request, maxStageBody)
		switch {
		case reply.Err != nil:
			return inStage(stage, reply.Err)
		case reply.Truncated:
			return inStage(stage, orchestrator.Errorf(orchestrator.ErrTooLarge, "stage-too-large", "the answer is over %s", orchestrator.Bytes(maxStageBody)).
				WithHint("store the data elsewhere and hand on where it is"))
		case reply.Status >= http.StatusBadRequest || i == len(functions)-1:
			writeReply(w, reply)
			return nil
		}
		path, header, body = "/", kept.Clone(), bytes.NewReader(reply.Body)
		if media := reply.Header.Get("Content-Type"); media != "" {
			header.Set("Content-Type", media)
		}
	}
	return nil
}

// stageRequest returns the request of one function of a sequence.
func stageRequest(r *http.Request, function, path string, header http.Header, body io.Reader) (*http.Request, error) {
	request, err := http.NewRequestWithContext(r.Context(), http.MethodPost, proxy.Prefix+function+path, body)
	if err != nil {
		return nil, orchestrator.Errorf(orchestrator.ErrInvalid, "path-invalid", "the path of the call is none: %w", err)
	}
	header.Set(api.HeaderRequestID, requestid.Of(r))
	if deadline := r.Header.Get(api.HeaderDeadline); deadline != "" {
		header.Set(api.HeaderDeadline, deadline)
	}
	request.Header, request.Host, request.RemoteAddr = header, r.Host, "127.0.0.1:0" // the caller is in X-Forwarded-For
	return request, nil
}

// inStage tells where a sequence ended.
func inStage(stage string, err error) error {
	classed, ok := errors.AsType[*orchestrator.Error](err)
	if !ok {
		return err
	}
	copied := *classed
	copied.Detail = "stage " + stage + ": " + copied.Detail
	return &copied
}

// writeReply answers with what a function answered.
func writeReply(w http.ResponseWriter, reply proxy.Reply) {
	for name, values := range reply.Header {
		switch name {
		case "Connection", "Transfer-Encoding", api.HeaderRequestID, api.HeaderStage, "Server-Timing":
			continue
		}
		w.Header()[name] = values
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(reply.Body)))
	w.WriteHeader(reply.Status)
	w.Write(reply.Body) // a client that has left is no error of ours
}
