package archive

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/kilnfaas/kiln/orchestrator"
)

// CheckPath says whether name may be the path of a file inside an archive:
// relative, slash-separated, without empty, "." or ".." components, printable
// UTF-8. The error is ErrInvalid.
func CheckPath(name string) error {
	switch {
	case name == "":
		return invalid("archive-path-empty", "an entry has no name").WithHint(hintRepack)
	case strings.IndexByte(name, 0) >= 0:
		return invalid("archive-path-nul", "the name %q holds a zero byte", show(name)).WithHint(hintRename)
	case !utf8.ValidString(name):
		return invalid("archive-path-encoding", "the name %q is not UTF-8", show(name)).
			WithHint("pack the archive again with a tool that writes UTF-8 names, or rename the file")
	case strings.ContainsRune(name, '\\'):
		return invalid("archive-path-backslash", "the name %q holds a backslash", show(name)).
			WithHint("pack the archive with a tool that separates folders by '/'")
	case strings.ContainsFunc(name, unicode.IsControl):
		return invalid("archive-path-control", "the name %q holds a control character", show(name)).WithHint(hintRename)
	case name[0] == '/' || hasDrive(name):
		return invalid("archive-path-absolute", "the path %q is absolute", show(name)).
			WithHint("pack relative paths, for example with `tar -C DIR -czf code.tar.gz .`")
	}
	for component := range strings.SplitSeq(name, "/") {
		switch component {
		case "..":
			return invalid("archive-path-escapes", "the path %q leaves the archive", show(name)).
				WithHint("pack the folder that holds the code, without '..' in paths")
		case "", ".":
			return invalid("archive-path-unclean", "the path %q has an empty or '.' component", show(name)).WithHint(hintRepack)
		}
	}
	return nil
}

func hasDrive(name string) bool {
	letter := name[0] | 0x20
	return len(name) >= 3 && letter >= 'a' && letter <= 'z' && name[1] == ':' && name[2] == '/'
}

// tree is the set of paths of one archive so far.
type tree struct {
	limits  Limits
	nodes   map[string]node // by folded path
	files   int
	folders int
}

type node struct {
	path   string
	folder bool
}

func newTree(limits Limits) *tree {
	return &tree{limits: limits, nodes: map[string]node{}}
}

// add checks the raw name of an entry and takes it in. It returns the clean
// path, and the folders to be made first, outermost first. The archive's own
// root ("./") gives an empty path and nothing to do.
func (t *tree) add(raw string, folder bool) (path string, folders []string, err error) {
	path = raw
	for strings.HasPrefix(path, "./") {
		path = path[len("./"):]
	}
	if folder {
		path = strings.TrimSuffix(path, "/")
		if raw != "" && (path == "" && raw[0] != '/' || path == ".") {
			return "", nil, nil
		}
	}
	if path == "" && raw != "" {
		path = raw // so that the message shows what was sent
	}
	if err := CheckPath(path); err != nil {
		return "", nil, err
	}
	if err := t.bound(path); err != nil {
		return "", nil, err
	}
	for i, c := range path {
		if c != '/' {
			continue
		}
		added, err := t.put(path[:i], true)
		if err != nil {
			return "", nil, err
		}
		if added {
			folders = append(folders, path[:i])
		}
	}
	added, err := t.put(path, folder)
	if err != nil {
		return "", nil, err
	}
	if folder && added {
		folders = append(folders, path)
	}
	return path, folders, nil
}

// bound checks the sizes of a path.
func (t *tree) bound(path string) error {
	if len(path) > t.limits.Path {
		return tooLarge("archive-path-too-long", "the path %q has %d bytes, %d are allowed", show(path), len(path), t.limits.Path).WithHint(hintShorten)
	}
	depth := 0
	for component := range strings.SplitSeq(path, "/") {
		depth++
		if len(component) > t.limits.Name {
			return tooLarge("archive-name-too-long", "the name %q has %d bytes, %d are allowed", show(component), len(component), t.limits.Name).WithHint(hintShorten)
		}
	}
	if depth > t.limits.Depth {
		return tooLarge("archive-path-too-deep", "the path %q is %d folders deep, %d are allowed", show(path), depth, t.limits.Depth).WithHint(hintShorten)
	}
	return nil
}

// put adds one node; a folder may come again.
func (t *tree) put(path string, folder bool) (added bool, err error) {
	key := fold(path)
	old, taken := t.nodes[key]
	switch {
	case !taken:
	case old.path != path:
		return false, invalid("archive-case-clash", "%q and %q differ in case only", show(old.path), show(path)).
			WithHint("rename one of them: they are one file on many systems")
	case old.folder && folder:
		return false, nil
	case old.folder != folder:
		return false, invalid("archive-file-as-folder", "%q is both a file and a folder", show(path)).WithHint(hintRepack)
	default:
		return false, invalid("archive-duplicate", "%q is in the archive twice", show(path)).WithHint(hintRepack)
	}
	if len(t.nodes) >= t.limits.Entries {
		return false, tooLarge("archive-too-many-entries", "the archive has more than %d files and folders", t.limits.Entries).
			WithHint("leave out dependencies and generated files (.kilnignore); the build installs dependencies")
	}
	t.nodes[key] = node{path: path, folder: folder}
	if folder {
		t.folders++
	} else {
		t.files++
	}
	return true, nil
}

// fold maps names that a case-insensitive file system takes for one to one:
// each rune to the smallest of those that Unicode's simple folding joins.
func fold(path string) string {
	return strings.Map(func(r rune) rune {
		if r < utf8.RuneSelf {
			if 'a' <= r && r <= 'z' {
				return r - 'a' + 'A'
			}
			return r
		}
		least := r
		for next := unicode.SimpleFold(r); next != r; next = unicode.SimpleFold(next) {
			least = min(least, next)
		}
		return least
	}, path)
}

// show shortens a name for a message.
func show(name string) string {
	const most = 80
	if len(name) <= most {
		return name
	}
	return name[:most/2] + "…" + name[len(name)-most/2:]
}

// invalid is a shorthand that keeps the tables above readable.
func invalid(code, format string, args ...any) *orchestrator.Error {
	return orchestrator.Errorf(orchestrator.ErrInvalid, code, format, args...)
}

func tooLarge(code, format string, args ...any) *orchestrator.Error {
	return orchestrator.Errorf(orchestrator.ErrTooLarge, code, format, args...)
}
