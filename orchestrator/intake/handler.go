package intake

import (
	"debug/elf"
	"errors"
	"fmt"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"path"
	"runtime"
	"slices"
	"strings"

	"github.com/kilnfaas/kiln/orchestrator"
)

// librarySuffix ends the name of a shared library.
const librarySuffix = ".so"

// checkHandler looks for the file that holds the handler and, for the languages
// that can be read here, into it.
func checkHandler(fsys fs.FS, template orchestrator.Template, spec orchestrator.Spec) error {
	patterns := template.HandlerFiles(spec.Handler)
	found, err := handlerFiles(fsys, patterns)
	if err != nil {
		return err
	}
	if len(found) == 0 {
		return missing(fsys, template, patterns)
	}
	if path.Ext(found[0]) == librarySuffix {
		libraries := slices.DeleteFunc(slices.Clone(found), func(name string) bool { return path.Ext(name) != librarySuffix })
		// Beside one that is named, others may be what it depends on.
		if len(libraries) > 1 && !slices.Contains(patterns, found[0]) {
			return invalid("handler-ambiguous", "there are several libraries: %s", some(libraries)).
				WithHint("name one with handler, for example handler: %s", found[0])
		}
		found = found[:1]
	}
	var first error
	for _, name := range found {
		err := verify(fsys, template, spec, name)
		if err == nil {
			return nil
		}
		if first == nil {
			first = err
		}
	}
	return first
}

func missing(fsys fs.FS, template orchestrator.Template, patterns []string) error {
	// A handler that the settings name is looked for as a file and as a folder.
	wanted := slices.DeleteFunc(slices.Clone(patterns), func(p string) bool { return strings.HasSuffix(p, "/*") })
	err := invalid("handler-missing", "the template %s needs %s, and the archive holds %s", template.Name, strings.Join(wanted, " or "), topLevel(fsys))
	if folder := topFolder(fsys); folder != "" {
		if sub, subErr := fs.Sub(fsys, folder); subErr == nil {
			if found, matchErr := handlerFiles(sub, patterns); matchErr == nil && len(found) > 0 {
				return err.WithHint("%s is in the folder %s: pack what is inside that folder, not the folder (tar -C %s -czf code.tar.gz .)", found[0], folder, folder)
			}
		}
		return err.WithHint("all of it is in the folder %s: pack what is inside that folder, or name the file with handler", folder)
	}
	return err.WithHint("add the file, name another one with handler, or choose another template")
}

// verify looks into a file that may be the handler. Which look it is depends on
// the file, not on the template.
func verify(fsys fs.FS, template orchestrator.Template, spec orchestrator.Spec, name string) error {
	switch path.Ext(name) {
	case ".go":
		return verifyGo(fsys, name)
	case librarySuffix:
		return verifyLibrary(fsys, spec, name)
	}
	return nil
}

const (
	// goPackage is the package of a Go function.
	goPackage = "function"
	// maxGoFile bounds what is parsed of a file to find its package.
	maxGoFile = 256 << 10
)

// verifyGo says whether a file belongs to the package of a Go function.
func verifyGo(fsys fs.FS, name string) error {
	if strings.HasSuffix(name, "_test.go") {
		return invalid("handler-missing", "%s is a test, and there is no other Go file", name).WithHint("add a file of package %s with func Handle", goPackage)
	}
	f, err := fsys.Open(name)
	if err != nil {
		return temporary(err)
	}
	defer f.Close() // read only
	source, err := io.ReadAll(io.LimitReader(f, maxGoFile))
	if err != nil {
		return temporary(err)
	}
	parsed, err := parser.ParseFile(token.NewFileSet(), name, source, parser.PackageClauseOnly)
	if err != nil {
		return invalid("handler-invalid", "%s is not Go: %w", name, err).WithHint("begin it with: package %s", goPackage)
	}
	if parsed.Name.Name != goPackage {
		return invalid("handler-invalid", "%s is of package %s", name, parsed.Name.Name).WithHint("make it package %s with func Handle(http.ResponseWriter, *http.Request)", goPackage)
	}
	return nil
}

// machines are the ELF names of what Go runs on.
var machines = map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}

// verifyLibrary says whether a file is a shared library for this machine that
// exports the function's symbol. Without a name only the file is looked at.
func verifyLibrary(fsys fs.FS, spec orchestrator.Spec, name string) error {
	const hint = "build it with `cc -shared -fPIC -o function.so function.c` for linux/" + runtime.GOARCH
	f, err := fsys.Open(name)
	if err != nil {
		return temporary(err)
	}
	defer f.Close() // read only
	seekable, ok := f.(io.ReaderAt)
	if !ok {
		return temporary(fmt.Errorf("%s cannot be read at an offset", name))
	}
	library, err := elf.NewFile(seekable)
	if err != nil {
		return invalid("library-invalid", "%s is not a shared library: %w", name, err).WithHint(hint)
	}
	if library.Type != elf.ET_DYN {
		return invalid("library-invalid", "%s is not a shared library but %s", name, library.Type).WithHint(hint)
	}
	if library.Machine != machines[runtime.GOARCH] {
		return invalid("library-architecture", "%s is for %s", name, library.Machine).WithHint(hint)
	}
	symbol := symbolOf(spec)
	if symbol == "" {
		return nil
	}
	exported, err := exports(library)
	if err != nil {
		return invalid("library-invalid", "the symbols of %s cannot be read: %w", name, err).WithHint(hint)
	}
	if !slices.Contains(exported, symbol) {
		return invalid("library-symbol", "%s does not export %s but %s", name, symbol, some(exported)).
			WithHint("name the C function %s, or name another one with handler: \":SYMBOL\"", symbol)
	}
	return nil
}

// symbolOf is the symbol that the function is called by: the one that handler
// names, or the function's name with dashes as underscores.
func symbolOf(spec orchestrator.Spec) string {
	if _, name, ok := strings.Cut(spec.Handler, ":"); ok {
		return name
	}
	return strings.ReplaceAll(spec.Name, "-", "_")
}

// exports returns the functions that a library defines for others.
func exports(library *elf.File) ([]string, error) {
	symbols, err := library.DynamicSymbols()
	if errors.Is(err, elf.ErrNoSymbols) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var names []string
	for _, s := range symbols {
		bind, kind := elf.ST_BIND(s.Info), elf.ST_TYPE(s.Info)
		if s.Section != elf.SHN_UNDEF && (bind == elf.STB_GLOBAL || bind == elf.STB_WEAK) && (kind == elf.STT_FUNC || kind == elf.STT_GNU_IFUNC) && s.Name != "_init" && s.Name != "_fini" {
			names = append(names, s.Name)
		}
	}
	return names, nil
}

// some lists a few names.
func some(names []string) string {
	const most, longest = 5, 40
	if len(names) == 0 {
		return "nothing"
	}
	var shown []string
	for _, name := range names[:min(most, len(names))] {
		if len(name) > longest {
			name = name[:longest] + "…"
		}
		shown = append(shown, fmt.Sprintf("%q", name))
	}
	if len(names) > most {
		shown = append(shown, "…")
	}
	return strings.Join(shown, ", ")
}
