package templates

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
)

// What a cell is loaded with: POST LoadPath, "Authorization: Bearer TOKEN",
// body = LoadHead followed by a tar of CodePath's files under "function/", as
// the engine gives it. docs/templates.md has the answers.
const (
	LoadPath = "/_kiln/load"
	// CellTarget is the Dockerfile stage whose image is a cell of the template.
	CellTarget = "cell"
	// EnvCell and EnvCellToken make a container of that image a cell.
	EnvCell      = "KILN_CELL"       // "1"
	EnvCellToken = "KILN_CELL_TOKEN" // one-time, for one load
)

// Entries of a load that come before the code.
const (
	loadEnvName     = "env.json"
	loadSecretsName = "secrets.json"
)

// LoadHead returns the beginning of a load: tar entries with the function's
// environment and, if it has some, its secrets, without the end of a tar.
func LoadHead(env map[string]string, secrets map[string][]byte) ([]byte, error) {
	if env == nil {
		env = map[string]string{}
	}
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	if err := writeJSON(w, loadEnvName, env); err != nil {
		return nil, fmt.Errorf("write the environment: %w", err)
	}
	if len(secrets) > 0 {
		if err := writeJSON(w, loadSecretsName, secrets); err != nil {
			return nil, fmt.Errorf("write the secrets: %w", err)
		}
	}
	if err := w.Flush(); err != nil {
		return nil, fmt.Errorf("begin a load: %w", err)
	}
	return out.Bytes(), nil
}

// writeJSON adds a document to a tar. Bytes are in base64.
func writeJSON(w *tar.Writer, name string, document any) error {
	data, err := json.Marshal(document)
	if err != nil {
		return err
	}
	header := &tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(len(data)), Mode: 0o600, Format: tar.FormatUSTAR}
	if err := w.WriteHeader(header); err != nil {
		return err
	}
	_, err = w.Write(data)
	return err
}
