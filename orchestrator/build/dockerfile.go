package build

import (
	"bytes"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// reference is a place in a Dockerfile that names an image which must be there
// before the build: FROM, COPY --from or RUN --mount=…,from=.
type reference struct {
	image      string // with build arguments filled in
	start, end int    // of the text that names it
}

// references finds the images that a Dockerfile needs. Left out are stages of
// its own, scratch, and names with arguments whose values are not known here;
// those are the builder's to find. args are the build arguments.
//
// It reads as much of the syntax as that takes, and accepts what is wrong: the
// builder says so better.
func references(dockerfile []byte, args map[string]string) []reference {
	var found []reference
	stages := map[string]bool{"scratch": true}
	known := map[string]string{} // arguments declared before the first FROM
	number := 0                  // of stages so far
	for _, instruction := range instructions(dockerfile) {
		name, words := strings.ToUpper(instruction[0].text), instruction[1:]
		switch name {
		case "ARG":
			if number == 0 {
				declare(known, words, args)
			}
		case "FROM":
			flags := slices.IndexFunc(words, func(w word) bool { return !strings.HasPrefix(w.text, "--") })
			if flags < 0 {
				continue
			}
			words = words[flags:]
			image, ok := expand(words[0].text, known)
			if ok && !stages[strings.ToLower(image)] {
				found = append(found, reference{image, words[0].start, words[0].start + len(words[0].text)})
			}
			if len(words) > 2 && strings.EqualFold(words[1].text, "AS") {
				stages[strings.ToLower(words[2].text)] = true
			}
			stages[strconv.Itoa(number)] = true
			number++
		case "COPY", "ADD", "RUN":
			found = append(found, sources(words, stages)...)
		}
	}
	return found
}

// fromFlag matches the flags that name an image: --from=X, --mount=…,from=X.
var fromFlag = regexp.MustCompile(`^--(?:from=|mount=(?:.*,)?from=)([^,]+)`)

// sources finds the images in the flags of an instruction.
func sources(words []word, stages map[string]bool) []reference {
	var found []reference
	for _, w := range words {
		if !strings.HasPrefix(w.text, "--") {
			break
		}
		at := fromFlag.FindStringSubmatchIndex(w.text)
		if at == nil {
			continue
		}
		image := strings.Trim(w.text[at[2]:at[3]], `"'`)
		if stages[strings.ToLower(image)] || strings.Contains(image, "$") {
			continue
		}
		found = append(found, reference{image, w.start + at[2], w.start + at[3]})
	}
	return found
}

// declare reads the words of an ARG instruction.
func declare(known map[string]string, words []word, args map[string]string) {
	for _, w := range words {
		name, value, given := strings.Cut(w.text, "=")
		if override, ok := args[name]; ok {
			known[name] = override
			continue
		}
		if value, ok := expand(strings.Trim(value, `"'`), known); given && ok {
			known[name] = value
		}
	}
}

// variable matches $NAME, ${NAME}, ${NAME:-default} and ${NAME:+other}.
var variable = regexp.MustCompile(`\$(?:(\w+)|\{(\w+)(?:(:?[-+])([^}$]*))?\})`)

// expand fills in arguments; ok is false when one is not known.
func expand(text string, known map[string]string) (_ string, ok bool) {
	ok = true
	expanded := variable.ReplaceAllStringFunc(text, func(match string) string {
		parts := variable.FindStringSubmatch(match)
		value, declared := known[parts[1]+parts[2]]
		set := declared && (value != "" || !strings.HasPrefix(parts[3], ":"))
		switch {
		case strings.HasSuffix(parts[3], "-") && !set:
			return parts[4]
		case strings.HasSuffix(parts[3], "+") && set:
			return parts[4]
		case strings.HasSuffix(parts[3], "+"):
			return ""
		case !declared:
			ok = false
		}
		return value
	})
	return expanded, ok && expanded != "" && !strings.Contains(expanded, "$")
}

// rewrite replaces references by other images. by is given each image and
// returns what to write instead.
func rewrite(dockerfile []byte, refs []reference, by map[string]string) []byte {
	out := slices.Clone(dockerfile)
	for _, r := range slices.Backward(refs) {
		if to := by[r.image]; to != "" && to != r.image {
			out = slices.Replace(out, r.start, r.end, []byte(to)...)
		}
	}
	return out
}

// directive matches a parser directive, which only the first lines can be.
var directive = regexp.MustCompile(`^#\s*([A-Za-z]+)\s*=\s*(\S+)\s*$`)

// withoutSyntax returns a Dockerfile without the line that asks for another
// frontend ("# syntax="), and which that is; empty when there is no such line.
// Line numbers stay as they are unless other directives follow, which have to
// come first.
func withoutSyntax(dockerfile []byte) (plain []byte, frontend string) {
	for at := 0; at < len(dockerfile); {
		line, next := lineAt(dockerfile, at)
		match := directive.FindStringSubmatch(strings.TrimSpace(line))
		if match == nil {
			break
		}
		if !strings.EqualFold(match[1], "syntax") {
			at = next
			continue
		}
		instead := "#\n"
		if following, _ := lineAt(dockerfile, next); directive.MatchString(strings.TrimSpace(following)) {
			instead = ""
		}
		return slices.Concat(dockerfile[:at], []byte(instead), dockerfile[next:]), match[2]
	}
	return dockerfile, ""
}

// word is a word of an instruction and where it stands.
type word struct {
	text  string
	start int
}

// heredoc matches the beginning of a here-document of RUN, COPY or ADD.
var heredoc = regexp.MustCompile(`<<-?\s*["']?(\w+)["']?`)

// instructions splits a Dockerfile into the words of its instructions. Comments
// are left out and continued lines joined; the text of here-documents is not
// looked into.
func instructions(dockerfile []byte) [][]word {
	var list [][]word
	escape := escapeOf(dockerfile)
	var open []word // an instruction that goes on
	continued := false
	for at := 0; at < len(dockerfile); {
		line, next := lineAt(dockerfile, at)
		start := at
		at = next
		text := strings.TrimRight(line, " \t\r\n")
		trimmed := strings.TrimLeft(text, " \t")
		if strings.HasPrefix(trimmed, "#") || trimmed == "" && !continued {
			continue
		}
		body, goesOn := strings.CutSuffix(text, escape)
		open = append(open, split(body, start)...)
		if continued = goesOn; goesOn || len(open) == 0 {
			continue
		}
		at = skipHeredocs(dockerfile, at, open)
		list = append(list, open)
		open = nil
	}
	if len(open) > 0 {
		list = append(list, open)
	}
	return list
}

// skipHeredocs returns where the here-documents of an instruction end.
func skipHeredocs(dockerfile []byte, at int, instruction []word) int {
	switch strings.ToUpper(instruction[0].text) {
	case "RUN", "COPY", "ADD":
	default:
		return at
	}
	for _, w := range instruction[1:] {
		for _, match := range heredoc.FindAllStringSubmatch(w.text, -1) {
			for end := false; at < len(dockerfile) && !end; {
				var line string
				line, at = lineAt(dockerfile, at)
				end = strings.TrimSpace(line) == match[1]
			}
		}
	}
	return at
}

// escapeOf returns the character that continues a line.
func escapeOf(dockerfile []byte) string {
	for at := 0; at < len(dockerfile); {
		line, next := lineAt(dockerfile, at)
		match := directive.FindStringSubmatch(strings.TrimSpace(line))
		switch {
		case match == nil:
			return `\`
		case strings.EqualFold(match[1], "escape"):
			return match[2]
		}
		at = next
	}
	return `\`
}

// lineAt returns the line that begins at a position, with its end, and where
// the next one begins.
func lineAt(text []byte, at int) (line string, next int) {
	next = len(text)
	if n := bytes.IndexByte(text[at:], '\n'); n >= 0 {
		next = at + n + 1
	}
	return string(text[at:next]), next
}

// split cuts a line at blanks; offset is where it stands in the file.
func split(line string, offset int) []word {
	var words []word
	for start := 0; start < len(line); {
		if line[start] == ' ' || line[start] == '\t' {
			start++
			continue
		}
		end := start
		for end < len(line) && line[end] != ' ' && line[end] != '\t' {
			end++
		}
		words = append(words, word{line[start:end], offset + start})
		start = end
	}
	return words
}
