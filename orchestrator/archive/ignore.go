package archive

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"path"
	"strings"

	"github.com/moby/patternmatcher"
)

// IgnoreFile is the file, at the root of a folder, that names what is left out.
const IgnoreFile = ".kilnignore"

// maxIgnore bounds the ignore file; longer ones are a mistake.
const maxIgnore = 64 << 10

// vcs are the version control folders, which never belong to a function. (A
// .git file stands in for the folder in worktrees and submodules.)
var vcs = []string{".git", ".hg", ".svn"}

// Sources returns fsys without what does not belong to a function: version
// control folders at any depth, what IgnoreFile matches, and IgnoreFile itself.
// Nothing else is left out by default, not even node_modules.
//
// The patterns are those of .gitignore: one a line, '#' comments, '*', '?',
// '[a-z]' and '**', a pattern without a slash (but for a trailing one) matches
// at any depth, one with a slash from the root, a trailing slash matches
// folders only, '!' takes back. The last line that matches decides. What is in
// a folder that is left out is not looked at and cannot be taken back; unlike
// git, taking back a folder takes back what is in it.
func Sources(fsys fs.FS) (fs.FS, error) {
	rules, err := readIgnore(fsys)
	if err != nil {
		return nil, err
	}
	return sources{fsys, rules}, nil
}

// sources hides what the rules match.
type sources struct {
	fs.FS
	rules []rule
}

// ReadDir lists a folder without the hidden. Open is not filtered: a walk never
// gets to what ReadDir does not name.
func (s sources) ReadDir(name string) ([]fs.DirEntry, error) {
	entries, err := fs.ReadDir(s.FS, name)
	if err != nil {
		return nil, err
	}
	kept := entries[:0]
	for _, e := range entries {
		hidden, err := s.hides(path.Join(name, e.Name()), e.IsDir())
		if err != nil {
			return nil, err
		}
		if !hidden {
			kept = append(kept, e)
		}
	}
	return kept, nil
}

func (s sources) hides(name string, folder bool) (bool, error) {
	base := path.Base(name)
	for _, v := range vcs {
		if base == v {
			return true, nil
		}
	}
	if name == IgnoreFile {
		return true, nil
	}
	hidden := false
	for _, r := range s.rules {
		match, err := r.matches(name, folder)
		if err != nil {
			return false, err
		}
		if match {
			hidden = !r.keep
		}
	}
	return hidden, nil
}

// rule is one line of an ignore file.
type rule struct {
	matcher *patternmatcher.PatternMatcher
	keep    bool // the line began with '!'
	folders bool // the line ended with '/'
}

func (r rule) matches(name string, folder bool) (bool, error) {
	if r.folders && !folder {
		name = path.Dir(name) // the file itself cannot match, but what it is in can
		if name == "." {
			return false, nil
		}
	}
	return r.matcher.MatchesOrParentMatches(name)
}

func readIgnore(fsys fs.FS) ([]rule, error) {
	f, err := fsys.Open(IgnoreFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, invalid("kilnignore-unreadable", "%s cannot be read: %w", IgnoreFile, err)
	}
	defer f.Close() // read only
	data, err := io.ReadAll(io.LimitReader(f, maxIgnore+1))
	if err != nil {
		return nil, invalid("kilnignore-unreadable", "%s cannot be read: %w", IgnoreFile, err)
	}
	if len(data) > maxIgnore {
		return nil, tooLarge("kilnignore-too-large", "%s has more than %d bytes", IgnoreFile, maxIgnore).WithHint("use patterns instead of names")
	}
	var rules []rule
	number := 0
	for line := range bytes.Lines(data) {
		number++
		r, err := parseRule(string(line))
		if err != nil {
			return nil, invalid("kilnignore-invalid", "%s:%d: %w", IgnoreFile, number, err).WithHint("write patterns as in .gitignore, one a line")
		}
		if r.matcher != nil {
			rules = append(rules, r)
		}
	}
	return rules, nil
}

// parseRule reads one line; a rule without a matcher says nothing.
func parseRule(line string) (rule, error) {
	line = strings.TrimSpace(line)
	if line == "" || line[0] == '#' {
		return rule{}, nil
	}
	var r rule
	if line[0] == '!' {
		r.keep, line = true, strings.TrimSpace(line[1:])
	}
	line = strings.TrimPrefix(line, "./")
	if pattern := strings.TrimRight(line, "/"); pattern != line {
		r.folders, line = true, pattern
	}
	if line == "" {
		return rule{}, errors.New("the pattern is empty")
	}
	if anchored := strings.TrimPrefix(line, "/"); anchored != line {
		line = anchored
	} else if !strings.Contains(line, "/") {
		line = "**/" + strings.TrimPrefix(line, `\`) // "\#" and "\!" name files
	}
	matcher, err := patternmatcher.New([]string{line})
	if err != nil {
		return rule{}, err
	}
	if _, err := matcher.MatchesOrParentMatches("x"); err != nil { // patterns are compiled on first use
		return rule{}, err
	}
	r.matcher = matcher
	return r, nil
}
