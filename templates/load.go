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

const loadEnvName = "env.json"

// LoadHead returns the beginning of a load: a tar entry with the function's
// environment, without the end of a tar.
func LoadHead(env map[string]string) ([]byte, error) {
	if env == nil {
		env = map[string]string{}
	}
	data, err := json.Marshal(env)
	if err != nil {
		return nil, fmt.Errorf("encode the environment: %w", err)
	}
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	header := &tar.Header{Typeflag: tar.TypeReg, Name: loadEnvName, Size: int64(len(data)), Mode: 0o600, Format: tar.FormatUSTAR}
	if err := w.WriteHeader(header); err != nil {
		return nil, fmt.Errorf("write the environment: %w", err)
	}
	if _, err := w.Write(data); err != nil {
		return nil, fmt.Errorf("write the environment: %w", err)
	}
	if err := w.Flush(); err != nil {
		return nil, fmt.Errorf("write the environment: %w", err)
	}
	return out.Bytes(), nil
}
