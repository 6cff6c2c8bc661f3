package gateway

import (
	"io"
	"strings"
)

// Table returns the rows of the API as method and path.
func (s *Server) Table() [][2]string {
	var rows [][2]string
	for _, r := range s.table() {
		rows = append(rows, [2]string{r.method, strings.ReplaceAll(r.path, rest, "{path}")})
	}
	return rows
}

// Theirs is what KnownParameters has for a route whose query is not Kiln's.
var Theirs = []string(theirs)

// Repeated follows the name of a parameter that may be given more than once.
const Repeated = repeated

// KnownParameters returns the query parameters of each row of Table.
func (s *Server) KnownParameters() [][]string {
	var known [][]string
	for _, r := range s.table() {
		known = append(known, r.query)
	}
	return known
}

// UploadForm reads the form of POST /upload and returns its values and file.
func UploadForm(body io.Reader, boundary, dir string) (map[string][]byte, []byte, error) {
	form, err := readForm(body, boundary, dir, uploadFields)
	if err != nil {
		return nil, nil, err
	}
	defer form.Close()
	file, err := io.ReadAll(form.file)
	return form.values, file, err
}

// SpoolMemory is the size of uploads from which on they are kept in a file.
const SpoolMemory = spoolMemory

// Bounds of forms.
const (
	MaxField = maxField
	MaxSpec  = maxSpec
)
