package archive_test

import (
	"errors"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/kilnfaas/kiln/orchestrator"
)

// FuzzNames: two files of whatever names are written as what they are called, or
// not at all. What a name may be is said here once more, in other words than the
// package's.
func FuzzNames(f *testing.F) {
	for _, names := range [][2]string{
		{"handler.py", "a/b"}, {"./a", "a"}, {"a", "A"}, {"k", "\u212a"}, {"a/b", "a"}, {"../x", "a"}, {"a/../x", "b"}, {"a/..", "b"}, {"/etc/x", "a"}, {"//x", "a"}, {"C:/x", "a"},
		{`..\x`, "a"}, {"a//b", "a/./b"}, {"a\nb", "a\x1b[2J"}, {"caf\xe9", "..\xc0\xafx"}, {"a\u009bb", "a\x7f"}, {"\u00e4/x", "\u00c4/y"}, {strings.Repeat("n", 41), "a"},
		{strings.Repeat("d/", 6) + "x", "a"}, {strings.Repeat("abcdefghijklmnop/", 6) + "f", "a"}, {"./../x", "././x"}, {"a\x00b", "b"}, {"", "."},
	} {
		f.Add(names[0], names[1])
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		if strings.HasSuffix(a, "/") || strings.HasSuffix(b, "/") || len(a)+len(b) > 1<<12 {
			return // folders; and what the tests' own writers do not write
		}
		got, _, err := unpack(t, makeZip(t, entry{name: a, data: "a"}, entry{name: b, data: "b"}), small())
		for name := range got {
			if !filepath.IsLocal(name) || path.Clean(name) != name || !utf8.ValidString(name) || strings.ContainsFunc(name, unicode.IsControl) || strings.Contains(name, `\`) {
				t.Errorf("%q was written for %q and %q", name, a, b)
			}
			if len(name) > small().Path || strings.Count(name, "/") >= small().Depth || len(path.Base(name)) > small().Name {
				t.Errorf("%q is over the limits", name)
			}
		}
		if err != nil {
			var classed *orchestrator.Error
			if !errors.As(err, &classed) || !errors.Is(err, orchestrator.ErrInvalid) && !errors.Is(err, orchestrator.ErrTooLarge) {
				t.Fatalf("%q and %q: class of %v", a, b, err)
			}
			return
		}
		first, second := trimDots(a), trimDots(b)
		if strings.EqualFold(first, second) {
			t.Errorf("%q and %q were both taken", a, b)
		}
		if got[first] != "644 a" || got[second] != "644 b" {
			t.Errorf("%q and %q became %v", a, b, got)
		}
		if strings.Contains(a, "..") && strings.Contains("/"+a+"/", "/../") || path.IsAbs(a) || drive.MatchString(a) {
			t.Errorf("%q was taken", a)
		}
	})
}

// drive begins an absolute path of Windows.
var drive = regexp.MustCompile(`^[A-Za-z]:/`)

// trimDots takes leading "./" off, which is all that may be written otherwise.
func trimDots(name string) string {
	for strings.HasPrefix(name, "./") {
		name = name[2:]
	}
	return name
}
