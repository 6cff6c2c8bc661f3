package gateway

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"

	"github.com/kilnfaas/kiln/gateway/api"
	"github.com/kilnfaas/kiln/gateway/problem"
	"github.com/kilnfaas/kiln/orchestrator"
)

// maxRollback bounds the body of a rollback: one id.
const maxRollback = 4 << 10

// function is the wire form of a function.
func (s *Server) function(f orchestrator.Function) api.Function {
	return api.Function{Function: f, URL: invokePrefix + f.Name, Status: s.status(f.Name)}
}

// status is the wire form of what runs for a function.
func (s *Server) status(name string) orchestrator.FunctionStatus {
	status := s.Functions.Status(name)
	if status.Instances == nil {
		status.Instances = []orchestrator.InstanceStatus{} // a list in JSON, never null
	}
	return status
}

func functionURL(name string) string { return "/v1/functions/" + name }

func (s *Server) listFunctions(w http.ResponseWriter, r *http.Request) error {
	if err := acceptJSON(r); err != nil {
		return err
	}
	functions, err := s.Functions.Functions(r.Context())
	if err != nil {
		return err
	}
	list := api.FunctionList{Functions: make([]api.Function, 0, len(functions))}
	for _, f := range functions {
		if callerOf(r).For(f.Name) == nil {
			list.Functions = append(list.Functions, s.function(f))
		}
	}
	return writeJSON(w, http.StatusOK, list)
}

func (s *Server) getFunction(w http.ResponseWriter, r *http.Request) error {
	if err := acceptJSON(r); err != nil {
		return err
	}
	f, err := s.Functions.Function(r.Context(), name(r))
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, s.function(f))
}

func (s *Server) patchFunction(w http.ResponseWriter, r *http.Request) error {
	if err := acceptJSON(r); err != nil {
		return err
	}
	media, _, err := contentType(r)
	if err != nil {
		return err
	}
	switch media {
	case api.MediaPatch, "application/json", api.MediaYAML:
	default:
		return problem.UnsupportedMedia(media, []string{api.MediaPatch, api.MediaYAML})
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxSpec))
	if err != nil {
		return err
	}
	ctx, cancel := s.untilStopped(r.Context())
	defer cancel()
	f, revision, err := s.Functions.Configure(ctx, name(r), func(spec orchestrator.Spec) (orchestrator.Spec, error) {
		return s.change(spec, settings{document("the body", body)})
	})
	if err != nil {
		return deployError(err)
	}
	return writeJSON(w, http.StatusOK, s.deployment(f, revision, false))
}

func (s *Server) deleteFunction(w http.ResponseWriter, r *http.Request) error {
	if err := s.Functions.Remove(r.Context(), name(r)); err != nil {
		return err
	}
	s.Metrics.Invocations.Remove(name(r))
	s.Guard.Forget(name(r))
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *Server) listRevisions(w http.ResponseWriter, r *http.Request) error {
	if err := acceptJSON(r); err != nil {
		return err
	}
	f, err := s.Functions.Function(r.Context(), name(r))
	if err != nil {
		return err
	}
	revisions, err := s.Functions.Revisions(r.Context(), f.Name)
	if err != nil {
		return err
	}
	list := api.RevisionList{Revisions: make([]api.Revision, len(revisions))}
	for i, revision := range revisions {
		list.Revisions[i] = api.Revision{Revision: revision, Live: revision.ID == f.Live}
	}
	return writeJSON(w, http.StatusOK, list)
}

func (s *Server) rollback(w http.ResponseWriter, r *http.Request) error {
	if err := acceptJSON(r); err != nil {
		return err
	}
	var want api.Rollback
	if err := readJSON(w, r, maxRollback, &want); err != nil {
		return err
	}
	ctx, cancel := s.untilStopped(r.Context())
	defer cancel()
	f, revision, err := s.Functions.Rollback(ctx, name(r), want.Revision)
	if err != nil {
		return deployError(err)
	}
	return writeJSON(w, http.StatusOK, s.deployment(f, revision, false))
}

func (s *Server) listInstances(w http.ResponseWriter, r *http.Request) error {
	if err := acceptJSON(r); err != nil {
		return err
	}
	f, err := s.Functions.Function(r.Context(), name(r))
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, s.status(f.Name))
}

// acceptJSON refuses clients that cannot take JSON.
func acceptJSON(r *http.Request) error {
	_, err := accept(r, "application/json")
	return err
}

// readJSON reads a JSON document strictly; no body at all leaves v as it is.
func readJSON(w http.ResponseWriter, r *http.Request, limit int64, v any) error {
	media, _, err := contentType(r)
	if err != nil {
		return err
	}
	decoder := json.NewDecoder(http.MaxBytesReader(w, r.Body, limit))
	decoder.DisallowUnknownFields()
	switch err := decoder.Decode(v); {
	case err == io.EOF:
		return nil
	case media != "application/json":
		return problem.UnsupportedMedia(media, []string{"application/json"})
	case err != nil:
		return jsonError(err)
	}
	if _, err := decoder.Token(); err != io.EOF {
		return problem.Malformed("the body goes on after its JSON document")
	}
	return nil
}

// jsonError keeps the body's own errors and blames the document for the rest.
func jsonError(err error) error {
	_, classed := errors.AsType[*orchestrator.Error](err)
	_, limit := errors.AsType[*http.MaxBytesError](err)
	if classed || limit {
		return err
	}
	return problem.Malformed("the body is not the JSON that is expected: %v", err)
}

// writeBody answers with a body whose size is known.
func writeBody(w http.ResponseWriter, status int, media string, body []byte) error {
	w.Header().Set("Content-Type", media)
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	w.Write(body) // a client that has left is no error of ours
	return nil
}
