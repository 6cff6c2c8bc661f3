// Package docs holds the documents that the binary serves.
package docs

import _ "embed"

// OpenAPI is the description of the HTTP interface, in YAML.
//
//go:embed openapi.yaml
var OpenAPI []byte
