package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/archive"
	"github.com/kilnfaas/kiln/orchestrator/intake"
	"github.com/kilnfaas/kiln/orchestrator/manifest"
)

// Intake takes an upload in: it checks and stores the archive, reads the
// function.yaml inside, and merges the overrides over it, the last one winning.
// The intake package implements it.
type Intake interface {
	Receive(ctx context.Context, upload intake.Upload) (orchestrator.Spec, string, error)
}

// defaultMaxArchive is what the archive package reads at most.
var defaultMaxArchive = archive.DefaultLimits().Compressed

// upload is what a deploy brings.
type upload struct {
	body     io.Reader
	filename string
	settings settings
}

// receive takes an upload in.
func (s *Server) receive(r *http.Request, u upload) (orchestrator.Deploy, error) {
	body := &remembered{Reader: u.body}
	spec, digest, err := s.Intake.Receive(r.Context(), intake.Upload{Body: body, Filename: u.filename, Overrides: u.settings.given()})
	if err != nil {
		return orchestrator.Deploy{}, body.prefer(err)
	}
	return orchestrator.Deploy{Spec: spec, ArchiveDigest: digest}, nil
}

// remembered is a reader that remembers the error it ended with: whoever reads
// through decompressors and parsers gets theirs instead.
type remembered struct {
	io.Reader
	err error
}

// Read implements io.Reader.
func (b *remembered) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if err != nil && err != io.EOF {
		b.err = err
	}
	return n, err
}

// prefer returns the error of the body if that says more than err: it was too
// large, or too slow.
func (b *remembered) prefer(err error) error {
	_, classed := errors.AsType[*orchestrator.Error](b.err)
	_, limit := errors.AsType[*http.MaxBytesError](b.err)
	if classed || limit {
		return b.err
	}
	return err
}

// settings are documents to merge over others, the last one winning.
type settings []manifest.Document

// document is settings in YAML or JSON as a client sent them; empty is none.
// Name tells people where they came from.
func document(name string, data []byte) manifest.Document {
	return manifest.Document{Name: name, Data: data}
}

// override is settings that are said outside of a document.
func override(name string, values map[string]string) manifest.Document {
	data, err := json.Marshal(values)
	if err != nil {
		panic("gateway: encode settings: " + err.Error()) // strings only
	}
	return manifest.Document{Name: name, Data: data}
}

// given returns the documents that say anything.
func (s settings) given() []manifest.Document {
	return slices.DeleteFunc(slices.Clone(s), func(d manifest.Document) bool { return len(d.Data) == 0 })
}

// change merges the settings over those of a function and checks the result.
func (s *Server) change(spec orchestrator.Spec, patch settings) (orchestrator.Spec, error) {
	spec, err := manifest.Apply(spec, patch.given()...)
	if err != nil {
		return spec, err
	}
	template, err := s.Templates.Template(spec.Template)
	if errors.Is(err, orchestrator.ErrNotFound) {
		// A wrong setting, as in a deploy: the function that the path names is there.
		return spec, orchestrator.Errorf(orchestrator.ErrInvalid, "template-unknown", "there is no template %q", spec.Template).
			WithHint("kiln templates lists them")
	}
	if err != nil {
		return spec, err
	}
	if err := manifest.Validate(spec, template); err != nil {
		return spec, err
	}
	var check func(orchestrator.Trigger) error
	if s.Triggers != nil {
		check = s.Triggers.Check
	}
	return spec, manifest.CheckTriggers(spec, check, patch.given()...)
}
