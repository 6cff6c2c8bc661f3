// Package api is the wire form of Kiln's HTTP interface, and a client for it.
//
// The types are what the gateway reads and writes; docs/openapi.yaml describes
// the same in OpenAPI. Client has a method for each route. An answer that is
// not a success becomes an *Error, which carries what the problem document
// said and unwraps to the domain's error class, so that callers ask
// errors.Is(err, orchestrator.ErrNotFound).
package api

// Headers of requests and answers.
const (
	// HeaderRequestID is on every answer; a valid one in the request is kept.
	HeaderRequestID = "Kiln-Request-Id"
	// HeaderError is on answers that are not the function's own: FaultPlatform
	// or FaultFunction.
	HeaderError = "Kiln-Error"
	// HeaderRevision tells which revision answered an invocation.
	HeaderRevision = "Kiln-Revision"
	// HeaderFunction names the function an instance serves.
	HeaderFunction = "Kiln-Function"
	// HeaderDeadline tells an instance when the invocation ends: Unix
	// milliseconds.
	HeaderDeadline = "Kiln-Deadline"
	// HeaderInstanceToken shows an instance that a call comes through the gateway.
	// Its runtime takes it away before the handler sees it.
	HeaderInstanceToken = "Kiln-Instance-Token"
)

// Values of HeaderError.
const (
	FaultPlatform = "platform"
	FaultFunction = "function"
)

// Media types beside application/json.
const (
	MediaProblem = "application/problem+json" // RFC 9457
	MediaNDJSON  = "application/x-ndjson"     // one JSON document a line
	MediaPatch   = "application/merge-patch+json"
	MediaYAML    = "application/yaml"
)

// Fields of the multipart forms.
const (
	FieldArchive  = "archive"  // PUT /v1/functions/{name}: the archive
	FieldSpec     = "spec"     // settings in YAML or JSON, merged over function.yaml
	FieldFile     = "file"     // POST /upload: an archive or one source file
	FieldName     = "name"     // POST /upload: the function's name
	FieldTemplate = "template" // POST /upload: the template's name
)
