package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"

	"github.com/kilnfaas/kiln/gateway/api"
	"github.com/kilnfaas/kiln/gateway/problem"
	"github.com/kilnfaas/kiln/orchestrator"
)

// archiveMedia are the types of a body that is an archive. What it really is its
// content tells; the list only keeps out what is none. curl sends the last one
// unless told otherwise.
var archiveMedia = map[string]bool{
	"":                                  true,
	"application/octet-stream":          true,
	"application/x-tar":                 true,
	"application/gzip":                  true,
	"application/x-gzip":                true,
	"application/zstd":                  true,
	"application/zip":                   true,
	"application/x-zip-compressed":      true,
	"application/x-www-form-urlencoded": true,
}

const mediaForm = "multipart/form-data"

// The fields of the forms.
var (
	deployFields = []field{
		{name: api.FieldArchive, file: true},
		{name: api.FieldSpec, max: maxSpec},
	}
	uploadFields = []field{
		{name: api.FieldFile, file: true},
		{name: api.FieldName, max: maxField},
		{name: api.FieldTemplate, max: maxField},
		{name: api.FieldSpec, max: maxSpec},
	}
)

// putFunction deploys an archive under the name in the path, which overrides the
// one in function.yaml and in the settings.
func (s *Server) putFunction(w http.ResponseWriter, r *http.Request) error {
	name := name(r)
	if err := orchestrator.ValidateName(name); err != nil {
		return err
	}
	media, parameters, err := contentType(r)
	if err != nil {
		return err
	}
	s.boundBody(w, r)
	switch {
	case media == mediaForm:
		form, err := readForm(r.Body, parameters["boundary"], s.SpoolDir, deployFields)
		if err != nil {
			return err
		}
		defer form.Close()
		return s.deploy(w, r, upload{body: form.file, filename: form.filename, settings: settings{
			document("the field spec", form.values[api.FieldSpec]), override("the path", map[string]string{"name": name}),
		}})
	case archiveMedia[media]:
		return s.deploy(w, r, upload{body: r.Body, settings: settings{override("the path", map[string]string{"name": name})}})
	}
	return problem.UnsupportedMedia(media, []string{mediaForm, "an archive as application/octet-stream"})
}

// upload deploys an archive or a single source file from a form.
func (s *Server) upload(w http.ResponseWriter, r *http.Request) error {
	media, parameters, err := contentType(r)
	if err != nil {
		return err
	}
	if media != mediaForm {
		return problem.UnsupportedMedia(media, []string{mediaForm})
	}
	s.boundBody(w, r)
	form, err := readForm(r.Body, parameters["boundary"], s.SpoolDir, uploadFields)
	if err != nil {
		return err
	}
	defer form.Close()
	named := map[string]string{}
	for _, key := range []string{api.FieldName, api.FieldTemplate} {
		if value := form.values[key]; len(value) > 0 {
			named[key] = string(value)
		}
	}
	return s.deploy(w, r, upload{body: form.file, filename: form.filename, settings: settings{
		document("the field spec", form.values[api.FieldSpec]), override("the form", named),
	}})
}

// boundBody bounds the body of a deploy. The archive's own limit is the
// intake's, whose error says more.
func (s *Server) boundBody(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, int64(s.MaxArchive)+formRest)
}

// deploy takes an upload in, deploys it and answers: with the stream of events
// if the client accepts it, else with the result alone.
func (s *Server) deploy(w http.ResponseWriter, r *http.Request, u upload) error {
	media, err := accept(r, "application/json", api.MediaNDJSON)
	if err != nil {
		return err
	}
	d, err := s.receive(r, u)
	if err != nil {
		return err
	}
	if err := callerOf(r).For(d.Spec.Name); err != nil { // the name may have been in the archive
		return err
	}
	before, err := s.Functions.Function(r.Context(), d.Spec.Name)
	if err != nil && !errors.Is(err, orchestrator.ErrNotFound) {
		return err
	}
	created := before.Live == ""
	ctx, cancel := s.untilStopped(r.Context())
	defer cancel()

	if media != api.MediaNDJSON {
		f, revision, err := s.Functions.Deploy(ctx, d, func(orchestrator.BuildEvent) {})
		if err != nil {
			return deployError(err)
		}
		status := http.StatusOK
		if created {
			status = http.StatusCreated
			w.Header().Set("Location", functionURL(f.Name))
		}
		return writeJSON(w, status, s.deployment(f, revision, created))
	}
	stream := newEvents(w.(*answer))
	f, revision, err := s.Functions.Deploy(ctx, d, stream.progress)
	if err != nil {
		err = deployError(err)
		id := w.Header().Get(api.HeaderRequestID)
		stream.last(api.Event{Kind: api.EventError, Problem: problem.Document(err, id)})
		return err // answered already, but perhaps for the log
	}
	stream.last(api.Event{Kind: api.EventResult, Deployment: new(s.deployment(f, revision, created))})
	return nil
}

// untilStopped returns a context for following a deploy: it ends with the
// client, or with a reason when the gateway stops.
func (s *Server) untilStopped(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	release := context.AfterFunc(s.deploysEnd, func() { cancel(context.Cause(s.deploysEnd)) })
	return ctx, func() {
		release()
		cancel(context.Canceled)
	}
}

// deployError gives the function's own failures the status they have here:
// what was sent cannot be deployed. No gateway is bad.
func deployError(err error) error {
	if errors.Is(err, orchestrator.ErrFunction) {
		return problem.WithStatus(http.StatusUnprocessableEntity, err)
	}
	return err
}

// deployment is the wire form of what a change made.
func (s *Server) deployment(f orchestrator.Function, revision orchestrator.Revision, created bool) api.Deployment {
	return api.Deployment{Function: s.function(f), Revision: revision, Created: created}
}

// writeJSON answers with a JSON document.
func writeJSON(w http.ResponseWriter, status int, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return writeBody(w, status, "application/json", append(body, '\n'))
}
