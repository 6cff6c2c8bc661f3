package templates

import (
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"strings"

	"github.com/goccy/go-yaml"

	"github.com/kilnfaas/kiln/orchestrator"
)

const (
	manifestName = "template.yaml"
	scaffoldDir  = "scaffold"
	basesDir     = "bases"
	sharedDir    = "shared"
	// conformanceDir has functions for the package's tests, one folder each.
	conformanceDir = "conformance"
)

// manifest is template.yaml. The folder's name is the template's.
type manifest struct {
	Description string         `yaml:"description"`
	Handlers    []string       `yaml:"handlers"`
	HTTPReady   bool           `yaml:"http_ready"`
	Cells       bool           `yaml:"cells"`
	CodeDir     string         `yaml:"code_dir"`
	Include     []string       `yaml:"include"`
	Bases       []manifestBase `yaml:"bases"`
	Fetches     []struct {
		File  string `yaml:"file"`
		Match string `yaml:"match"`
	} `yaml:"fetches"`
	Defaults struct {
		Concurrency int                `yaml:"concurrency"`
		Memory      orchestrator.Bytes `yaml:"memory"`
	} `yaml:"defaults"`
}

type manifestBase struct {
	Image    string `yaml:"image"`
	Arg      string `yaml:"arg"`
	Fallback string `yaml:"fallback"`
}

// readManifest reads and checks dir's template.yaml. Unknown keys are errors.
func readManifest(fsys fs.FS, dir string) (manifest, error) {
	var m manifest
	data, err := fs.ReadFile(fsys, dir+"/"+manifestName)
	if err != nil {
		return m, err
	}
	if err := yaml.UnmarshalWithOptions(data, &m, yaml.Strict()); err != nil {
		return m, fmt.Errorf("%s: %s", manifestName, yaml.FormatError(err, false, false))
	}
	if m.CodeDir == "" {
		m.CodeDir = orchestrator.DefaultCodeDir
	}
	return m, m.check(fsys, dir)
}

func (m manifest) check(fsys fs.FS, dir string) error {
	if err := orchestrator.ValidateName(dir); err != nil {
		return fmt.Errorf("the folder's name: %w", err)
	}
	if m.Description == "" {
		return fmt.Errorf("%s: description is missing", manifestName)
	}
	if len(m.Handlers) == 0 {
		return fmt.Errorf("%s: handlers is empty", manifestName)
	}
	for _, pattern := range m.Handlers {
		if _, err := path.Match(pattern, ""); err != nil || !fs.ValidPath(pattern) {
			return fmt.Errorf("%s: handlers: %q is not a relative path or pattern", manifestName, pattern)
		}
	}
	if !fs.ValidPath(m.CodeDir) {
		return fmt.Errorf("%s: code_dir: %q is not a relative path", manifestName, m.CodeDir)
	}
	for _, name := range m.Include {
		if name == basesDir || strings.Contains(name, "/") {
			return fmt.Errorf("%s: include: %q is not a folder of %s/", manifestName, name, sharedDir)
		}
		if _, err := fs.ReadDir(fsys, sharedDir+"/"+name); err != nil {
			return fmt.Errorf("%s: include: %w", manifestName, err)
		}
	}
	for _, fetch := range m.Fetches {
		if _, err := path.Match(fetch.File, ""); err != nil || fetch.File == "" || strings.Contains(fetch.File, "/") {
			return fmt.Errorf("%s: fetches: %q is not the pattern of a file's name", manifestName, fetch.File)
		}
		if _, err := regexp.Compile(fetch.Match); err != nil {
			return fmt.Errorf("%s: fetches: %w", manifestName, err)
		}
	}
	for _, base := range m.Bases {
		if base.Image == "" || base.Arg == "" {
			return fmt.Errorf("%s: a base needs image and arg", manifestName)
		}
		if base.Fallback != "" && !strings.HasPrefix(base.Fallback, FallbackPrefix) {
			return fmt.Errorf("%s: the fallback %q is not under %s", manifestName, base.Fallback, FallbackPrefix)
		}
	}
	return nil
}

// template returns the domain's view of m.
func (m manifest) template(name, digest string) orchestrator.Template {
	t := orchestrator.Template{
		Name:        name,
		Description: m.Description,
		Digest:      digest,
		Handlers:    m.Handlers,
		CodeDir:     m.CodeDir,
		HTTPReady:   m.HTTPReady,
		Cells:       m.Cells,
		Bases:       []orchestrator.Base{},
		Defaults: orchestrator.TemplateDefaults{
			Concurrency: m.Defaults.Concurrency,
			Memory:      m.Defaults.Memory,
		},
	}
	for _, fetch := range m.Fetches {
		t.Fetches = append(t.Fetches, orchestrator.Fetch(fetch))
	}
	for _, base := range m.Bases {
		t.Bases = append(t.Bases, orchestrator.Base(base))
	}
	return t
}
