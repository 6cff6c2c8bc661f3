package docker

import (
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/kilnfaas/kiln/orchestrator"
)

// Field numbers of BuildKit's control API (moby.buildkit.v1, api/services/
// control/control.proto), as far as they are read here. They are stable: old
// clients read new daemons with them.
const (
	statusVertexes = 1 // repeated Vertex, of StatusResponse
	statusLogs     = 3 // repeated VertexLog

	vertexDigest    = 1
	vertexName      = 3
	vertexCached    = 4
	vertexStarted   = 5 // Timestamp
	vertexCompleted = 6 // Timestamp
	vertexError     = 7

	logVertex    = 1
	logTimestamp = 2 // Timestamp
	logStream    = 3 // 1 stdout, 2 stderr
	logMessage   = 4

	timestampSeconds = 1
	timestampNanos   = 2
)

// stderrStream is VertexLog.stream for standard error.
const stderrStream = 2

// BuildKit's own steps, such as loading the Dockerfile, are left out unless they
// fail. Most have a name that begins like this; the copying of a context that
// was sent as a tar has another.
const (
	internalVertex = "[internal] "
	contextVertex  = "copy /context /"
)

func internal(name string) bool {
	return strings.HasPrefix(name, internalVertex) || name == contextVertex
}

// cancelledVertex is the error of a step that ended because another failed.
const cancelledVertex = "context canceled"

// vertex is a step as BuildKit reports it.
type vertex struct {
	digest, name, err  string
	cached             bool
	started, completed time.Time
}

// vertexLog is output of a step.
type vertexLog struct {
	vertex string
	time   time.Time
	stderr bool
	text   []byte
}

// buildkitProgress reads the trace of a BuildKit build.
type buildkitProgress struct {
	log      *buildLog
	vertexes map[string]*buildStep // by digest
}

// trace takes one StatusResponse.
func (p *buildkitProgress) trace(data []byte) error {
	vertexes, logs, err := decodeStatus(data)
	if err != nil {
		return err
	}
	for _, v := range vertexes {
		p.vertex(v)
	}
	for _, l := range logs {
		if s := p.vertexes[l.vertex]; s != nil {
			p.log.write(s, l.stderr, l.text, l.time)
		}
	}
	return nil
}

func (p *buildkitProgress) vertex(v vertex) {
	failed := v.err != "" && !strings.Contains(v.err, cancelledVertex)
	step := p.vertexes[v.digest]
	if step == nil {
		if v.started.IsZero() || (internal(v.name) && !failed) {
			return
		}
		step = p.log.step(v.name)
		if p.vertexes == nil {
			p.vertexes = map[string]*buildStep{}
		}
		p.vertexes[v.digest] = step
	}
	if !v.started.IsZero() {
		p.log.start(step, v.started)
	}
	switch {
	case failed:
		at := v.completed
		if at.IsZero() {
			at = v.started
		}
		p.log.end(step, orchestrator.StepFailed, at)
	case v.completed.IsZero() || v.err != "": // running, or ended by another's failure
	case v.cached:
		p.log.end(step, orchestrator.StepCached, v.completed)
	default:
		p.log.end(step, orchestrator.StepDone, v.completed)
	}
}

func decodeStatus(data []byte) (vertexes []vertex, logs []vertexLog, err error) {
	err = fields(data, func(number protowire.Number, value []byte, _ uint64) error {
		switch number {
		case statusVertexes:
			v, err := decodeVertex(value)
			vertexes = append(vertexes, v)
			return err
		case statusLogs:
			l, err := decodeLog(value)
			logs = append(logs, l)
			return err
		}
		return nil
	})
	return vertexes, logs, err
}

func decodeVertex(data []byte) (v vertex, err error) {
	err = fields(data, func(number protowire.Number, value []byte, varint uint64) (err error) {
		switch number {
		case vertexDigest:
			v.digest = string(value)
		case vertexName:
			v.name = strings.ToValidUTF8(string(value), "\uFFFD")
		case vertexCached:
			v.cached = varint != 0
		case vertexStarted:
			v.started, err = decodeTime(value)
		case vertexCompleted:
			v.completed, err = decodeTime(value)
		case vertexError:
			v.err = string(value)
		}
		return err
	})
	return v, err
}

func decodeLog(data []byte) (l vertexLog, err error) {
	err = fields(data, func(number protowire.Number, value []byte, varint uint64) (err error) {
		switch number {
		case logVertex:
			l.vertex = string(value)
		case logTimestamp:
			l.time, err = decodeTime(value)
		case logStream:
			l.stderr = varint == stderrStream
		case logMessage:
			l.text = value
		}
		return err
	})
	return l, err
}

func decodeTime(data []byte) (time.Time, error) {
	var seconds, nanos uint64
	err := fields(data, func(number protowire.Number, _ []byte, varint uint64) error {
		switch number {
		case timestampSeconds:
			seconds = varint
		case timestampNanos:
			nanos = varint
		}
		return nil
	})
	return time.Unix(int64(seconds), int64(nanos)).UTC(), err
}

// fields calls f for each field of a protobuf message, with the bytes of a
// length-delimited field or the number of a varint. Fields of other types are
// skipped, as a reader of protobuf does with what it does not know.
func fields(data []byte, f func(number protowire.Number, value []byte, varint uint64) error) error {
	for len(data) > 0 {
		number, kind, n := protowire.ConsumeTag(data)
		if n < 0 {
			return fmt.Errorf("%w: %w", errProgress, protowire.ParseError(n))
		}
		data = data[n:]
		var value []byte
		var varint uint64
		switch kind {
		case protowire.BytesType:
			value, n = protowire.ConsumeBytes(data)
		case protowire.VarintType:
			varint, n = protowire.ConsumeVarint(data)
		default:
			if n = protowire.ConsumeFieldValue(number, kind, data); n >= 0 {
				data = data[n:]
				continue
			}
		}
		if n < 0 {
			return fmt.Errorf("%w: %w", errProgress, protowire.ParseError(n))
		}
		data = data[n:]
		if err := f(number, value, varint); err != nil {
			return err
		}
	}
	return nil
}
