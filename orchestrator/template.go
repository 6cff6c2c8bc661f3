package orchestrator

// Template is a language: how an archive becomes an image and what its
// container promises. Templates are values; the templates package reads them.
type Template struct {
	Name        string `json:"name"`
	Description string `json:"description"`
	Digest      string `json:"digest"` // "sha256:…" of all its files
	// Handlers are the files that may hold the handler when a spec names none,
	// in order of preference, for example handler.py.
	Handlers []string `json:"handlers"`
	// HTTPReady is whether GET /_kiln/ready tells readiness; else the port
	// accepting does.
	HTTPReady bool `json:"http_ready"`
	// Cells is whether a container of the template can load code later.
	Cells bool `json:"cells"`
	// Bases are the upstream images its Dockerfile builds on.
	Bases []Base `json:"bases"`
	// Defaults replace DefaultSpec's where not zero.
	Defaults TemplateDefaults `json:"defaults"`
}

// TemplateDefaults are settings that suit a language.
type TemplateDefaults struct {
	Concurrency int   `json:"concurrency,omitempty"`
	Memory      Bytes `json:"memory,omitempty"`
}

// Base is an image that a Dockerfile builds on: present locally, else pulled,
// else built from Fallback, a Dockerfile that needs debian:trixie-slim and a
// package mirror only.
type Base struct {
	Image    string `json:"image"`    // upstream reference, for example python:3.13-slim-trixie
	Arg      string `json:"arg"`      // the Dockerfile ARG that receives the resolved reference
	Fallback string `json:"fallback"` // tag of the fallback, for example kiln-base/python:3.13; empty = none
}
