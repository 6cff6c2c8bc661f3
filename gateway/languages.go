package gateway

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"io/fs"
	"net/http"

	"github.com/kilnfaas/kiln/gateway/api"
	"github.com/kilnfaas/kiln/orchestrator"
)

func (s *Server) listTemplates(w http.ResponseWriter, r *http.Request) error {
	if err := acceptJSON(r); err != nil {
		return err
	}
	templates := s.Templates.Templates()
	if templates == nil {
		templates = []orchestrator.Template{}
	}
	return writeJSON(w, http.StatusOK, api.TemplateList{Templates: templates})
}

func (s *Server) getTemplate(w http.ResponseWriter, r *http.Request) error {
	if err := acceptJSON(r); err != nil {
		return err
	}
	template, err := s.Templates.Template(name(r))
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, template)
}

// defaultFunction is the name a scaffold is written for when none is given.
const defaultFunction = "hello"

func (s *Server) scaffold(w http.ResponseWriter, r *http.Request) error {
	if _, err := accept(r, "application/gzip"); err != nil {
		return err
	}
	function := defaultFunction
	if given := r.URL.Query(); given.Has("name") {
		function = given.Get("name")
	}
	files, err := s.Templates.Scaffold(name(r), function)
	if err != nil {
		return err
	}
	packed, err := pack(files)
	if err != nil {
		return fmt.Errorf("pack the scaffold of %s: %w", name(r), err)
	}
	w.Header().Set("Content-Disposition", fmt.Sprintf("attachment; filename=%q", function+".tar.gz"))
	return writeBody(w, http.StatusOK, "application/gzip", packed)
}

// pack returns files as a tar.gz. Scaffolds are a few kilobytes.
func pack(files fs.FS) ([]byte, error) {
	var out bytes.Buffer
	compressed := gzip.NewWriter(&out)
	archive := tar.NewWriter(compressed)
	if err := archive.AddFS(files); err != nil {
		return nil, err
	}
	if err := archive.Close(); err != nil {
		return nil, err
	}
	if err := compressed.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}
