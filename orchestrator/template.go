package orchestrator

import (
	"path"
	"strings"
)

// Template is a language: how an archive becomes an image and what its
// container promises. Templates are values; the templates package reads them.
type Template struct {
	Name        string `json:"name"`
	Description string `json:"description"`
	Digest      string `json:"digest"` // "sha256:…" of all its files
	// Handlers are the files that may hold the handler when a spec names none,
	// in order of preference: paths or path.Match patterns, for example
	// handler.py or *.so.
	Handlers []string `json:"handlers"`
	// CodeDir is the folder of the build context that receives the function's
	// files. With "." they are the context, and the handler is its Dockerfile.
	CodeDir string `json:"code_dir"`
	// HTTPReady is whether its runtime keeps the contract of docs/templates.md: GET
	// /_kiln/ready tells readiness, and calls show the instance's token. Else the
	// port accepting tells readiness.
	HTTPReady bool `json:"http_ready"`
	// Cells is whether a container of the template can load code later.
	Cells bool `json:"cells"`
	// Bases are the upstream images its Dockerfile builds on.
	Bases []Base `json:"bases"`
	// Fetches are what makes a build fetch something; none = it needs no network
	// but for system packages.
	Fetches []Fetch `json:"-"`
	// Defaults replace DefaultSpec's where not zero.
	Defaults TemplateDefaults `json:"defaults"`
}

// DefaultCodeDir is the CodeDir of templates with a Dockerfile of their own.
const DefaultCodeDir = "function"

// HandlerFiles returns the path.Match patterns of which a function's files must
// match at least one. handler is Spec.Handler: "FILE", "FILE:NAME" or ":NAME",
// where FILE may also be a folder; without a FILE the template's Handlers count.
func (t Template) HandlerFiles(handler string) []string {
	file, _, _ := strings.Cut(handler, ":")
	if file == "" {
		return t.Handlers
	}
	file = path.Clean(file)
	if file == "." {
		return []string{"*"}
	}
	return []string{file, file + "/*"}
}

// Dockerfile returns the path of the Dockerfile in the build context of a
// function with the given Spec.Handler.
func (t Template) Dockerfile(handler string) string {
	if t.CodeDir == "." && handler != "" {
		return path.Clean(handler)
	}
	return "Dockerfile"
}

// TemplateDefaults are settings that suit a language.
type TemplateDefaults struct {
	Concurrency int   `json:"concurrency,omitempty"`
	Memory      Bytes `json:"memory,omitempty"`
}

// Fetch is a kind of file for whose sake a build fetches something.
type Fetch struct {
	File  string // path.Match pattern of its name, in whatever folder
	Match string // regular expression for what is in it; empty = whatever is in it
}

// Base is an image that a Dockerfile builds on: present locally, else pulled,
// else built from Fallback, a Dockerfile that needs debian:trixie-slim and a
// package mirror only.
type Base struct {
	Image    string `json:"image"`    // upstream reference, for example python:3.13-slim-trixie
	Arg      string `json:"arg"`      // the Dockerfile ARG that receives the resolved reference
	Fallback string `json:"fallback"` // tag of the fallback, for example kiln-base/python:3.13; empty = none
}
