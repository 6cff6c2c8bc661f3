package templates

import (
	"bytes"
	"fmt"
	"strings"
	"text/template"

	"github.com/kilnfaas/kiln/orchestrator"
)

// renderedSuffix marks scaffold files that are text/templates of scaffoldData;
// the suffix is dropped. It also keeps a go.mod from making a module of its
// folder, which could then not be embedded.
const renderedSuffix = ".tmpl"

// scaffoldData is what a scaffold may mention.
type scaffoldData struct {
	Name   string // of the function: "resize-image"
	Symbol string // the same as an identifier: "resize_image"
}

// Scaffold returns the files of a new function by path: a handler that answers,
// a test of it, function.yaml, README.md and the language's dependency
// manifest. Errors are ErrNotFound for the template and ErrInvalid for the name.
func (c *Catalogue) Scaffold(templateName, functionName string) (map[string]File, error) {
	e, err := c.entry(templateName)
	if err != nil {
		return nil, err
	}
	if err := orchestrator.ValidateName(functionName); err != nil {
		return nil, err
	}
	data := scaffoldData{Name: functionName, Symbol: Symbol(functionName)}
	files := make(map[string]File, len(e.scaffold))
	for name, f := range e.scaffold {
		rendered, isTemplate := strings.CutSuffix(name, renderedSuffix)
		if !isTemplate {
			files[name] = f
			continue
		}
		t, err := template.New(name).Option("missingkey=error").Parse(string(f.Data))
		if err != nil {
			return nil, fmt.Errorf("scaffold of %s: %w", templateName, err)
		}
		var out bytes.Buffer
		if err := t.Execute(&out, data); err != nil {
			return nil, fmt.Errorf("scaffold of %s: %w", templateName, err)
		}
		files[rendered] = File{Data: out.Bytes(), Mode: f.Mode}
	}
	return files, nil
}

// Symbol returns the exported symbol that a function's name stands for in
// languages where names have no '-'.
func Symbol(functionName string) string { return strings.ReplaceAll(functionName, "-", "_") }
