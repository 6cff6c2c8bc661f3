package docker

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// maxMessage bounds one line of a progress stream. BuildKit sends its trace in
// lines of some kilobytes; a single one can carry a whole step's output.
const maxMessage = 8 << 20

// message is one line of what the engine writes while it builds or pulls.
type message struct {
	ID             string          `json:"id"`
	Stream         string          `json:"stream"`
	Status         string          `json:"status"`
	Error          string          `json:"error"`
	Aux            json.RawMessage `json:"aux"`
	ProgressDetail struct {
		Current int64 `json:"current"`
		Total   int64 `json:"total"`
	} `json:"progressDetail"`
}

// errProgress is a stream that is not what an engine writes.
var errProgress = errors.New("the engine's progress stream is malformed")

// readMessages calls f for each message until the stream ends.
func readMessages(r io.Reader, f func(message)) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxMessage)
	for lines.Scan() {
		line := bytes.TrimSpace(lines.Bytes())
		if len(line) == 0 {
			continue
		}
		var m message
		if err := json.Unmarshal(line, &m); err != nil {
			return fmt.Errorf("%w: %w", errProgress, err)
		}
		f(m)
	}
	return lines.Err()
}
